"""Where each port of the proxy sends its clients."""

from collections.abc import Mapping
from dataclasses import dataclass

from pgbastion.model.cluster import ClusterState, Member
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.report import NodeReport
from pgbastion.model.views import Received


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingView:
    """What routing is decided on; instants in milliseconds on this node's clock."""

    now_ms: int
    state: ClusterState
    reports: Mapping[NodeId, Received]
    report_max_ms: int
    """How old a standby's report may be."""
    lag_max_bytes: int
    reading: frozenset[NodeId] = frozenset()
    """The standbys that readers are sent to now."""
    fallback: bool = False
    """Whether the primary serves readers while no standby can."""
    accepting_epoch: Epoch
    """The newest epoch whose primary was ever seen to accept clients."""
    accepting_server_ms: int = 0
    """The server that accepted them then, by its start."""
    split: str = ""
    """Who claims the primary role without having it, in words; or nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Where clients are sent, and why nowhere if so."""

    epoch: Epoch
    primary: Member | None
    primary_reason: str
    changing: bool
    """The role is on its way to another node: new clients may wait for it."""
    parking: str
    """The order for which new clients wait while the primary still serves; or none."""
    replicas: tuple[Member, ...]
    replica_reason: str
    draining: tuple[Member, ...] = ()
    """Nodes that are taken out for maintenance: their sessions are to end."""


def decide_routing(view: RoutingView) -> Routing:
    """Send writers to the assigned primary only, readers to standbys that stream."""
    primary, reason = _primary(view)
    order = view.state.order
    begun = order is not None and order.begun and order.epoch == view.state.epoch
    if order is not None and order.is_work:
        # Only the primary's clients have to wait for its restart.
        held = view.state.assignment
        begun = begun and held is not None and held.node == order.target
    replicas = tuple(m for m in view.state.servers if _reads(view, m))
    replica_reason = "" if replicas else "no standby streams within the lag limit"
    if not replicas and view.fallback and primary is not None:
        replicas = (primary,)
        replica_reason += ", so the primary serves reads"
    return Routing(
        epoch=view.state.epoch,
        primary=primary,
        primary_reason=reason,
        # Nobody waits for the end of a split brain: it may take a human.
        changing=primary is None
        and view.state.assignment is not None
        and not view.split,
        parking=order.order_id if order is not None and begun else "",
        replicas=replicas,
        replica_reason=replica_reason,
        draining=tuple(m for m in view.state.servers if _drains(view, m)),
    )


def _primary(view: RoutingView) -> tuple[Member | None, str]:
    held = view.state.assignment
    if held is None:
        return None, "the cluster has no primary yet"
    if view.split:
        return None, view.split
    if held.revoked:
        return (
            None,
            f"the role of {held.node} was revoked, a new primary is being chosen",
        )
    if held.released:
        return (
            None,
            f"node {held.node} released the role, a new primary is being chosen",
        )
    if not held.opened:
        return None, f"node {held.node} is being promoted"
    # The server's synchronous setting is in force only once the primary says so.
    if view.accepting_epoch != held.epoch:
        return None, f"node {held.node} is not ready for clients yet"
    if _runs_anew(view, held.node):
        # It shows commits that nobody else may have (docs/explanation/lease.md).
        return (
            None,
            f"node {held.node} was started again and is not ready for clients yet",
        )
    return view.state.member(held.member_id), ""


def _runs_anew(view: RoutingView, holder: NodeId) -> bool:
    """Tell whether the holder runs another server than the one that took clients."""
    received = view.reports.get(holder)
    server_ms = received.report.server_ms if received is not None else 0
    return server_ms not in (0, view.accepting_server_ms)


def accepts(report: NodeReport, state: ClusterState) -> bool:
    """Tell whether this report opens the current epoch to clients."""
    held = state.assignment
    return (
        held is not None
        and report.node == held.node
        and report.accepting
        and report.epoch == held.epoch
    )


def _reads(view: RoutingView, member: Member) -> bool:
    received = view.reports.get(member.name)
    if received is None or member.noloadbalance:
        return False
    if view.state.fence(member.name) is not None:
        return False
    if view.state.is_held_by(member.member_id):
        return False
    report = received.report
    if view.now_ms - received.at_ms > view.report_max_ms or not report.streaming:
        return False
    if report.draining:
        return False
    # Where it was left out for its lag it has to catch up well below the limit, so
    # that one that is near the limit is not in and out with every report.
    reading = member.name in view.reading
    most_bytes = view.lag_max_bytes if reading else view.lag_max_bytes // 2
    return _lag_bytes(view, report) <= most_bytes


def _drains(view: RoutingView, member: Member) -> bool:
    received = view.reports.get(member.name)
    return received is not None and received.report.draining


def _lag_bytes(view: RoutingView, report: NodeReport) -> int:
    held = view.state.assignment
    primary = view.reports.get(held.node) if held else None
    end = primary.report.wal_end if primary else None
    if end is None or report.replay_lsn is None:
        return 0
    return max(end.lsn - report.replay_lsn, 0)
