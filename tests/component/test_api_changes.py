"""The API served on a port: what changes something, and its bounds."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from pgbastion.api.app import build_metrics_api
from pgbastion.api.bodies import BODY_BYTES_MAX
from pgbastion.api.ports import Refused, Unknown
from pgbastion.api.server import ApiServer
from pgbastion.errors import ApiError
from pgbastion.observe.metrics import Metrics
from support.api_server import (
    AUTHORISED,
    HALF_A_BODY,
    HOST,
    PEER,
    QUESTION,
    Api,
    error,
    serve,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serve() as made:
        yield made


# Changing


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", ""]
)
async def test_a_peer_is_added_whatever_the_content_type(
    api: Api, content_type: str
) -> None:
    """Curl -d sends JSON as a form."""
    response = await api.client.post(
        "/raft/add-peer",
        content=json.dumps(PEER),
        headers={**AUTHORISED, "Content-Type": content_type},
    )

    assert response.json() == {"ok": True, "member_id": 4}
    assert api.commands.added == [("n4", "10.0.1.4", 8300)]


async def test_a_peers_port_and_the_name_of_its_id_may_differ(api: Api) -> None:
    body = {"name": "n4", "address": "[2001:db8::4]"}

    await api.client.post("/raft/add-peer", json=body, headers=AUTHORISED)

    assert api.commands.added == [("n4", "2001:db8::4", 8300)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"id": "n4"}',
        b'{"address": "10.0.1.4"}',
        b'{"id": "n 4", "address": "10.0.1.4"}',
        b'{"id": 4, "address": "10.0.1.4"}',
        b'{"id": "n4", "address": 7}',
        b'{"id": "n4", "address": "10.0.1.4:99999"}',
        b'{"id": "n4", "address": "2001:db8::4"}',
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_with_400(
    api: Api, body: bytes
) -> None:
    response = await api.client.post("/raft/add-peer", content=body, headers=AUTHORISED)

    assert response.status_code == 400
    assert error(response)["code"] == "bad_request"
    assert not api.commands.added


async def test_a_refusal_is_a_conflict_and_an_unknown_outcome_says_so(
    api: Api,
) -> None:
    api.commands.outcome = Refused(code="name_taken", message="taken", remedy="other")
    refused = await api.client.post("/raft/add-peer", json=PEER, headers=AUTHORISED)
    api.commands.outcome = Unknown(message="who knows", remedy="look")
    unknown = await api.client.post("/raft/add-peer", json=PEER, headers=AUTHORISED)

    assert (refused.status_code, error(refused)["code"]) == (409, "name_taken")
    assert (unknown.status_code, error(unknown)["code"]) == (504, "outcome_unknown")


async def test_reload_needs_no_body(api: Api) -> None:
    response = await api.client.post("/reload", headers=AUTHORISED)

    assert response.status_code == 200
    assert api.commands.reloads == 1


async def test_a_reload_can_be_tried(api: Api) -> None:
    response = await api.client.post(
        "/reload", headers=AUTHORISED, json={"dry_run": True}
    )

    assert response.status_code == 200
    assert api.commands.reloads == 0


# Errors


async def test_an_unknown_path_names_those_that_there_are(api: Api) -> None:
    response = await api.client.get("/nothing")

    assert response.status_code == 404
    assert "/cluster/state" in error(response)["remedy"]


@pytest.mark.parametrize("path", ["/health/", "//health", "/cluster/../health"])
async def test_a_path_has_one_form(api: Api, path: str) -> None:
    answer = await api.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 404 ")


async def test_a_wrong_method_names_the_right_one(api: Api) -> None:
    put = await api.client.put("/health", headers=AUTHORISED)
    get = await api.client.get("/raft/add-peer")

    assert (put.status_code, get.status_code) == (405, 405)
    assert get.headers["allow"] == "POST"
    assert error(get)["code"] == "method_not_allowed"


async def test_a_bug_is_answered_with_500_and_serves_on(api: Api) -> None:
    good, broken = api.snapshot, replace(api.snapshot, reports=None)  # type: ignore[arg-type]

    api.snapshot = broken
    failed = await api.client.get("/cluster")
    api.snapshot = good
    served = await api.client.get("/cluster")

    assert (failed.status_code, served.status_code) == (500, 200)
    assert error(failed)["code"] == "internal_error"


# What a client may hold


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_body_beyond_the_bound_is_refused_with_413(
    api: Api, framing: str
) -> None:
    body = b"x" * (BODY_BYTES_MAX + 1)

    async def parts() -> AsyncIterator[bytes]:
        yield body

    response = await api.client.post(
        "/reload",
        content=body if framing == "content-length" else parts(),
        headers=AUTHORISED,
    )

    assert response.status_code == 413
    assert error(response)["code"] == "body_too_large"
    assert api.commands.reloads == 0


async def test_a_head_beyond_the_bound_is_refused(api: Api) -> None:
    answer = await api.raw(b"GET /health HTTP/1.1\r\nX: " + b"y" * 70_000)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


async def test_nonsense_is_refused(api: Api) -> None:
    answer = await api.raw(b"\x00\x01\x02 nonsense\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        HALF_A_BODY,
    ],
    ids=["silent", "half a head", "half a body"],
)
async def test_a_client_that_does_not_go_on_loses_its_connection(
    beginning: bytes,
) -> None:
    async with serve(exchange_s=0.2) as api:
        # The answer ends with the connection, long before the wait's own end.
        await api.raw(beginning, answer_s=3)
        assert (await api.client.get("/health")).status_code == 200

    assert api.commands.reloads == 0


async def test_a_client_that_does_not_read_loses_its_connection() -> None:
    async def ask_for_ever(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(QUESTION * 100)
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serve(exchange_s=0.3) as api:
        _, writer = await asyncio.open_connection(HOST, api.port, limit=1_024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_for_ever(writer), 5)
        writer.close()
        assert (await api.client.get("/health")).status_code == 200


async def test_checks_get_in_while_silent_clients_hold_every_connection() -> None:
    async with serve(connections_max=8) as api:
        silent = [await asyncio.open_connection(HOST, api.port) for _ in range(20)]
        try:
            for _ in range(5):
                response = await api.client.get("/primary")
                assert response.status_code == 200
        finally:
            for _, writer in silent:
                writer.close()


async def test_an_answer_does_not_wait_for_an_acknowledgement(api: Api) -> None:
    """A delayed one takes 40 ms, for each question over one connection."""
    loop = asyncio.get_running_loop()
    took_s = []
    for _ in range(20):
        began = loop.time()
        assert (await api.client.get("/health")).status_code == 200
        took_s.append(loop.time() - began)

    assert min(took_s[1:]) < 0.03


async def test_pipelined_questions_are_answered_in_order(api: Api) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /raft/state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    answer = await api.raw(first + last)

    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"lease_left_ms") < answer.index(b"committed_index")


# Start and end


async def test_an_address_in_use_is_an_error_that_names_it(api: Api) -> None:
    app = build_metrics_api(
        api.take, tokens=lambda: api.tokens, render_metrics=Metrics().render
    )
    second = ApiServer(app, host=HOST, port=api.port)

    with pytest.raises(ApiError, match=f"{HOST}:{api.port}"):
        await second.start()
    await second.stop()


async def test_a_stopped_server_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    async with serve() as api:
        await api.client.get("/health")
        idle = await asyncio.open_connection(HOST, api.port)
    idle[1].close()
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == before
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection(HOST, api.port)


async def test_a_member_is_named_by_id_or_name(api: Api) -> None:
    for key in ("id", "name"):
        done = await api.client.post(
            "/raft/remove-peer", json={key: "n2"}, headers=AUTHORISED
        )
        assert done.status_code == 200
    nobody = await api.client.post("/raft/remove-peer", json={}, headers=AUTHORISED)

    assert nobody.status_code == 400
    assert "id is missing" in error(nobody)["message"]
    assert api.commands.removed == ["n2", "n2"]


async def test_leadership_is_handed_to_a_node_that_has_a_name(api: Api) -> None:
    await api.client.post("/raft/transfer", json={"to": "n3"}, headers=AUTHORISED)
    nobody = await api.client.post("/raft/transfer", json={}, headers=AUTHORISED)

    assert nobody.status_code == 400
    assert api.commands.transfers == ["n3"]


async def test_a_snapshot_is_taken(api: Api) -> None:
    done = await api.client.post("/raft/snapshot", headers=AUTHORISED)

    assert done.status_code == 200
    assert api.commands.snapshots == 1
