"""What a node tells all others about itself, and when."""

from collections.abc import Callable
from dataclasses import replace

from pgbastion.control.orders import is_ordered
from pgbastion.ha.client_admission import ClientAdmission
from pgbastion.ha.host import Host
from pgbastion.ha.observer import Observer
from pgbastion.ha.outages import OutageMeter
from pgbastion.ha.ports import Addresses
from pgbastion.model.actions import Decision
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.model.report import (
    DETAIL_CHARS_MAX,
    NodeReport,
    PostgresState,
    lasting,
)
from pgbastion.model.views import NodeView


class Reporter:
    """Makes this node's reports and sends them: at the probes' pace, or at once."""

    def __init__(
        self,
        *,
        host: Host,
        observer: Observer | None,
        outages: OutageMeter,
        addresses: Addresses | None,
        node: NodeId,
        version: str,
        probe_ms: int,
    ) -> None:
        self._host = host
        self._observer = observer
        self._outages = outages
        self._addresses = addresses
        self._node = node
        self._version = version
        self.probe_ms = probe_ms
        self._admission = ClientAdmission()
        self._reported: NodeReport | None = None
        self._reported_ms = 0
        self.holding = ""
        """The order for which this node's proxy lets new clients wait."""
        self.draining = False
        """It is being taken out for maintenance."""
        self.leaving = False
        """Its server is about to end cleanly."""
        self.file_profile: Profile | None = None
        """What this node's file says; the cluster's own is what counts."""
        self.unwatched: Callable[[], tuple[NodeId, ...]] = tuple
        """Returns whose server answers as a primary without a daemon."""

    @property
    def due_ms(self) -> int:
        """When the next report is due, whatever it says."""
        return self._reported_ms + self.probe_ms

    def tell(self, view: NodeView, decision: Decision, now_ms: int) -> None:
        """Send a report if one is due, or if a decision elsewhere may depend on it."""
        report = self._report(view, decision)
        due = now_ms >= self.due_ms
        if report == self._reported and not due:
            return
        urgent = self._reported is None or _essence(report) != _essence(self._reported)
        if is_ordered(view.state) and self._reported is not None:
            # How far it has come decides whether it can take the role.
            urgent = urgent or report.wal_end != self._reported.wal_end
        if not (urgent or due):
            return
        self._reported, self._reported_ms = report, now_ms
        self._host.broadcast(report)

    def _witness_report(self, view: NodeView, decision: Decision) -> NodeReport:
        return NodeReport(
            node=self._node,
            version=self._version,
            state=PostgresState.NONE,
            reason=decision.reason,
            detail=decision.detail[:DETAIL_CHARS_MAX],
            unwatched_primaries=self.unwatched(),
            holding=self.holding,
            outage=self._outages.newest,
            policy_revision=view.policy_revision,
            unpaced=view.unpaced,
            file_profile=self.file_profile,
        )

    def _report(self, view: NodeView, decision: Decision) -> NodeReport:
        observer = self._observer
        if observer is None:
            return self._witness_report(view, decision)
        postgres, data = view.postgres, view.data
        server = observer.server
        primary = postgres.running and postgres.in_recovery is False
        promoted = primary and data.promoted_epoch == view.state.epoch != 0
        return NodeReport(
            node=self._node,
            version=self._version,
            state=_state(view),
            reason=decision.reason,
            detail=(decision.detail or observer.silence)[:DETAIL_CHARS_MAX],
            data_id=data.data_id,
            system_identifier=data.system_identifier,
            wal_end=postgres.wal_end,
            earlier_end=postgres.earlier_end,
            replay_lsn=server.replay_lsn if server and postgres.running else None,
            epoch=data.promoted_epoch if primary else data.epoch,
            promoted=promoted,
            accepting=promoted and self._admission.accepts(view),
            server_ms=postgres.started_ms if postgres.running else 0,
            history=observer.history if primary else (),
            checkpointed=postgres.timeline if postgres.checkpointed else None,
            timeline=data.timeline,
            adopted=postgres.adopted,
            pending_restart=server.pending_restart if server else (),
            following=postgres.following,
            streaming=postgres.streaming,
            stream_failure=server.stream_failure if server else "",
            replication=postgres.replication if primary else (),
            progress=view.job,
            replay_paused=bool(server and postgres.running and server.replay_paused),
            unable=view.lease.unable,
            watchdog=view.lease.watchdog,
            flaws=server.flaws if server and postgres.running else (),
            answers=observer.answers,
            trouble=observer.trouble,
            unwatched_primaries=self.unwatched(),
            addresses=self._addresses.report() if self._addresses else None,
            outage=self._outages.newest,
            holding=self.holding,
            draining=self.draining,
            leaving=self.leaving,
            policy_revision=view.policy_revision,
            unpaced=view.unpaced,
            file_profile=self.file_profile,
            vitals=server.vitals if server and postgres.running else None,
            settings=server.settings if server and postgres.running else None,
        )


def _state(view: NodeView) -> PostgresState:
    if view.job is not None:
        return PostgresState.COPYING
    if view.postgres.running:
        if view.postgres.in_recovery is None:
            return PostgresState.STARTING
        standby = view.postgres.in_recovery
        return PostgresState.STANDBY if standby else PostgresState.PRIMARY
    if view.data.problem is not None:
        return PostgresState.FAILED
    return PostgresState.EMPTY if view.data.empty else PostgresState.STOPPED


def _essence(report: NodeReport) -> tuple[object, ...]:
    """Return what others have to hear at once; a reason alone can wait."""
    return lasting(replace(report, reason=""))
