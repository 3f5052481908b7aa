"""Metrics of the virtual addresses."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pgbastion.model.addresses import AddressState
from pgbastion.model.snapshot import NodeSnapshot


def address_metrics(snapshot: NodeSnapshot) -> Iterator[Metric]:
    """Yield who has the addresses, and what happened to them; nothing without any."""
    counts = snapshot.address_counts
    if counts is None:
        return
    states = GaugeMetricFamily(
        "pgbastion_vip_state",
        "1 for the state that a virtual address has on this node.",
        labels=["address", "state"],
    )
    for status in snapshot.addresses:
        for state in AddressState:
            states.add_metric([status.address.address, state], status.state is state)
    yield states
    yield GaugeMetricFamily(
        "pgbastion_vip_conflict",
        "1 while somebody else answers for a virtual address.",
        value=any(status.conflict_with for status in snapshot.addresses),
    )
    transitions = CounterMetricFamily(
        "pgbastion_vip_transitions",
        "Virtual addresses taken, dropped, or put back after a removal by hand.",
        labels=["to"],
    )
    transitions.add_metric(["held"], counts.taken_total)
    transitions.add_metric(["absent"], counts.dropped_total)
    transitions.add_metric(["restored"], counts.restored_total)
    yield transitions
    placed = GaugeMetricFamily(
        "pgbastion_vip_replica",
        "1 for the node at which the cluster has an address for replicas.",
        labels=["address", "node"],
    )
    for placement in snapshot.state.placements:
        placed.add_metric([placement.address, placement.node], not placement.ended)
    yield placed
    yield CounterMetricFamily(
        "pgbastion_vip_announcements",
        "Gratuitous ARP and unsolicited neighbour advertisements sent.",
        value=counts.announcements_total,
    )
    yield CounterMetricFamily(
        "pgbastion_vip_conflicts",
        "Times that somebody else was heard to have a virtual address.",
        value=counts.conflicts_total,
    )
    yield CounterMetricFamily(
        "pgbastion_vip_hook_failures",
        "Calls of the address hook that failed.",
        value=counts.hook_failures_total,
    )
