"""A rehearsal frees what it fenced, and tells what the cluster measured."""

from collections.abc import Mapping
from typing import Any

import pytest

from pgbastion.cli.drilling import (
    rehearse_failover,
    rehearse_switchover,
    render_drill,
)
from pgbastion.cli.history import render_history
from pgbastion.cli.problems import CommandError, UnfinishedError

CHANGE = {
    "epoch": 4,
    "node": "n2",
    "former": "n1",
    "timeline": 5,
    "gap_ms": 210,
    "sessions_closed": 8,
    "assigned_at": "t3",
    "ordered_by": None,
    "sentence": "the holder stopped and released its epoch",
    "vouched_by": None,
}


class FakeClient:
    """Answers from one picture of a cluster, and notes what was ordered."""

    def __init__(self, *changes: Mapping[str, Any], standby: str = "streaming") -> None:
        self.changes = list(changes)
        self.ordered: list[tuple[str, Mapping[str, Any]]] = []
        self.outcome = "done"
        self.primary: str | None = "n1"
        self.unanswered = ""
        self._standby = standby

    def get(self, path: str) -> Any:
        if path == "/cluster/history":
            return {"changes": self.changes}
        if path == "/operations/o1":
            return {"id": "o1", "outcome": self.outcome, "detail": "why", "to": "n2"}
        standby = {"name": "n2", "role": "quorum_standby", "state": self._standby}
        return {"epoch": 3, "primary": self.primary, "members": [standby]}

    fetch = get

    def order(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.ordered.append((path, body))
        if path == self.unanswered:
            raise UnfinishedError("it may have been done all the same")
        return {"ok": True, "id": "o1"}


def failover(client: FakeClient) -> Mapping[str, Any]:
    return rehearse_failover(client, wait_s=0)  # type: ignore[arg-type]


def switchover(client: FakeClient) -> Mapping[str, Any]:
    return rehearse_switchover(client, wait_s=0)  # type: ignore[arg-type]


def test_a_switchover_is_done_and_told() -> None:
    client = FakeClient(CHANGE)

    told = render_drill(switchover(client))

    assert client.ordered == [("/cluster/switchover", {})]
    assert told == ("n1 -> n2, epoch 4: writes stopped for 210 ms, 8 sessions ended")


def test_a_switchover_that_fails_is_no_success() -> None:
    client = FakeClient(CHANGE)
    client.outcome = "failed"

    with pytest.raises(CommandError, match="failed why"):
        switchover(client)


def test_a_failover_stops_the_primary_and_frees_it_again() -> None:
    client = FakeClient(CHANGE)

    assert failover(client) == CHANGE

    fence, free = client.ordered
    assert fence == ("/cluster/fence", {"node": "n1", "force": True})
    assert free == ("/cluster/unfence", {"node": "n1"})


@pytest.mark.parametrize("change", [{**CHANGE, "epoch": 3}, {**CHANGE, "gap_ms": None}])
def test_a_drill_unfences_the_node_also_where_nobody_took_the_role_in_time(
    change: dict[str, Any],
) -> None:
    client = FakeClient(change)

    with pytest.raises(UnfinishedError):
        failover(client)

    assert client.ordered[-1][0] == "/cluster/unfence"


def test_a_drill_unfences_the_node_also_where_the_fence_is_unknown() -> None:
    client = FakeClient(CHANGE)
    client.unanswered = "/cluster/fence"

    with pytest.raises(UnfinishedError):
        failover(client)

    assert client.ordered[-1] == ("/cluster/unfence", {"node": "n1"})


def test_nothing_is_stopped_where_nobody_could_follow() -> None:
    lonely, headless = FakeClient(standby="stopped"), FakeClient()
    headless.primary = None

    for client in (lonely, headless):
        with pytest.raises(CommandError):
            failover(client)
        assert client.ordered == []


def test_the_history_is_a_table_with_the_reason_of_each_change() -> None:
    ordered = {**CHANGE, "epoch": 5, "sentence": "ordered: me", "gap_ms": None}
    forced = {**CHANGE, "epoch": 6, "vouched_by": "me"}

    heading, *lines = render_history([CHANGE, ordered, forced]).splitlines()

    assert heading.split() == (
        ["TIME", "EPOCH", "PRIMARY", "BEFORE", "TIMELINE", "GAP", "SESSIONS", "WHY"]
    )
    assert lines[0].endswith("the holder stopped and released its epoch")
    assert "210 ms" in lines[0]
    assert lines[1].endswith("ordered: me")
    assert lines[2].endswith("vouched by me")
