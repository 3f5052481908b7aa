"""The reference of the metrics, from what a scrape of a node gives."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pgbastion.model.addresses import AddressCounts
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import NO_MEMBER, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.snapshot import (
    DecisionSnapshot,
    LeaseSnapshot,
    NodeSnapshot,
    ProxyCounts,
    RaftSnapshot,
    RouteSnapshot,
)
from pgbastion.observe.metrics import MetricsOf
from pgbastion.observe.patroni_metrics import PatroniMetricsOf

HEAD = """\
# Metrics

Prometheus' text format, on `metrics.port` (9090) and on the API's port under
`/metrics`. Values come from memory. Labels are bounded: members, roles, ports, reasons,
and the slots that keep most. The dashboard and the alert rules in `deploy/` use these
names. Generated from the program.
"""
PATRONI_HEAD = """
## Patroni's names

With `metrics.patroni_names: true`, for dashboards that were made for it; labels `scope`
and `name`.
"""
# A node that knows nothing yet has every metric already, without series.
_NOTHING = NodeSnapshot(
    now_ms=0,
    node=NodeId("n1"),
    member_id=NO_MEMBER,
    witness=False,
    state=ClusterState(),
    reports={},
    report_max_ms=0,
    raft=RaftSnapshot(
        role="follower",
        term=0,
        leader=NO_MEMBER,
        voters=(),
        learners=(),
        committed=0,
        applied=0,
        last_index=0,
    ),
    lease=LeaseSnapshot(),
    view_left_ms=0,
    node_decision=DecisionSnapshot(reason=Reason.NOT_LEADER),
    cluster_decision=DecisionSnapshot(reason=Reason.NOT_LEADER),
    routes=RouteSnapshot(),
    count_proxy=ProxyCounts,
    address_counts=AddressCounts(),
    version="",
    commit="",
)


def render_metrics() -> str:
    """Return the reference of the metrics."""
    ours = MetricsOf(_NOTHING, Counter())
    return "".join(
        [
            HEAD,
            *_table(ours),
            PATRONI_HEAD,
            *_table(PatroniMetricsOf(_NOTHING)),
        ]
    )


def _table(collector: Collector) -> Iterator[str]:
    yield "\n| metric | labels | |\n|---|---|---|\n"
    found: Iterable[Metric] = collector.collect()
    for metric in sorted(found, key=lambda m: m.name):
        name = metric.name + _ENDS.get(metric.type, "")
        labels = " ".join(f"`{label}`" for label in getattr(metric, "_labelnames", ()))
        yield f"| `{name}` | {labels} | {metric.documentation} |\n"


_ENDS = {"counter": "_total", "info": "_info"}
