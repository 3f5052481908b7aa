"""What a node sees of itself in one instant: the picture that it decides on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pgbastion.clock import NS_PER_MS, boottime_ns
from pgbastion.control.lease import why_too_short
from pgbastion.ha.executor import Executor
from pgbastion.ha.host import Host
from pgbastion.ha.observer import Observer
from pgbastion.ha.ports import Addresses, Guard, RaftEngine
from pgbastion.model.cluster import Member
from pgbastion.model.commands import Declare
from pgbastion.model.ids import DataId, Epoch, Incarnation, MemberId
from pgbastion.model.views import (
    DataView,
    LeaseView,
    Limits,
    NodeView,
    PostgresView,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWords:
    """What the shared page says; instants in nanoseconds."""

    epoch: int = 0
    expiry_ns: int = 0
    released_epoch: int = 0
    evidence_ns: int = 0
    pause_revision: int = 0
    paused: bool = False
    policy_revision: int = 0


class Sight:
    """Puts together what engine, guard, observer and executor know.

    Args:
        own: This node's member record; ``member_id`` and ``data_id`` are filled in.
        words: Reads the shared page.
        guard: The postmaster's parent; None: a witness.
        observer: What is known of the server; None: a witness.
        addresses: The virtual addresses; None: there are none.
    """

    def __init__(
        self,
        *,
        host: Host,
        engine: RaftEngine,
        guard: Guard | None,
        observer: Observer | None,
        executor: Executor,
        own: Member,
        incarnation: Incarnation,
        limits: Limits,
        words: Callable[[], LeaseWords],
        addresses: Addresses | None = None,
    ) -> None:
        self._host = host
        self._engine = engine
        self._guard = guard
        self._observer = observer
        self._executor = executor
        self._incarnation = incarnation
        self._words = words
        self._addresses = addresses
        self.own = own
        self.limits = limits
        self.policy_revision = 0
        """The policy whose timings this daemon goes by; -1: it knows none yet."""
        self.unpaced = ""
        """Why this node refuses to go by the cluster's profile."""
        self.woke_ms = 0
        """When this daemon began, or last went on after it had stood still."""
        self.renewing = Epoch(0)
        """The epoch whose lease the engine renews; 0: none."""
        self.lost_data = False
        """Its data is gone for good, by a human's word: it declares none."""

    def look(self, now_ms: int, at: str) -> NodeView:
        """Return the picture of this instant; ``at`` is wall-clock time."""
        observer = self._observer
        raft_id = MemberId(self._engine.status().member_id)
        lease = self._lease_view()
        if observer is None:
            return self._witness_view(now_ms, raft_id, lease)
        state = self._host.state
        words = self._words()
        job = self._executor.job
        return NodeView(
            now_ms=now_ms,
            node=self.own.name,
            member_id=raft_id,
            incarnation=self._incarnation,
            state=state,
            lease=lease,
            data=observer.data_view(),
            postgres=observer.postgres_view(words.evidence_ns // NS_PER_MS),
            reports=self._host.reports,
            limits=self.limits,
            trouble=observer.trouble,
            job=job.name,
            job_failed=job.failed,
            job_failed_ms=job.failed_ms,
            job_took_ms=job.took_ms,
            rejoin=observer.rejoin,
            data_changed=observer.data_changed_epoch == state.epoch != 0,
            prepared=self._executor.prepared,
            begun_ms=self._host.begun_ms,
            opened_ms=self._host.opened_ms,
            ended_at=observer.ended_at,
            checkpointing=self._executor.checkpointing,
            sync_unsettled=self._executor.sync_unsettled,
            silent_since_ms=observer.silent_since_ms(state, self._host.reports),
            addresses_held=self._addresses is not None and self._addresses.may_be_set,
            at=at,
            policy_revision=self.policy_revision,
            unpaced=self.unpaced,
            woke_ms=self.woke_ms,
            declaration=self._declaration(raft_id),
        )

    def _witness_view(
        self, now_ms: int, raft_id: MemberId, lease: LeaseView
    ) -> NodeView:
        return NodeView(
            now_ms=now_ms,
            node=self.own.name,
            member_id=raft_id,
            incarnation=self._incarnation,
            state=self._host.state,
            lease=lease,
            data=DataView(empty=True, ours=False),
            postgres=PostgresView(running=False),
            reports=self._host.reports,
            limits=self.limits,
            witness=True,
            policy_revision=self.policy_revision,
            unpaced=self.unpaced,
            declaration=self._declaration(raft_id),
        )

    def _lease_view(self) -> LeaseView:
        words = self._words()
        facts = self._guard.facts() if self._guard is not None else None
        return LeaseView(
            epoch=Epoch(words.epoch),
            expiry_ms=words.expiry_ns // NS_PER_MS,
            released_epoch=Epoch(words.released_epoch),
            ended_epoch=facts.ended_epoch if facts else Epoch(0),
            armed_epoch=facts.armed_epoch if facts else Epoch(0),
            asked_ms=facts.asked_ns // NS_PER_MS if facts else 0,
            renewing=self.renewing,
            pause_revision=words.pause_revision,
            paused=words.paused,
            policy_revision=words.policy_revision,
            watchdog=facts.watchdog if facts else "off",
            unable=(facts.unable if facts else "")
            or why_too_short(self._host.state, self.limits),
        )

    def _declaration(self, raft_id: MemberId) -> Declare | None:
        known = self._host.state.member(raft_id)
        if known is None:
            return None
        data = self._observer.data if self._observer is not None else None
        own = replace(
            self.own,
            member_id=raft_id,
            joined=True,
            data_id=self._declared_data_id(known),
        )
        identifier = data.system_identifier if data and data.ours else None
        missing = identifier is not None and (
            self._host.state.system_identifier is None
            and self._host.state.founder == raft_id
        )
        if own == known and not missing:
            return None
        return Declare(member=own, system_identifier=identifier)

    def _declared_data_id(self, known: Member) -> DataId | None:
        data = self._observer.data if self._observer is not None else None
        if data is not None and data.ours:
            return data.data_id
        if data is not None and data.empty and self.lost_data:
            return None
        return known.data_id

    def lease_epoch(self) -> int:
        """Return the epoch that the shared page's lease belongs to."""
        return self._words().epoch

    def lease_left_ms(self) -> int:
        """Return how long this node's lease still lasts; 0: it has none."""
        words = self._words()
        held = self._host.state.assignment
        if held is None or words.epoch != held.epoch:
            return 0
        return max((words.expiry_ns - boottime_ns()) // NS_PER_MS, 0)
