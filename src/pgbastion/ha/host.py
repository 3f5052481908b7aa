"""The state machine's host: feeds the log to ``apply`` and keeps what is volatile.

It owns the replicated state, the newest report of every node, and what a Raft
leader knows of leases and ages. It decides nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pgbastion.clock import boottime_ms, ms_up
from pgbastion.control.apply import Applied, Outcome, apply
from pgbastion.control.lease import granted_ms
from pgbastion.errors import ConsensusError
from pgbastion.ha.messages import Kind
from pgbastion.ha.ports import Cutter, Fencer, RaftEngine
from pgbastion.ha.survey import Surveyor
from pgbastion.model.cluster import ClusterState, Member, decode_state, encode_state
from pgbastion.model.commands import Command, encode_command
from pgbastion.model.ids import Epoch, MemberId, NodeId
from pgbastion.model.report import NodeReport, decode_report, encode_report, lasting
from pgbastion.model.views import AgeAnswer, ClusterView, RaftView, Received
from pgbastion.observe.logging import get_logger

OUTCOMES_MAX: Final = 1_024
COMPACT_EVERY: Final = 2_000
"""Entries after which the log before the state may go."""
CAUGHT_UP_ENTRIES: Final = 64

log = get_logger("cluster")


class Host:
    """Replicated state and volatile knowledge of one node.

    Args:
        engine: The consensus engine.
        node: This node's name.
        cutter: Answers a survey for this node.
        on_change: Called after anything changed that a decision may depend on.
    """

    def __init__(
        self,
        engine: RaftEngine,
        *,
        node: NodeId,
        cutter: Cutter,
        on_change: Callable[[], None],
        cut_timeout_ms: int,
    ) -> None:
        self.state = ClusterState()
        self._engine = engine
        self._on_change = on_change
        self._reports: dict[NodeId, Received] = {}
        self._outcomes: OrderedDict[int, Outcome] = OrderedDict()
        self._compacted = 0
        self._closed_epoch = Epoch(0)
        self._ages: tuple[AgeAnswer, ...] = ()
        self._ages_term = 0
        self._ages_asked_ms = 0
        self._assigned_seen: tuple[Epoch, int] = (Epoch(0), 0)
        self._released_seen: tuple[Epoch, int] = (Epoch(0), 0)
        self._begun_seen: tuple[str, int] = ("", 0)
        self._log_end: int | None = None
        """What the log had when its first entry was applied here."""
        self._opened_seen: tuple[Epoch, int] = (Epoch(0), 0)
        self._policy_seen: tuple[tuple[object, ...], int] = ((), 0)
        self.placements_seen_ms: Mapping[int, int] = {}
        self.survey = Surveyor(
            engine,
            node=node,
            cutter=cutter,
            member=self._named,
            on_change=on_change,
            cut_timeout_ms=cut_timeout_ms,
        )
        self.accepting_epoch = Epoch(0)
        self.accepting_server_ms = 0
        self.fencer: Fencer | None = None
        """What switches nodes off; None: nothing does."""

    # The log

    def on_committed(self, index: int, proposal_id: bytes, data: bytes) -> None:
        """Apply one entry; an empty one is the leader's own or a member change."""
        if self._log_end is None:
            self._log_end = self._engine.status().last_index
        if data:
            applied = apply(self.state, index, proposal_id.hex(), data)
            self._note(index, applied)
            self.state = applied.state
        else:
            self.state = replace(self.state, index=max(index, self.state.index))
        self._note_seen()
        self._tell_lease()
        self._note_policy()
        if index == self._log_end:
            log.info("log_read", index=index, epoch=self.state.epoch)
        # The engine answers a renewal only when its state is applied that far, so
        # the new holder has to be known to it first.
        self._engine.applied(index)
        if index - self._compacted >= COMPACT_EVERY:
            self.compact()
        self._on_change()

    def on_members(self) -> None:
        """Make a state that names every member, where the log before it is gone.

        A joiner can take no other one in the log's place.
        """
        if self._compacted:
            self.compact()

    def compact(self) -> int:
        """Let the log before the state go; return up to which index."""
        self._compacted = self.state.index
        self._engine.compact(self.state.index, encode_state(self.state))
        return self.state.index

    def on_snapshot(self, index: int, data: bytes) -> None:
        """Take the state that the leader sent instead of entries.

        Raises:
            ConsensusError: It is no state of a version that this release knows.
        """
        state = decode_state(data)
        if state is None:
            raise ConsensusError("the snapshot is not a state that this release knows")
        self.state = state
        self._compacted = index
        self._note_seen()
        self._tell_lease()
        self._note_policy()
        self._engine.applied(index)
        self._on_change()

    def _note(self, index: int, applied: Applied) -> None:
        self._outcomes[index] = applied.outcome
        while len(self._outcomes) > OUTCOMES_MAX:
            self._outcomes.popitem(last=False)
        kind = applied.command.kind if applied.command else "unknown"
        # A daemon that starts reads a thousand entries again, which were told before.
        told_before = index <= (self._log_end or 0)
        quiet = told_before or applied.outcome is not Outcome.OK
        level = log.debug if quiet else log.info
        level(
            "applied",
            index=index,
            command=kind,
            outcome=applied.outcome,
            detail=applied.detail,
        )

    def _note_seen(self) -> None:
        """Keep when this node first saw how far epoch, order and placements have come.

        A state that came as a whole counts as seen now, as entries do when they are
        read again.
        """
        now_ms, held, order = boottime_ms(), self.state.assignment, self.state.order
        if held is not None and held.epoch != self._assigned_seen[0]:
            self._assigned_seen = (held.epoch, now_ms)
        if held is not None and held.released and held.epoch != self._released_seen[0]:
            self._released_seen = (held.epoch, now_ms)
        if held is not None and held.opened and held.epoch != self._opened_seen[0]:
            self._opened_seen = (held.epoch, now_ms)
        if order and order.begun and order.order_id != self._begun_seen[0]:
            self._begun_seen = (order.order_id, now_ms)
        seen = self.placements_seen_ms
        if seen or self.state.placements:
            serials = [p.serial for p in self.state.placements]
            self.placements_seen_ms = {s: seen.get(s, now_ms) for s in serials}

    def _note_policy(self) -> None:
        """Keep when this node's engine first granted by this policy.

        Only after it was told: until then it may answer with the lease of before.
        """
        now = (self.state.policy, self.state.shortening)
        if now != self._policy_seen[0]:
            self._policy_seen = (now, boottime_ms())

    def _tell_lease(self) -> None:
        held = self.state.assignment
        may_renew = (
            held is not None
            and held.live
            and held.incarnation is not None
            and held.epoch > self._closed_epoch
        )
        lease_ms = granted_ms(self.state)
        if may_renew and held and lease_ms and held.incarnation is not None:
            self._engine.lease(held.member_id, held.epoch, held.incarnation, lease_ms)
        else:
            self._engine.lease(0, 0, 0, 0)

    async def propose(self, command: Command, *, timeout_s: float) -> Outcome | None:
        """Propose a command and return what became of it; None: nobody knows."""
        index = await self._engine.propose(encode_command(command), timeout_s)
        return None if index is None else self._outcomes.get(index)

    # The lease on the leader

    def close_lease(self, epoch: Epoch) -> int:
        """Answer nothing of this epoch any more; return the last answer's instant.

        Milliseconds; 0: this leader never answered. A caller that finds it newer
        than what it decided on calls :meth:`reopen_lease` and decides again.
        """
        self._closed_epoch = max(self._closed_epoch, epoch)
        return ms_up(self._engine.lease(0, 0, 0, 0))

    def on_leader(self) -> None:
        """Open what an earlier leadership closed: another may have granted since."""
        self.reopen_lease()

    def reopen_lease(self) -> None:
        """Take a closing back that nobody was told of."""
        self._closed_epoch = Epoch(0)
        self._tell_lease()

    async def ask_ages(self, *, timeout_s: float) -> None:
        """Ask every voter when it last confirmed a leader of an older term."""
        self._ages_asked_ms = boottime_ms()
        term = self.raft().term
        answers = await self._engine.ages(timeout_s)
        if self.raft().term != term:
            return
        # An earlier answer of a voter bounds its confirmations just as well.
        kept = {a.member_id: a for a in self._ages} if self._ages_term == term else {}
        kept.update({a.member_id: a for a in answers})
        self._ages, self._ages_term = tuple(kept.values()), term
        self._on_change()

    @property
    def begun_ms(self) -> int:
        """When this node first saw that the newest begun order was begun."""
        return self._begun_seen[1]

    @property
    def opened_ms(self) -> int:
        """When this node first saw that the current epoch was opened; 0: it is not."""
        epoch, at_ms = self._opened_seen
        return at_ms if epoch == self.state.epoch else 0

    # Reports

    def broadcast(self, report: NodeReport) -> None:
        """Tell all nodes, this one included, what this node is doing."""
        self.on_report(report)
        self._engine.broadcast(Kind.REPORT, encode_report(report))

    def on_report_bytes(self, member_id: MemberId, data: bytes) -> None:
        """Take a report from the wire; one under another node's name is dropped."""
        report = decode_report(data)
        member = self.state.member(member_id)
        if report is None or member is None or member.name != report.node:
            log.debug("report_dropped", member=member_id)
            return
        self.on_report(report)

    def on_report(self, report: NodeReport) -> None:
        """Keep a node's newest report."""
        old = self._reports.get(report.node)
        self._reports[report.node] = Received(report=report, at_ms=boottime_ms())
        if report.accepting and report.epoch >= self.accepting_epoch:
            self.note_accepting(report.epoch, report.server_ms)
        if old is None or lasting(old.report) != lasting(report):
            self._on_change()

    def note_accepting(self, epoch: Epoch, server_ms: int) -> None:
        """Note that this server, by its start, takes the clients of ``epoch``."""
        self.accepting_epoch, self.accepting_server_ms = epoch, server_ms

    @property
    def reports(self) -> Mapping[NodeId, Received]:
        """The newest report of each node that is a member."""
        names = {m.name for m in self.state.members}
        return {name: r for name, r in self._reports.items() if name in names}

    def _named(self, node: NodeId) -> Member | None:
        return self.state.named(node)

    # Views

    def raft(self) -> RaftView:
        """Return what the engine says about itself."""
        status = self._engine.status()
        last = status.last_index
        near = tuple(
            MemberId(m)
            for m, peer in status.peers.items()
            if last - peer.matched <= CAUGHT_UP_ENTRIES
        )
        return RaftView(
            member_id=MemberId(status.member_id),
            term=status.term,
            leader=MemberId(status.leader),
            is_leader=status.role == "leader",
            own_entry_applied=status.own_entry_applied,
            elected_ms=ms_up(status.elected_ns),
            last_answer_ms=ms_up(status.last_answer_ns),
            voters=tuple(MemberId(m) for m in status.voters),
            learners=tuple(MemberId(m) for m in status.learners),
            configurations=tuple(
                tuple(MemberId(m) for m in voters) for voters in status.configurations
            ),
            change_pending=status.pending_change,
            caught_up=near,
        )

    def cluster_view(
        self, *, at: str, lag_max_bytes: int, report_ms: int
    ) -> ClusterView:
        """Return the picture that the leader decides on."""
        raft = self.raft()
        return ClusterView(
            now_ms=boottime_ms(),
            state=self.state,
            raft=raft,
            reports=self.reports,
            ages=self._ages if self._ages_term == raft.term else (),
            ages_asked_ms=self._ages_asked_ms,
            assigned_seen_ms=self._assigned_seen[1],
            released_seen_ms=self._released_seen[1],
            policy_seen_ms=self._policy_seen[1],
            survey=self.survey.view(),
            fencing=self.fencer.view() if self.fencer is not None else None,
            at=at,
            lag_max_bytes=lag_max_bytes,
            report_ms=report_ms,
        )

    async def stop(self) -> None:
        """End questions that are under way, and what they have begun."""
        if self.fencer is not None:
            await self.fencer.close()
        await self.survey.stop()
