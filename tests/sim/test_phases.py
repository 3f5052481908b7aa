"""What simulated nodes tell of a failover, phase by phase."""

from collections.abc import Callable

import pytest

from pgbastion.clock import boottime_ns
from pgbastion.node.tracing import Tracing
from pgbastion.observe.phases import DETECTION, Span
from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.scripts import THREE
from pgbastion.testing.sim.stage import Stage
from support.simulated import settle, staged

LIMIT_MS = 60_000


class Sent:
    """Notes what a node sends."""

    def __init__(self) -> None:
        self.whole: list[Span] = []
        self.spans: list[Span] = []
        self.keys: set[str] = set()

    def send(self, key: str, parent: Span | None, spans: tuple[Span, ...]) -> None:
        self.keys.add(key)
        self.whole += [parent] if parent is not None else []
        self.spans += spans

    def close(self) -> None:
        """Have nothing to send."""


def traced(machine: Machine) -> Sent:
    daemon = machine.daemon
    assert daemon is not None
    sent = Sent()

    def leads() -> bool:
        held = daemon.host.state.assignment
        return held is not None and held.node == daemon.own.name

    tracing = Tracing(sent, cluster=lambda: "sim", leads=leads, now_ns=boottime_ns)
    daemon.main.on_decided = tracing.decided
    daemon.main.outages.on_end = tracing.ended
    return sent


def power_off(stage: Stage) -> None:
    stage.n[1].power_off()


def kill_server(stage: Stage) -> None:
    stage.n[1].crash_server()


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        (power_off, {"lease wait", "decision", "survey", "promotion", "opening"}),
        (kill_server, {"decision", "release", "survey", "promotion", "opening"}),
    ],
)
def test_a_failover_is_told_from_its_detection_to_the_opening(
    fault: Callable[[Stage], None], names: set[str]
) -> None:
    with staged(THREE) as stage:
        settle(stage)
        sent = [traced(machine) for machine in stage.n.values()]
        fault(stage)
        stage.until(lambda: stage.opened(2), limit_ms=LIMIT_MS)
        stage.wait(2_000)

    told = [span for each in sent for span in each.spans]
    assert {span.name for span in told} >= {DETECTION, *names}
    (whole,) = [span for each in sent for span in each.whole]
    assert {key for each in sent for key in each.keys} == {"sim/2"}
    assert all(span.begun_ns <= span.ended_ns for span in (*told, whole))
