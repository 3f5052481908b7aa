"""Hold, don't refuse: also while nobody has decided on another primary yet."""

import asyncio
import struct

import pytest

from pgbastion.proxy.opening import Opening
from pgbastion.proxy.refusals import Refusal
from pgbastion.proxy.routes import Limits
from pgbastion.testing.stand_in_server import Behaviour, error, message
from support.proxy_lab import (
    GSS_REQUEST,
    REPLICA_PORT,
    SSL_REQUEST,
    eventually,
    proxy_lab,
    startup,
)

pytestmark = pytest.mark.anyio

SHORT = Limits(connect_s=0.3, answer_s=0.3, hold_s=0.5)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_clients_wait_for_a_primary_that_has_just_died() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        await lab.servers["n1"].stop()
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        await client.until_ready()
        assert await client.query("who") == [b"n2"]


async def test_clients_wait_for_a_primary_that_starts_again_in_place() -> None:
    async with proxy_lab("n1") as lab:
        server = lab.servers["n1"]
        server.behaviour = Behaviour.STARTING_UP
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: len(server.startups) >= 2)

        server.behaviour = Behaviour.SERVE

        await client.until_ready()
        assert lab.proxy.snapshot().held_total == 1
        assert lab.proxy.snapshot().held_seconds_total > 0


@pytest.mark.parametrize("asked", [SSL_REQUEST, GSS_REQUEST])
async def test_they_wait_also_where_encryption_was_declined_first(
    asked: bytes,
) -> None:
    """Most clients ask for it by default, and a server without it says so at once."""
    async with proxy_lab("n1") as lab:
        server = lab.servers["n1"]
        server.behaviour = Behaviour.STARTING_UP
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        client = await lab.connect()
        client.send(asked)
        assert await client.read(1) == b"N"
        client.send(startup())
        await eventually(lambda: len(server.startups) >= 2)

        server.behaviour = Behaviour.SERVE

        await client.until_ready()
        assert lab.proxy.snapshot().held_total == 1


async def test_they_wait_also_where_another_protocol_was_negotiated_first() -> None:
    """A server tells its version before it says that it is starting up."""
    async with proxy_lab("n1", "n2") as lab:
        told = []

        async def start_up(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            told.append(await reader.read(1_000))
            negotiated = message(b"v", struct.pack("!II", 3 << 16, 0))
            writer.write(negotiated + error("57P03", "n1 is starting up"))
            writer.close()

        starting = await asyncio.start_server(start_up, lab.servers["n1"].host, 0)
        lab.servers["n1"].port = starting.sockets[0].getsockname()[1]
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        client = await lab.connect()
        client.send(startup())
        try:
            await eventually(lambda: lab.proxy.snapshot().held == 1)
        finally:
            starting.close()
        assert told

        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        await client.until_ready()


async def test_who_waited_in_vain_is_told_what_the_server_said() -> None:
    async with proxy_lab("n1", limits=SHORT) as lab:
        lab.servers["n1"].behaviour = Behaviour.STARTING_UP
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        client = await lab.connect()
        client.send(startup())

        error = await client.error()

        assert (error["C"], error["D"]) == ("57P03", "n1: n1 is starting up.")
        assert lab.proxy.snapshot().refused_total == {Refusal.HOLD_TIMED_OUT: 1}


async def test_the_first_who_gets_in_lets_the_others_go_on() -> None:
    """A crowd does not besiege a server that starts; all enter once one has."""
    async with proxy_lab("n1", limits=Limits(hold_s=5)) as lab:
        server = lab.servers["n1"]
        server.behaviour = Behaviour.STARTING_UP
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        clients = [await lab.connect() for _ in range(100)]
        for client in clients:
            client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 100)
        tried = len(server.startups)
        await asyncio.sleep(0.5)
        # Fifty a second, not five of each of a hundred.
        assert len(server.startups) - tried < 50

        server.behaviour = Behaviour.SERVE

        for client in clients:
            await client.until_ready()


async def test_a_view_that_expires_ends_the_wait() -> None:
    """S5: this node is cut off, another may not be; waiting here is in vain."""
    async with proxy_lab("n1") as lab:
        await lab.servers["n1"].stop()
        lab.proxy.set_routes(lab.routes("n1", patient=True, left_s=0.3))
        client = await lab.connect()
        client.send(startup())

        assert "lost contact" in (await client.error())["M"]


async def test_readers_wait_for_standbys_that_have_yet_to_follow() -> None:
    async with proxy_lab("n1", "n2", settle_s=5) as lab:
        lab.proxy.set_routes(lab.routes("n2", epoch=2))
        client = await lab.connect(REPLICA_PORT)
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        lab.proxy.set_routes(lab.routes("n2", "n1", epoch=2))

        await client.until_ready()
        assert await client.query("who") == [b"n1"]


async def test_readers_wait_while_the_primary_changes() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        reader = await lab.connect(REPLICA_PORT)
        reader.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        lab.proxy.set_routes(lab.routes(None, "n2", hold=True))

        await reader.until_ready()


async def test_readers_wait_when_the_last_standby_has_just_gone() -> None:
    """As when the primary dies: none streams any more, and nobody has decided yet."""
    async with proxy_lab("n1", "n2", limits=Limits(hold_s=0.5)) as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2", patient=True))
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        reader = await lab.connect(REPLICA_PORT)
        reader.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        lab.proxy.set_routes(lab.routes("n1", "n2", patient=True))

        await reader.until_ready()

        lab.proxy.set_routes(lab.routes("n1", patient=True))
        await asyncio.sleep(0.6)
        late = await lab.connect(REPLICA_PORT)
        late.send(startup())
        assert "no standby" in (await late.error())["M"]


async def test_later_without_a_standby_readers_are_refused() -> None:
    async with proxy_lab("n1", settle_s=0.1) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        await asyncio.sleep(0.2)
        client = await lab.connect(REPLICA_PORT)
        client.send(startup())

        assert "no standby" in (await client.error())["M"]


async def test_those_who_tried_in_vain_keep_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released: list[str] = []
    release = Opening.release

    def noted(opening: Opening) -> None:
        released.append(opening._parameters["application_name"])
        release(opening)

    monkeypatch.setattr(Opening, "release", noted)
    async with proxy_lab("n1", "n2") as lab:
        await lab.servers["n1"].stop()
        lab.proxy.set_routes(lab.routes("n1", patient=True))
        for number in range(5):
            client = await lab.connect()
            client.send(startup(application_name=str(number)))
            await eventually(lambda: lab.proxy.snapshot().held >= 1)
            # Time for the first to try again, and so to join the queue anew.
            await asyncio.sleep(0.12)
        await eventually(lambda: lab.proxy.snapshot().held == 5)
        assert lab.proxy.snapshot().held_oldest_s > 0.2

        released.clear()
        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        # In which order they reach the server is the kernel's business.
        assert released == ["0", "1", "2", "3", "4"]
        await eventually(lambda: len(lab.servers["n2"].startups) == 5)
