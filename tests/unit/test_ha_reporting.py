"""What a node tells the others of itself."""

from pgbastion.ha.host import Host
from pgbastion.ha.outages import OutageMeter
from pgbastion.ha.reporting import Reporter
from pgbastion.model.actions import Decision
from pgbastion.model.ids import NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.report import DETAIL_CHARS_MAX, NodeReport
from pgbastion.testing.views import standby_view


class _Heard(Host):
    """Keeps the reports that would be sent."""

    def __init__(self) -> None:
        self.heard: list[NodeReport] = []

    def broadcast(self, report: NodeReport) -> None:
        self.heard.append(report)


def test_a_report_says_what_its_decision_adds_to_the_reason() -> None:
    """Whoever asks another node learns what failed; how long that is has a bound."""
    host = _Heard()
    reporter = Reporter(
        host=host,
        observer=None,
        outages=OutageMeter(),
        addresses=None,
        node=NodeId("n2"),
        version="1",
        probe_ms=500,
    )
    decision = Decision(Reason.REJOIN_FAILED, detail="no route to n1 " + "x" * 9_999)
    reporter.tell(standby_view(), decision, 1_000)

    assert host.heard[0].detail.startswith("no route to n1")
    assert len(host.heard[0].detail) == DETAIL_CHARS_MAX
