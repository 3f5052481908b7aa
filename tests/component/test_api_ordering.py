"""The API: what people order with one request."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from pgbastion.api.ports import When
from support.api_server import AUTHORISED, Api, error, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serve() as made:
        yield made


async def post(api: Api, path: str, body: object) -> None:
    answer = await api.client.post(path, json=body, headers=AUTHORISED)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("word", ["to", "target", "candidate", "node"])
async def test_a_node_may_be_called_by_any_of_its_words(api: Api, word: str) -> None:
    await post(api, "/cluster/switchover", {word: "n2"})
    await post(api, "/cluster/failover", {word: "n3"})

    assert api.commands.switchovers == [("n2", None)]
    assert api.commands.failovers == [("n3", False)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/cluster/switchover", {"to": "n2", "candidate": "n3"}),
        ("/cluster/fence", {"node": "n2", "to": "n3"}),
        ("/raft/remove-peer", {"id": "n2", "name": "n3"}),
        ("/raft/add-peer", {"id": "n2", "name": "n3", "address": "10.0.0.9"}),
    ],
)
async def test_words_that_name_different_nodes_are_refused(
    api: Api, path: str, body: dict[str, str]
) -> None:
    answer = await api.client.post(path, json=body, headers=AUTHORISED)

    assert answer.status_code == 400
    assert error(answer)["message"].endswith("name different nodes")


@pytest.mark.parametrize("later", [{}, {"at": "+10m"}])
async def test_an_order_for_another_primary_is_refused(
    api: Api, later: dict[str, str]
) -> None:
    for path, leader, status in (
        ("/cluster/switchover", "n9", 409),
        ("/cluster/failover", "n9", 409),
        ("/cluster/switchover", "n1", 200),
    ):
        body = {"to": "n2", "leader": leader}
        body |= later if path == "/cluster/switchover" else {}
        answer = await api.client.post(path, json=body, headers=AUTHORISED)
        assert answer.status_code == status, answer.text

    assert len(api.commands.switchovers) + len(api.commands.wishes) == 1
    assert api.commands.failovers == []


async def test_a_dry_run_in_the_address_does_nothing(api: Api) -> None:
    answer = await api.client.post(
        "/cluster/switchover?dry_run=true", headers=AUTHORISED
    )

    assert answer.status_code == 400
    assert api.commands.switchovers == []


async def test_a_key_that_does_not_exist_is_told_with_those_that_do(api: Api) -> None:
    answer = await api.client.post(
        "/cluster/unfence", json={"nodes": "n2"}, headers=AUTHORISED
    )

    said = error(answer)["message"]
    assert said == "nodes: is unknown, there are dry_run, to, target, candidate, node"


async def test_a_dry_run_orders_nothing(api: Api) -> None:
    await post(api, "/cluster/switchover", {"dry_run": True, "drain": "1s"})
    await post(api, "/cluster/failover", {"to": "n2", "force": True, "dry_run": True})

    assert api.commands.switchovers == api.commands.failovers == []
    assert api.commands.rehearsed is not None
    assert api.commands.rehearsed.switchovers == [(None, 1_000)]
    assert api.commands.rehearsed.failovers == [("n2", True)]


@pytest.mark.parametrize("word", ["at", "scheduled_at"])
async def test_a_switchover_is_scheduled(api: Api, word: str) -> None:
    body = {word: "2030-01-31T04:00:00+01:00", "within": "1m", "to": "n2"}
    await post(api, "/cluster/switchover", body)

    due = datetime(2030, 1, 31, 3, tzinfo=UTC)
    when = When(due=due, valid_ms=60_000)
    assert api.commands.wishes == [("schedule", "n2", None, when)]


async def test_a_time_may_be_told_from_now(api: Api) -> None:
    before = datetime.now(UTC)
    await post(api, "/cluster/switchover", {"at": "+10m"})
    after = datetime.now(UTC)

    [(word, to, drain_ms, when)] = api.commands.wishes
    assert (word, to, drain_ms) == ("schedule", None, None)
    assert isinstance(when, When)
    ten = timedelta(minutes=10)
    assert before + ten <= when.due <= after + ten


async def test_what_is_scheduled_is_cancelled_either_way(api: Api) -> None:
    await post(api, "/cluster/switchover", {"cancel": True, "id": "s1"})
    answer = await api.client.request(
        "DELETE", "/cluster/switchover", headers=AUTHORISED
    )

    assert answer.status_code == 200
    assert api.commands.wishes == [("cancel", "s1"), ("cancel", None)]
    assert api.commands.switchovers == []


async def test_a_node_is_fenced_and_freed(api: Api) -> None:
    body = {"node": "n1", "force": True, "drain": "0s"}
    await post(api, "/cluster/fence", body)
    await post(api, "/cluster/unfence", {"node": "n1"})

    assert api.commands.wishes == [("fence", "n1", True, 0), ("unfence", "n1")]


async def test_an_address_for_replicas_is_moved(api: Api) -> None:
    await post(api, "/vip/move", {"address": "10.0.1.101/24", "to": "n2"})
    await post(api, "/vip/move", {"address": "FD00:0::101"})

    assert api.commands.wishes == [
        ("move_address", "10.0.1.101", "n2"),
        ("move_address", "fd00::101", None),
    ]


async def test_a_node_is_restarted_and_copied_anew(api: Api) -> None:
    await post(api, "/cluster/restart", {"node": "n1", "pending": True, "drain": "1s"})
    await post(api, "/cluster/reinit", {"node": "n2"})

    assert api.commands.wishes == [
        ("restart", "n1", True, 1_000),
        ("reinit", "n2"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("switchover", {"at": "soon"}, "at"),
        ("switchover", {"at": "+soon"}, "at"),
        ("switchover", {"at": 7}, "at"),
        ("switchover", {"at": "2030-01-31T04:00:00"}, "time zone"),
        (
            "switchover",
            {"at": "tomorrow"},
            "is not a time such as 2030-01-31T03:00:00Z",
        ),
        ("switchover", {"at": "0001-01-01T00:00:00+23:00"}, "calendar"),
        ("switchover", {"at": "+1m", "within": "0s"}, "within"),
        ("switchover", {"within": "5s"}, "at is missing"),
        ("switchover", {"cancel": "yes"}, "cancel"),
        ("switchover", {"cancel": True, "id": 7}, "id"),
        ("switchover", {"dry_run": 1}, "dry_run"),
        ("switchover", {"target": "a b"}, "target"),
        ("switchover", {"drain": 7}, "drain"),
        ("switchover", {"drain": "7"}, "drain"),
        ("failover", {}, "missing"),
        ("failover", {"to": "n2", "force": "yes"}, "force"),
        ("fence", {}, "missing"),
        ("unfence", {"node": 7}, "node"),
        ("restart", {}, "missing"),
        ("reinit", {}, "missing"),
        ("replication", {"sync_count": -1}, "has to be auto, or a whole number"),
        ("replication", {"sync_count": True}, "has to be auto, or a whole number"),
        ("replication", {"sync_count": "all"}, "has to be auto, or a whole number"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_how_to_say_it(
    api: Api, path: str, body: object, word: str
) -> None:
    answer = await api.client.post(f"/cluster/{path}", json=body, headers=AUTHORISED)

    assert answer.status_code == 400
    told = error(answer)
    assert word in told["message"]
    assert told["remedy"].startswith("send for instance {")
    assert api.commands.wishes == []


async def test_orders_need_the_token(api: Api) -> None:
    for method, path in (("DELETE", "switchover"), ("POST", "fence")):
        answer = await api.client.request(method, f"/cluster/{path}")
        assert answer.status_code == 401


async def test_a_dry_run_inside_of_something_else_is_refused(api: Api) -> None:
    """It would look like one, and the settings would be changed."""
    body = {"postgresql": {"parameters": {"work_mem": "8MB"}, "dry_run": True}}
    answer = await api.client.patch("/config", json=body, headers=AUTHORISED)

    assert answer.status_code == 400
    assert "dry_run" in error(answer)["message"]
    assert api.commands.settings == []
