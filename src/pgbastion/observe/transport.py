"""Metrics of certificates, and of what goes between the nodes."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pgbastion.model.snapshot import GossipSnapshot, NodeSnapshot

STATES = ("alive", "suspect", "down")


def transport(snapshot: NodeSnapshot) -> Iterator[Metric]:
    """Yield the metrics of transport and gossip."""
    yield GaugeMetricFamily(
        "pgbastion_raft_tls",
        "1 while the nodes speak TLS to each other.",
        value=float(snapshot.certificate is not None),
    )
    yield _expiry(snapshot)
    yield from _gossip(snapshot.gossip)


def _expiry(snapshot: NodeSnapshot) -> Metric:
    expires = GaugeMetricFamily(
        "pgbastion_certificate_expiry_timestamp_seconds",
        "When a certificate expires, since 1970; `node` and `authority`: of the port "
        "between the nodes, `api`: of the API and the metrics.",
        labels=["of"],
    )
    shown = snapshot.certificate
    if shown is not None:
        expires.add_metric(["node"], shown.expires_s)
        expires.add_metric(["authority"], shown.authority_expires_s)
    if snapshot.api_certificate is not None:
        expires.add_metric(["api"], snapshot.api_certificate.expires_s)
    return expires


def _gossip(gossip: GossipSnapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pgbastion_gossip_running",
        "1 while this node gossips.",
        value=float(gossip.running),
    )
    nodes = GaugeMetricFamily(
        "pgbastion_gossip_nodes", "Other nodes, by what gossip says.", labels=["state"]
    )
    for state in STATES:
        count = sum(node.state == state for node in gossip.view.nodes)
        nodes.add_metric([state], count)
    yield nodes
    yield GaugeMetricFamily(
        "pgbastion_gossip_name_clashes",
        "Names that several living nodes have.",
        value=len(gossip.clashes),
    )
    datagrams = CounterMetricFamily(
        "pgbastion_gossip_datagrams", "Datagrams of the gossip.", labels=["what"]
    )
    datagrams.add_metric(["sent"], gossip.view.sent)
    datagrams.add_metric(["received"], gossip.view.received)
    datagrams.add_metric(["refused"], gossip.view.refused)
    yield datagrams
