"""The API on a real socket: endpoints, tokens, errors, and what a client may hold."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import READS
from pgbastion.api.ports import Done, Tokens
from pgbastion.model.actions import Decision
from pgbastion.model.reasons import Reason
from pgbastion.model.recording import RecordedDecision
from pgbastion.model.snapshot import LeaseSnapshot
from pgbastion.testing.views import cluster_view
from support.api_server import (
    AUTHORISED,
    HOST,
    PEER,
    WRITE,
    Api,
    error,
    serve,
)
from support.snapshots import standby_snapshot

READ = "read-token"

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serve() as made:
        yield made


# Reading


@pytest.mark.parametrize("path", [*READS, "/metrics"])
async def test_what_is_read_is_answered_with_200(api: Api, path: str) -> None:
    response = await api.client.get(path)

    assert response.status_code == 200
    assert "date" in response.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_checks_are_answered_to_every_method_of_load_balancers(
    api: Api, method: str
) -> None:
    passed = await api.client.request(method, "/primary")
    failed = await api.client.request(method, "/replica")

    assert (passed.status_code, failed.status_code) == (200, 503)


async def test_haproxys_own_request_is_understood(api: Api) -> None:
    """HAProxy's ``option httpchk OPTIONS /primary`` speaks HTTP/1.0 without a host."""
    answer = await api.raw(b"OPTIONS /primary HTTP/1.0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://n1:8008/primary?lag=1MB", 200),
        ("HTTPS://n1/%70rimary", 200),
        ("http://n1:8008", 404),
        ("http://n1:8008?x=/primary", 404),
        ("ftp://n1/primary", 404),
        ("/http://n1/primary", 404),
    ],
)
async def test_a_target_in_absolute_form_means_its_path(
    api: Api, target: str, status: int
) -> None:
    """RFC 9112, section 3.2.2: a server has to accept it."""
    one = f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode()

    # The second comes while the first is being answered.
    answer = await api.raw(one + b"\r\n" + one + b"Connection: close\r\n\r\n")

    assert answer.count(b"HTTP/1.1 %d " % status) == 2


async def test_a_change_in_absolute_form_needs_its_token(api: Api) -> None:
    request = b"POST http://n1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    refused = await api.raw(request + b"\r\n")
    done = await api.raw(request + f"Authorization: Bearer {WRITE}\r\n\r\n".encode())

    assert (refused[:12], done[:12]) == (b"HTTP/1.1 401", b"HTTP/1.1 200")
    assert api.commands.reloads == 1


async def test_the_primary_check_turns_503_when_the_lease_is_over(api: Api) -> None:
    before = await api.client.get("/primary")

    api.snapshot = replace(api.snapshot, lease=LeaseSnapshot())
    after = await api.client.get("/primary")

    assert (before.status_code, after.status_code) == (200, 503)
    assert error(after)["code"] == "lease_expired"


@pytest.mark.parametrize(
    ("lag", "status"),
    [("1MB", 200), ("100", 200), ("99", 503), ("50B", 503), ("none", 400)],
)
async def test_the_replica_check_honours_the_lag(
    api: Api, lag: str, status: int
) -> None:
    """``n2`` is 100 bytes behind."""
    api.snapshot = standby_snapshot()

    response = await api.client.get("/replica", params={"lag": lag})

    assert response.status_code == status


async def test_a_condition_that_is_misspelt_does_not_pass_for_none(api: Api) -> None:
    api.snapshot = standby_snapshot()

    response = await api.client.get("/replica", params={"lags": "1MB"})

    assert response.status_code == 400
    assert error(response)["remedy"] == "there are lag and replication_state"


async def test_metrics_are_prometheus_text(api: Api) -> None:
    response = await api.client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "pgbastion_epoch 3.0" in response.text


async def test_the_metrics_port_serves_metrics_and_nothing_else() -> None:
    async with serve(metrics_only=True) as api:
        metrics = await api.client.get("/metrics")
        health = await api.client.get("/health")

    assert (metrics.status_code, health.status_code) == (200, 404)


async def test_who_asks_for_what_is_not_there_hears_once_of_each_endpoint(
    api: Api,
) -> None:
    response = await api.client.get("/nothing")

    remedy = response.json()["error"]["remedy"].removeprefix("there are: ")
    paths = remedy.split(", ")
    assert "/cluster/replication" in paths
    assert len(paths) == len(set(paths))


# Tokens


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {WRITE}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe"},
        {"X-Token": WRITE},
    ],
)
async def test_nothing_is_changed_without_the_token(
    api: Api, headers: dict[str, str]
) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    for path in ("/raft/add-peer", "/reload", "/cluster/pause", "/cluster/resume"):
        response = await api.client.post(path, json=PEER, headers=raw)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert not api.commands.added
    assert not api.commands.pauses
    assert api.commands.reloads == 0


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({}, (None, None)),
        ({"to": "n2"}, ("n2", None)),
        ({"candidate": "n2", "drain": "1s"}, ("n2", 1_000)),
    ],
)
async def test_a_switchover_is_asked_for(
    api: Api, body: dict[str, str], asked: tuple[str | None, int | None]
) -> None:
    api.commands.outcome = Done(facts={"id": "7", "to": "n2"})

    answer = await api.client.post("/cluster/switchover", json=body, headers=AUTHORISED)

    assert answer.json() == {"ok": True, "id": "7", "to": "n2"}
    assert api.commands.switchovers == [asked]


@pytest.mark.parametrize("body", [{"to": 3}, {"to": "a b"}, {"drain": "soon"}])
async def test_a_senseless_switchover_is_not_asked_for(
    api: Api, body: dict[str, object]
) -> None:
    answer = await api.client.post("/cluster/switchover", json=body, headers=AUTHORISED)

    assert answer.status_code == 400
    assert not api.commands.switchovers


async def test_a_failover_is_asked_for(api: Api) -> None:
    for body in ({"to": "n2"}, {"to": "n3", "force": True}):
        answer = await api.client.post(
            "/cluster/failover", json=body, headers=AUTHORISED
        )
        assert answer.status_code == 200

    assert api.commands.failovers == [("n2", False), ("n3", True)]


@pytest.mark.parametrize("body", [{}, {"to": "n2", "force": "yes"}])
async def test_a_senseless_failover_is_not_asked_for(
    api: Api, body: dict[str, object]
) -> None:
    answer = await api.client.post("/cluster/failover", json=body, headers=AUTHORISED)

    assert answer.status_code == 400
    assert not api.commands.failovers


async def test_a_pause_is_asked_for_and_taken_back(api: Api) -> None:
    api.commands.outcome = Done(facts={"paused": True})

    for path in ("/cluster/pause", "/cluster/resume"):
        answer = await api.client.post(path, headers=AUTHORISED)
        assert answer.json() == {"ok": True, "paused": True}

    assert api.commands.pauses == [True, False]


async def test_a_401_tells_the_line_to_use_and_no_secret(api: Api) -> None:
    response = await api.client.post("/raft/add-peer", json=PEER)

    remedy = error(response)["remedy"]
    assert f'curl -X POST -H "Authorization: Bearer TOKEN" http://{HOST}:' in remedy
    assert "/raft/add-peer" in remedy
    assert "auth_token_file" in remedy
    assert WRITE not in response.text


async def test_a_changed_token_counts_at_once(api: Api) -> None:
    api.tokens = Tokens(write="another")

    refused = await api.client.post("/reload", headers=AUTHORISED)
    taken = await api.client.post(
        "/reload", headers={"Authorization": "bearer another"}
    )

    assert (refused.status_code, taken.status_code) == (401, 200)


async def test_with_a_read_token_all_but_the_checks_needs_one(api: Api) -> None:
    api.tokens = Tokens(write=WRITE, read=READ)
    reading = {"Authorization": f"Bearer {READ}"}

    for path in ("/cluster", "/metrics", "/raft/state", "/nothing"):
        assert (await api.client.get(path)).status_code == 401
        assert (await api.client.get(path, headers=reading)).status_code != 401
        assert (await api.client.get(path, headers=AUTHORISED)).status_code != 401
    for path in (*CHECKS, "/health"):
        assert (await api.client.get(path)).status_code in (200, 503)


async def test_a_read_token_changes_nothing(api: Api) -> None:
    api.tokens = Tokens(write=WRITE, read=READ)

    response = await api.client.post(
        "/reload", headers={"Authorization": f"Bearer {READ}"}
    )

    assert response.status_code == 403
    assert error(response)["code"] == "read_only_token"
    assert api.commands.reloads == 0


def test_tokens_do_not_show_in_a_representation() -> None:
    assert WRITE not in repr(Tokens(write=WRITE, read=READ))
    assert READ not in repr(Tokens(write=WRITE, read=READ))


async def test_the_explanation_is_json_and_on_request_text() -> None:
    async with serve() as api:
        told = (await api.client.get("/cluster/explain")).json()
        text = await api.client.get(
            "/cluster/explain", headers={"Accept": "text/plain"}
        )

    assert told["lines"] == text.text.splitlines()
    assert told["lines"][0].startswith(told["state"])
    assert text.headers["content-type"].startswith("text/plain")


async def test_a_long_list_gives_the_loop_back_between_its_elements(api: Api) -> None:
    turns, made_in = 0, list[int]()

    class Watched(tuple[RecordedDecision, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[RecordedDecision]:
            for kept in super().__iter__():
                made_in.append(turns)
                yield kept

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    decision = Decision(Reason.NOT_LEADER)
    kept = [
        RecordedDecision(number=n, view=cluster_view(), decision=decision)
        for n in range(20)
    ]
    api.snapshot = replace(api.snapshot, records=Watched(kept))
    counting = asyncio.create_task(count_turns())
    found = (await api.client.get("/debug/decisions")).json()
    counting.cancel()

    assert [each["r"]["number"] for each in found] == list(range(20))
    assert len(set(made_in)) == 20
