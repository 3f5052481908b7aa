"""Cancel requests reach the server that runs the query."""

import asyncio
from ipaddress import ip_network

import pytest

from pgbastion.proxy.routes import Limits
from pgbastion.testing.stand_in_server import Behaviour
from support.proxy_lab import (
    REPLICA_PORT,
    SSL_REQUEST,
    cancel_request,
    eventually,
    proxy_lab,
    query,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.mark.parametrize("key_bytes", [4, 32, 256])
async def test_a_cancel_goes_to_the_server_of_its_session(key_bytes: int) -> None:
    async with proxy_lab("n1", "n2", "n3") as lab:
        for server in lab.servers.values():
            server.key_bytes = key_bytes
        lab.servers["n3"]._next_pid = 5000
        lab.proxy.set_routes(lab.routes("n1", "n2", "n3"))
        sessions = [await lab.session(REPLICA_PORT) for _ in range(2)]
        client = sessions[0]
        node = (await client.query("who"))[0].decode()
        client.send(query("wait"))

        # The port does not matter: the key says whose it is.
        canceller = await lab.connect()
        canceller.send(cancel_request(client.key))

        assert await canceller.rest() == b""
        assert (await client.until_ready())[0][0] == b"E"
        asked = {n: len(s.cancels) for n, s in lab.servers.items() if s.cancels}
        assert asked == {node: 1}


async def test_a_cancel_after_declined_encryption_is_delivered() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()
        client.send(query("wait"))
        canceller = await lab.connect()
        canceller.send(SSL_REQUEST)
        assert await canceller.read(1) == b"N"
        canceller.send(cancel_request(client.key))

        assert (await client.until_ready())[0][0] == b"E"


async def test_a_key_is_forgotten_with_its_session() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()
        assert await lab.proxy.deliver_cancel(cancel_request(client.key))

        client.close()
        await eventually(lambda: lab.proxy.snapshot().connections == 0)

        assert not await lab.proxy.deliver_cancel(cancel_request(client.key))
        assert len(lab.servers["n1"].cancels) == 1


async def test_another_nodes_proxy_is_asked_for_an_unknown_key() -> None:
    asked: list[bytes] = []

    async def ask(payload: bytes) -> bool:
        asked.append(payload)
        return True

    async with proxy_lab("n1", on_unknown_cancel=ask) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        canceller = await lab.connect()
        canceller.send(cancel_request(b"\0\0\0\1abcd"))
        assert await canceller.rest() == b""

        assert asked == [cancel_request(b"\0\0\0\1abcd")]
        assert lab.servers["n1"].cancels == []


async def test_a_key_that_nobody_knows_is_offered_to_the_servers_of_its_port() -> None:
    """A session that began encrypted has a key that only its server knows."""
    async with proxy_lab("n1", "n2", "n3") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2", "n3"))
        canceller = await lab.connect(REPLICA_PORT)
        canceller.send(cancel_request(b"\0\0\0\1abcd"))
        assert await canceller.rest() == b""

        asked = {n: len(s.cancels) for n, s in lab.servers.items()}
        assert asked == {"n1": 0, "n2": 1, "n3": 1}


async def test_a_cancel_is_offered_to_a_standby_that_gets_no_new_sessions() -> None:
    """A long query may be why the standby lags, and why somebody cancels it."""
    async with proxy_lab("n1", "n2", "n3") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        client = await lab.session(REPLICA_PORT)
        lab.proxy.set_routes(lab.routes("n1", "n3"))
        canceller = await lab.connect(REPLICA_PORT)
        canceller.send(cancel_request(b"\0\0\0\1abcd"))
        assert await canceller.rest() == b""

        asked = {n: len(s.cancels) for n, s in lab.servers.items()}
        assert asked == {"n1": 0, "n2": 1, "n3": 1}
        assert await client.query("who") == [b"n2"]


async def test_a_cancel_does_not_reach_a_primary_of_an_expired_view() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", left_s=-1))
        canceller = await lab.connect()
        canceller.send(cancel_request(b"\0\0\0\1abcd"))

        assert await canceller.rest() == b""
        assert lab.servers["n1"].cancels == []


async def test_a_flood_of_cancels_is_bounded() -> None:
    limits = Limits(cancels_max=3, connect_s=0.3)
    async with proxy_lab("n1", limits=limits) as lab:
        lab.servers["n1"].behaviour = Behaviour.SILENT
        lab.proxy.set_routes(lab.routes("n1"))
        flood = [await lab.connect() for _ in range(20)]
        for client in flood:
            client.send(cancel_request(b"\0\0\0\1abcd"))
        assert set(await asyncio.gather(*(c.rest() for c in flood))) == {b""}

        snapshot = lab.proxy.snapshot()
        assert snapshot.cancels_total + snapshot.cancels_dropped_total == 20
        assert snapshot.cancels_total == 3


async def test_what_is_no_cancel_request_is_not_delivered() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))

        assert not await lab.proxy.deliver_cancel(SSL_REQUEST)


async def test_who_may_not_connect_may_not_cancel() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()
        lab.proxy.set_limits(Limits(allow=(ip_network("192.0.2.0/24"),)))
        canceller = await lab.connect()
        canceller.send(cancel_request(client.key))

        assert (await canceller.error())["C"] == "28000"
        assert lab.servers["n1"].cancels == []
