"""Metrics of what members report and nobody decides on: disks, slots, probes, lag."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pgbastion.model.report import NodeReport, Vitals
from pgbastion.model.snapshot import NodeSnapshot

MS_PER_S = 1_000


def member_vitals(snapshot: NodeSnapshot) -> Iterator[Metric]:
    """Yield the vitals of every member that is not silent."""
    found: list[tuple[str, NodeReport]] = []
    for member in snapshot.state.servers:
        report = snapshot.fresh_report(member.name)
        if report is not None:
            found.append((member.name, report))
    yield _holder(snapshot)
    yield from _restarts(found)
    yield from _lags(snapshot)
    known = [(name, r.vitals) for name, r in found if r.vitals is not None]
    yield from _disks(known)
    yield from _slots(known)


def _holder(snapshot: NodeSnapshot) -> Metric:
    holder = _family(
        "pgbastion_member_is_primary", "1 for the holder of the primary role.", "node"
    )
    for member in snapshot.state.servers:
        holds = snapshot.state.is_held_by(member.member_id)
        holder.add_metric([member.name], float(holds))
    return holder


def _restarts(found: list[tuple[str, NodeReport]]) -> Iterator[Metric]:
    due = _family(
        "pgbastion_member_pending_restart",
        "Settings of a member's server that wait for its restart.",
        "node",
    )
    for name, report in found:
        due.add_metric([name], len(report.pending_restart))
    yield due


def _lags(snapshot: NodeSnapshot) -> Iterator[Metric]:
    lags = _family(
        "pgbastion_member_lag_seconds",
        "How old what a member replays is, where the primary can tell.",
        "node",
    )
    for member in snapshot.state.servers:
        lag_s = snapshot.lag_s(member.name)
        if lag_s is not None:
            lags.add_metric([member.name], lag_s)
    yield lags


def _disks(known: list[tuple[str, Vitals]]) -> Iterator[Metric]:
    probe = _family(
        "pgbastion_member_probe_seconds",
        "How long a member's server and disks took to answer the newest probe; while "
        "they owe an answer, for how long they have.",
        "node",
    )
    free = _family(
        "pgbastion_member_disk_free_bytes",
        "Room left under a member's data, or WAL where that has a disk of its own.",
        "node",
        "holds",
    )
    size = _family(
        "pgbastion_member_disk_size_bytes", "Size of that file system.", "node", "holds"
    )
    for name, vitals in known:
        probe.add_metric([name], vitals.probe_ms / MS_PER_S)
        for disk in vitals.disks:
            free.add_metric([name, disk.holds], disk.free_bytes)
            size.add_metric([name, disk.holds], disk.size_bytes)
    yield from (probe, free, size)


def _slots(known: list[tuple[str, Vitals]]) -> Iterator[Metric]:
    # One series for each slot that a report carries: their number is bounded there.
    retained = _family(
        "pgbastion_slot_retained_wal_bytes",
        "Write-ahead log that the primary keeps for a replication slot.",
        "slot",
    )
    active = _family(
        "pgbastion_slot_active", "1 while somebody uses the replication slot.", "slot"
    )
    for _, vitals in known:
        for slot in vitals.slots:
            active.add_metric([slot.name], float(slot.active))
            if slot.retained_bytes is not None:
                retained.add_metric([slot.name], slot.retained_bytes)
    yield from (retained, active)


def _family(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, labels=labels)
