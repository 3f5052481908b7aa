"""Prometheus metrics, made from a snapshot at each scrape.

Names follow promtool's conventions: base units, counters end in ``_total``, and every
label has a bounded set of values: roles, members, ports, reasons.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pgbastion.control.lease import granted_ms, longest_lease_policy
from pgbastion.model.cluster import ClusterState, ReplicationMode
from pgbastion.model.reasons import Reason
from pgbastion.model.snapshot import BackendTraffic, NodeRole, NodeSnapshot
from pgbastion.observe.addresses import address_metrics
from pgbastion.observe.gaps import gap_metrics
from pgbastion.observe.patroni_metrics import PatroniMetricsOf
from pgbastion.observe.transport import transport
from pgbastion.observe.vitals import member_vitals

MS_PER_S = 1_000
# Why an epoch after the first is given to a node.
CAUSES: Final = (Reason.LEASE_RAN_OUT, Reason.HOLDER_RELEASED, Reason.VOUCHED_FOR)


class Metrics:
    """Renders snapshots; counts what only a succession of them shows.

    Args:
        patroni_names: Tells whether Patroni's names are wanted beside ours.
    """

    def __init__(self, patroni_names: Callable[[], bool] = lambda: False) -> None:
        self._failovers = FailoverCounts()
        self._patroni_names = patroni_names

    def render(self, snapshot: NodeSnapshot) -> bytes:
        """Return the metrics of one snapshot in Prometheus' text format."""
        self._failovers.take(snapshot.state, fresh=snapshot.view_left_ms > 0)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(MetricsOf(snapshot, self._failovers.by_cause))
        if self._patroni_names():
            registry.register(PatroniMetricsOf(snapshot))
        return generate_latest(registry)


class FailoverCounts:
    """Changes of the primary by cause, since this daemon knows what the others do.

    Every cause counts from 0: what rises from nothing is no increase to Prometheus. A
    daemon that starts does not count what its log held before.
    """

    def __init__(self) -> None:
        self._counted_index = 0
        self._caught_up = False
        self.by_cause: Counter[str] = Counter(dict.fromkeys(CAUSES, 0))

    def take(self, state: ClusterState, *, fresh: bool) -> None:
        """Count what the history has gained since the last call."""
        for change in state.history:
            if change.index <= self._counted_index or change.what != "assigned":
                continue
            self._counted_index = change.index
            # The first primary of a cluster took over from nobody.
            if self._caught_up and change.epoch > 1:
                self.by_cause[change.cause] += 1
        self._caught_up = self._caught_up or fresh


class MetricsOf(Collector):
    """The metrics of one snapshot."""

    def __init__(self, snapshot: NodeSnapshot, failovers: Counter[str]) -> None:
        self._snapshot = snapshot
        self._failovers = failovers

    def collect(self) -> Iterable[Metric]:
        """Yield every metric."""
        yield from self._node()
        yield from self._members()
        yield from member_vitals(self._snapshot)
        yield from self._lease()
        yield from self._cluster()
        yield from self._raft()
        yield from transport(self._snapshot)
        yield from self._proxy()
        yield from gap_metrics(self._snapshot.gaps)
        yield from address_metrics(self._snapshot)

    def _node(self) -> Iterator[Metric]:
        s = self._snapshot
        build = InfoMetricFamily("pgbastion_build", "The release that runs, always 1.")
        build.add_metric([], {"version": s.version, "commit": s.commit})
        yield build
        roles = GaugeMetricFamily(
            "pgbastion_node_role",
            "1 for the role that this node has now, 0 for the others.",
            labels=["role"],
        )
        for role in NodeRole:
            roles.add_metric([role], float(s.role is role))
        yield roles
        yield _gauge(
            "pgbastion_node_fenced",
            "1 while this node is, or just was, a primary that may not take writes.",
            float(s.role is NodeRole.FENCED),
        )
        yield _gauge(
            "pgbastion_node_takes_writes",
            "1 while clients may write to this node's PostgreSQL.",
            float(s.takes_writes),
        )
        yield _gauge(
            "pgbastion_vip_held", "1 while this node has the virtual address.",
            float(s.vip),
        )  # fmt: skip
        yield _gauge(
            "pgbastion_loop_lag_seconds",
            "How late the daemon's event loop was at its last measurement.",
            s.loop_lag_ms / MS_PER_S,
        )

    def _members(self) -> Iterator[Metric]:
        s = self._snapshot
        families = {
            "age": _by_node(
                "pgbastion_member_report_age_seconds",
                "Time since a member last told this node about itself.",
            ),
            "timeline": _by_node(
                "pgbastion_member_timeline", "PostgreSQL timeline of a member."
            ),
            "end": _by_node(
                "pgbastion_member_wal_end_bytes",
                "End of the write-ahead log on a member's disk, as a byte position.",
            ),
            "replay": _by_node(
                "pgbastion_member_wal_replayed_bytes",
                "How far a standby has replayed, as a byte position.",
            ),
            "lag": _by_node(
                "pgbastion_member_lag_bytes",
                "Write-ahead log of the primary that a member has not replayed yet.",
            ),
            "streaming": _by_node(
                "pgbastion_member_streaming",
                "1 while a standby receives the primary's log as it is written.",
            ),
        }
        for member in s.state.members:
            received = s.reports.get(member.name)
            if received is None:
                continue
            report, name = received.report, [member.name]
            families["age"].add_metric(name, (s.now_ms - received.at_ms) / MS_PER_S)
            if member.is_witness:
                continue
            families["streaming"].add_metric(name, float(report.streaming))
            if report.wal_end is not None:
                families["timeline"].add_metric(name, report.wal_end.timeline)
                families["end"].add_metric(name, report.wal_end.lsn)
            if report.replay_lsn is not None:
                families["replay"].add_metric(name, report.replay_lsn)
            lag = s.lag_bytes(member.name)
            if lag is not None:
                families["lag"].add_metric(name, lag)
        yield from families.values()

    def _lease(self) -> Iterator[Metric]:
        s = self._snapshot
        yield _gauge(
            "pgbastion_lease_left_seconds",
            "How long this node's lease on the primary role lasts; 0: it has none.",
            s.lease.left_ms / MS_PER_S,
        )
        longest = longest_lease_policy(s.state)
        yield _gauge(
            "pgbastion_lease_granted_seconds",
            "How long a lease is that is granted now: the profile's.",
            granted_ms(s.state) / MS_PER_S if longest else None,
        )
        yield _gauge(
            "pgbastion_lease_longest_seconds",
            "The longest lease that may still run: a failover waits no longer.",
            longest.lease_ms / MS_PER_S if longest else None,
        )
        yield _gauge(
            "pgbastion_view_left_seconds",
            "How long this node may act on what it knows of the cluster; 0: too old.",
            s.view_left_ms / MS_PER_S,
        )

    def _cluster(self) -> Iterator[Metric]:
        s = self._snapshot
        sync = s.state.opened.sync if s.state.opened else None
        yield _gauge(
            "pgbastion_epoch", "The newest epoch of the primary role.", s.state.epoch
        )
        yield _gauge(
            "pgbastion_members", "Members of the cluster.", len(s.state.members)
        )
        yield _gauge(
            "pgbastion_cluster_has_primary",
            "1 while this node's fresh view names a primary that takes clients.",
            float(s.primary is not None and s.stopped_primary is None),
        )
        yield _gauge(
            "pgbastion_split_brain",
            "Servers that claim the primary role without having it; not 0: the "
            "primary port is closed.",
            len({claim.node for claim in s.claims}),
        )
        yield _gauge(
            "pgbastion_paused", "1 while automatic actions are paused.",
            float(s.state.paused),
        )  # fmt: skip
        yield _gauge(
            "pgbastion_sync_standbys", "Standbys that commits may wait for.",
            len(sync.names) if sync else 0,
        )  # fmt: skip
        yield _gauge(
            "pgbastion_sync_standbys_required",
            "How many of them have to confirm a commit; 0: none, it is degraded.",
            sync.num_sync if sync else 0,
        )
        yield _gauge(
            "pgbastion_degraded",
            "1 while commits wait for no standby although they are meant to.",
            float(
                sync is not None
                and sync.num_sync == 0
                and s.state.mode is not ReplicationMode.ASYNC
            ),
        )
        fences = CounterMetricFamily(
            "pgbastion_fence_calls",
            "Runs of failover.fence_command by this daemon, by what came of them.",
            labels=["outcome"],
        )
        fences.add_metric(["confirmed"], s.fences.confirmed)
        fences.add_metric(["failed"], s.fences.failed)
        yield fences
        failovers = CounterMetricFamily(
            "pgbastion_failovers",
            "Changes of the primary since this daemon's start, by cause.",
            labels=["cause"],
        )
        for cause, count in sorted(self._failovers.items()):
            failovers.add_metric([cause], count)
        yield failovers

    def _raft(self) -> Iterator[Metric]:
        raft = self._snapshot.raft
        yield _gauge("pgbastion_raft_term", "The current Raft term.", raft.term)
        yield _gauge(
            "pgbastion_raft_is_leader", "1 while this node leads the Raft group.",
            float(raft.role == "leader"),
        )  # fmt: skip
        yield _gauge(
            "pgbastion_raft_has_leader", "1 while this node knows a Raft leader.",
            float(raft.leader != 0),
        )  # fmt: skip
        yield _gauge(
            "pgbastion_raft_voters", "Voters of the Raft group.", len(raft.voters)
        )
        yield _gauge(
            "pgbastion_raft_learners", "Learners of the Raft group.", len(raft.learners)
        )
        yield _gauge(
            "pgbastion_raft_quorum", "How many voters have to agree.", raft.quorum
        )
        yield _gauge(
            "pgbastion_raft_committed_index", "Newest committed log entry.",
            raft.committed,
        )  # fmt: skip
        yield _gauge(
            "pgbastion_raft_applied_index", "Newest applied log entry.", raft.applied
        )
        yield _gauge(
            "pgbastion_raft_log_write_pending_seconds",
            "For how long the disk of the Raft log has owed a write; 0: it owes none.",
            raft.writing_ms / 1_000,
        )

    def _proxy(self) -> Iterator[Metric]:
        counts = self._snapshot.proxy
        yield _gauge(
            "pgbastion_proxy_connections", "Clients of both ports.", counts.connections
        )
        yield _gauge(
            "pgbastion_proxy_opening", "Clients that have not finished their start.",
            counts.opening,
        )  # fmt: skip
        yield _gauge(
            "pgbastion_proxy_waiting", "Clients that wait for a server.", counts.held
        )
        yield _gauge(
            "pgbastion_proxy_waiting_oldest_seconds",
            "For how long the first of those that wait has done so.",
            counts.held_oldest_s,
        )
        yield _counter(
            "pgbastion_proxy_held", "Clients that had to wait for a server.",
            counts.held_total,
        )  # fmt: skip
        yield _counter(
            "pgbastion_proxy_held_seconds", "How long clients waited, all together.",
            counts.held_seconds_total,
        )  # fmt: skip
        yield _counter(
            "pgbastion_proxy_accepted", "Clients accepted.", counts.accepted_total
        )
        yield _counter(
            "pgbastion_proxy_superseded",
            "Sessions closed because their primary is none any more.",
            counts.superseded_total,
        )
        yield _counter(
            "pgbastion_proxy_cancels", "Cancel requests.", counts.cancels_total
        )
        yield _counter(
            "pgbastion_proxy_cancels_dropped",
            "Cancel requests beyond the number that is delivered at a time.",
            counts.cancels_dropped_total,
        )
        refused = CounterMetricFamily(
            "pgbastion_proxy_refused",
            "Clients that got no session, by reason.",
            labels=["reason"],
        )
        for reason, count in sorted(counts.refused_total.items()):
            refused.add_metric([reason], count)
        yield refused
        yield from self._traffic(counts.traffic)

    @staticmethod
    def _traffic(carried: Iterable[BackendTraffic]) -> Iterator[Metric]:
        labels = ["port", "node"]
        open_now = GaugeMetricFamily(
            "pgbastion_proxy_sessions", "Open sessions by port and server.",
            labels=labels,
        )  # fmt: skip
        finished = CounterMetricFamily(
            "pgbastion_proxy_finished_sessions",
            "Sessions that have ended, by port and server.",
            labels=labels,
        )
        failures = CounterMetricFamily(
            "pgbastion_proxy_backend_failures",
            "Servers that did not answer a client's start.",
            labels=labels,
        )
        moved = CounterMetricFamily(
            "pgbastion_proxy_moved_bytes",
            "Bytes moved by port, server and direction.",
            labels=[*labels, "direction"],
        )
        for traffic in carried:
            which = [traffic.service, traffic.node]
            open_now.add_metric(which, traffic.sessions)
            finished.add_metric(which, traffic.sessions_total)
            failures.add_metric(which, traffic.failures_total)
            moved.add_metric([*which, "to_server"], traffic.bytes_to_server)
            moved.add_metric([*which, "to_client"], traffic.bytes_to_client)
        yield from (open_now, finished, failures, moved)


def _gauge(name: str, about: str, value: float | None) -> Metric:
    """Return a metric without labels; one whose value is not known has no sample."""
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)


def _by_node(name: str, about: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, labels=["node"])
