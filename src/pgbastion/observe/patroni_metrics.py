"""The metrics that dashboards for Patroni read, under its names, from a snapshot.

An option: the same facts stand in the metrics of ours.
"""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pgbastion.model.report import PostgresState
from pgbastion.model.snapshot import NodeRole, NodeSnapshot, SyncRole

RUNNING = frozenset({PostgresState.PRIMARY, PostgresState.STANDBY})


class PatroniMetricsOf(Collector):
    """One snapshot's metrics under Patroni's names."""

    def __init__(self, snapshot: NodeSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Yield every metric."""
        s = self._snapshot
        values = {**self._roles(), **self._server()}
        values["patroni_cluster_unlocked"] = (
            "1 while nobody holds the primary role.",
            float(s.state.assignment is None or not s.state.assignment.live),
        )
        values["patroni_is_paused"] = (
            "1 while automatic actions are paused.",
            float(s.state.paused),
        )
        for name, (about, value) in values.items():
            family = GaugeMetricFamily(name, about, labels=["scope", "name"])
            family.add_metric([s.scope, s.node], value)
            yield family

    def _roles(self) -> dict[str, tuple[str, float]]:
        s = self._snapshot
        member = s.state.member(s.member_id)
        role = s.sync_role(member) if member else SyncRole.ASYNC
        standby = s.role is NodeRole.STANDBY
        return {
            "patroni_primary": (
                "1 on the primary.",
                float(s.role is NodeRole.PRIMARY),
            ),
            "patroni_replica": ("1 on a standby.", float(standby)),
            "patroni_sync_standby": (
                "1 on a standby in the mode sync that commits wait for.",
                float(standby and role is SyncRole.SYNC),
            ),
            "patroni_quorum_standby": (
                "1 on a standby in the mode quorum that commits wait for.",
                float(standby and role is SyncRole.QUORUM),
            ),
        }

    def _server(self) -> dict[str, tuple[str, float]]:
        s, report = self._snapshot, self._snapshot.report
        running = report is not None and report.state in RUNNING
        primary = s.role is NodeRole.PRIMARY
        end = report.wal_end if report else None
        replayed = report.replay_lsn if report else None
        return {
            "patroni_postgres_running": ("1 while the server runs.", float(running)),
            "patroni_postgres_streaming": (
                "1 while a standby receives the log as it is written.",
                float(report is not None and report.streaming),
            ),
            "patroni_postgres_server_version": (
                "The server's version as a number; 0: unknown.",
                float(report.postgres_version or 0) if report else 0.0,
            ),
            "patroni_postgres_timeline": (
                "The server's timeline; 0: unknown.",
                float(end.timeline) if end else 0.0,
            ),
            "patroni_pending_restart": (
                "1 while settings wait for a restart.",
                float(bool(report and report.pending_restart)),
            ),
            "patroni_xlog_location": (
                "End of the log in bytes; 0 on a standby.",
                float(end.lsn) if end and primary else 0.0,
            ),
            "patroni_xlog_received_location": (
                "How far a standby has received, in bytes; 0 on the primary.",
                float(end.lsn) if end and not primary else 0.0,
            ),
            "patroni_xlog_replayed_location": (
                "How far a standby has replayed, in bytes; 0 on the primary.",
                float(replayed) if replayed is not None and not primary else 0.0,
            ),
        }
