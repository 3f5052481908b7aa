"""All daemons are restarted in turn, and nobody waits for an election's time-out."""

import json
from collections.abc import Iterator

import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.waits import wait_for
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

READY_S = 30.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    plan = Plan(postgres_nodes=0, witnesses=3, profile="normal", namespaces=False)
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as one:
            for node in one.nodes.values():
                node.start()
            wait_for("three voters", lambda: agreed(one), READY_S)
            yield one
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def agreed(lab: Lab) -> bool:
    """Tell whether all nodes vote and follow one leader."""
    states = [node.get("/raft/state") for node in lab.nodes.values()]
    known = [s for s in states if s is not None and len(s["voters"]) == 3]
    leaders = {s["leader"] for s in known}
    return len(known) == 3 and len(leaders) == 1 and None not in leaders


def state(node: Node) -> dict[str, object]:
    found: dict[str, object] = node.get("/raft/state")
    return found


def handed_on(lab: Lab) -> int:
    """Return how often a leader that was stopped has handed leadership on."""
    lines = (
        json.loads(line)
        for node in lab.nodes.values()
        for line in node.log.read_text().splitlines()
        if line.startswith("{")
    )
    return sum(e["event"] == "leadership_handed_on" and e["moved"] for e in lines)


def test_a_rolling_restart_needs_no_election_by_time_out(lab: Lab) -> None:
    """Every new term was begun by a transfer: none more than leaders were stopped."""
    first = state(lab.node("n1"))
    order = sorted(lab.nodes.values(), key=lambda node: node.name != first["leader"])
    stopped_leaders = 0
    for node in order:
        stopped_leaders += state(node)["role"] == "leader"
        assert node.stop() == 0
        rest = next(n for n in lab.nodes.values() if n is not node)
        assert state(rest)["leader"] not in (None, node.name)
        node.start()
        wait_for("three nodes of one mind", lambda: agreed(lab), READY_S)

    last = state(lab.node("n1"))
    assert stopped_leaders >= 1
    assert handed_on(lab) == stopped_leaders
    assert int(str(last["term"])) - int(str(first["term"])) == stopped_leaders
