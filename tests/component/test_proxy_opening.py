"""From a client's first byte to its server, or to a refusal that says why."""

import asyncio
import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pgbastion.proxy import listener, sockets
from pgbastion.proxy.refusals import Refusal
from pgbastion.proxy.routes import Limits
from support.proxy_lab import (
    GSS_REQUEST,
    PRIMARY_PORT,
    SSL_REQUEST,
    ProxyLab,
    eventually,
    proxy_lab,
    query,
    startup,
)
from support.proxy_opening import (
    SHORT,
    refused,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


# --- the hold queue ---


async def test_a_client_waits_while_a_change_is_under_way() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        begin = time.perf_counter()
        lab.proxy.set_routes(lab.routes("n1"))

        await client.until_ready()
        assert time.perf_counter() - begin < 0.2
        assert await client.query("who") == [b"n1"]
        assert lab.proxy.snapshot().held == 0


async def test_clients_leave_the_queue_in_the_order_in_which_they_came() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        for number in range(20):
            client = await lab.connect()
            client.send(startup(application_name=str(number)))
            await eventually(partial(_holds, lab, number + 1))

        lab.proxy.set_routes(lab.routes("n1"))

        await eventually(lambda: len(lab.servers["n1"].startups) == 20)
        names = [s["application_name"] for s in lab.servers["n1"].startups]
        assert names == [str(number) for number in range(20)]


def _holds(lab: ProxyLab, clients: int) -> bool:
    return lab.proxy.snapshot().held == clients


async def test_an_expired_view_holds_where_the_routes_say_so() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", left_s=-1, hold=True))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        lab.proxy.set_routes(lab.routes("n1", epoch=2))

        await client.until_ready()


async def test_waiting_ends_with_a_refusal_after_the_time_out() -> None:
    async with proxy_lab("n1", limits=SHORT) as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        begin = time.perf_counter()

        error = await refused(lab)

        assert (error["C"], error["D"]) == ("57P03", "The test says so.")
        assert 0.4 < time.perf_counter() - begin < 1.5
        assert lab.proxy.snapshot().held == 0


async def test_a_full_queue_refuses() -> None:
    async with proxy_lab("n1", limits=Limits(hold_max=1)) as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        held = await lab.connect()
        held.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        assert (await refused(lab))["C"] == "53300"


async def test_a_client_that_leaves_is_taken_out_of_the_queue() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        client.close()

        await eventually(lambda: lab.proxy.snapshot().held == 0)
        await eventually(lambda: lab.proxy.snapshot().connections == 0)
        assert lab.proxy.snapshot().refused_total == {}


async def test_what_a_waiting_client_sends_reaches_the_server() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)
        client.send(query("who"))
        await asyncio.sleep(0.05)

        lab.proxy.set_routes(lab.routes("n1"))

        await client.until_ready()
        assert [kind for kind, _ in await client.until_ready()] == [b"D", b"C"]


async def test_a_primary_that_cannot_be_reached_is_tried_again_while_holding() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", hold=True))
        await lab.servers["n1"].stop()
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        await lab.servers["n1"].start()

        await client.until_ready()


# --- encryption ---


async def test_a_refusal_is_said_in_the_clear_to_one_that_asks_for_tls() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None))
        client = await lab.connect()
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"N"
        client.send(GSS_REQUEST)
        assert await client.read(1) == b"N"

        client.send(startup())

        assert (await client.error())["C"] == "57P03"


async def test_a_refusal_stands_though_a_primary_comes_between_two_packets() -> None:
    """The session would lack the encryption that the server offers."""
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None))
        client = await lab.connect()
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"N"
        lab.proxy.set_routes(lab.routes("n1"))

        client.send(startup())

        assert (await client.error())["C"] == "57P03"


async def test_a_server_that_declines_tls_gets_the_start_in_the_clear() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        for request in (GSS_REQUEST, SSL_REQUEST):
            client.send(request)
            assert await client.read(1) == b"N"
        client.send(startup())
        await client.until_ready()

        assert await client.query("who") == [b"n1"]


async def test_asking_for_encryption_again_and_again_is_refused() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(SSL_REQUEST * 4)

        assert await client.read(3) == b"NNN"
        assert (await client.error())["C"] == "08P01"


async def test_encrypted_bytes_pass_as_they_are() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.servers["n1"].tls = True
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        noise = os.urandom(500_000)
        client.send(noise)
        assert await client.read(len(noise)) == noise

        # Nothing of ours can be put into an encrypted stream.
        lab.proxy.set_routes(lab.routes("n2", epoch=2))
        assert await client.rest() == b""


async def test_tls_without_a_request_is_refused_with_an_alert() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None))
        client = await lab.connect()
        client.send(b"\x16\x03\x01\x02\x00\x01")

        assert await client.rest() == b"\x15\x03\x01\x00\x02\x02\x50"


async def test_a_change_between_declined_tls_and_the_start_goes_unnoticed() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        for request in (GSS_REQUEST, SSL_REQUEST):
            client.send(request)
            assert await client.read(1) == b"N"

        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        client.send(startup())
        await client.until_ready()
        assert await client.query("who") == [b"n2"]


async def test_a_server_that_encrypts_gets_nobody_whom_another_declined() -> None:
    """The session would go on without the encryption that the server offers."""
    async with proxy_lab("n1", "n2") as lab:
        lab.servers["n2"].tls = True
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"N"
        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        client.send(startup())

        error = await client.error()
        assert (error["C"], "n2" in error["D"]) == ("57P01", True)
        assert not lab.servers["n2"].startups


# --- limits ---


async def test_more_clients_than_allowed_are_told_so() -> None:
    async with proxy_lab("n1", limits=Limits(connections_max=2)) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        sessions = [await lab.session() for _ in range(2)]
        assert (await refused(lab))["C"] == "53300"

        sessions[0].close()
        await eventually(lambda: lab.proxy.snapshot().connections == 1)

        await lab.session()


async def test_one_address_has_a_limit_of_its_own() -> None:
    async with proxy_lab("n1", limits=Limits(connections_per_address_max=2)) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        first = await lab.session()
        await lab.session()
        error = await refused(lab)
        assert (error["C"], "one address" in error["M"]) == ("53300", True)

        first.close()
        await eventually(lambda: lab.proxy.snapshot().connections == 1)
        await lab.session()


async def test_that_limit_holds_for_those_who_come_at_once() -> None:
    async with proxy_lab("n1", limits=Limits(connections_per_address_max=2)) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        # Connected by the kernel while the loop has no turn.
        raw = [socket.create_connection((lab.address, PRIMARY_PORT)) for _ in range(9)]
        for client in raw:
            client.send(startup())

        await eventually(lambda: lab.proxy.snapshot().accepted_total == 9)
        await eventually(lambda: lab.proxy.snapshot().opening == 0)

        assert lab.proxy.snapshot().connections == 2
        expected = {Refusal.TOO_MANY_FROM_ADDRESS: 7}
        assert lab.proxy.snapshot().refused_total == expected
        for client in raw:
            client.close()
        await eventually(lambda: not lab.proxy._by_address)


async def test_beyond_all_limits_a_client_is_told_without_being_read() -> None:
    limits = Limits(connections_max=1, refusals_max=0)
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        await lab.session()

        assert (await refused(lab))["C"] == "53300"


async def test_silent_clients_give_way_where_connections_run_out() -> None:
    limits = Limits(connections_max=3, first_packet_s=60)
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        silent = [await lab.connect() for _ in range(3)]
        await asyncio.sleep(1.1)

        client = await lab.session()

        assert await client.query("who") == [b"n1"]
        assert (await silent[0].error())["C"] == "08P01"
        assert lab.proxy.snapshot().connections == 3


async def test_a_thousand_silent_clients_are_bounded_in_time() -> None:
    limits = Limits(first_packet_s=0.5)
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        raw = []
        for number in range(1000):
            client = socket.create_connection((lab.address, PRIMARY_PORT))
            client.send(SSL_REQUEST[: number % 8])
            raw.append(client)
            if number % 50 == 0:
                await asyncio.sleep(0)
        try:
            assert await (await lab.session()).query("who") == [b"n1"]
            await eventually(lambda: lab.proxy.snapshot().opening == 0)
            refusals = lab.proxy.snapshot().refused_total
            assert refusals == {Refusal.LATE: 1000}
        finally:
            for client in raw:
                client.close()


async def test_a_flood_of_silent_clients_never_exceeds_the_limit() -> None:
    limits = Limits(connections_max=5, first_packet_s=60)
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        for _ in range(5):
            await lab.connect()
        await asyncio.sleep(1.1)
        flood = [await lab.connect() for _ in range(20)]
        for client in flood:
            client.send(startup())
        await eventually(lambda: len(lab.servers["n1"].sessions) == 5)

        await eventually(lambda: lab.proxy.snapshot().connections == 5)
        refused_total = lab.proxy.snapshot().refused_total
        assert refused_total == {Refusal.LATE: 5, Refusal.TOO_MANY: 15}


async def test_clients_never_take_the_descriptors_of_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More sessions are configured than the process may open files for."""
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        monkeypatch.setattr(listener, "_DESCRIPTORS_BESIDE", 2)
        monkeypatch.setattr(sockets, "allow_descriptors", lambda _wanted: 2 + 2 * 3)
        lab.proxy.set_limits(Limits(connections_max=4))
        sessions = [await lab.session() for _ in range(3)]

        assert (await refused(lab))["C"] == "53300"
        told = dict(lab.events)["proxy_descriptors_short"]
        assert told == {"wanted": 10, "allowed": 8, "connections_max": 3}

        monkeypatch.setattr(sockets, "allow_descriptors", lambda wanted: wanted)
        lab.proxy.set_limits(Limits(connections_max=4))
        sessions.append(await lab.session())
        assert [await each.query("who") for each in sessions] == [[b"n1"]] * 4


async def test_clients_wait_in_the_kernel_while_descriptors_are_missing() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        first = await lab.session()
        client = socket.socket()
        client.setblocking(False)
        with no_descriptors_left():
            client.connect_ex((lab.address, PRIMARY_PORT))
            await eventually(lambda: "proxy_accept_paused" in _names(lab))
            await asyncio.sleep(0.3)
            assert _names(lab).count("proxy_accept_paused") == 1
            assert lab.proxy.fault == "the proxy cannot accept clients"
            assert await first.query("who") == [b"n1"]
        await eventually(lambda: lab.proxy.snapshot().accepted_total == 2)
        assert lab.proxy.fault == ""
        client.close()


def _names(lab: ProxyLab) -> list[str]:
    return [name for name, _ in lab.events]


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Use up what this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- bad first packets ---


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("!II", 2**30, 3 << 16),
        struct.pack("!II", 0, 0),
        struct.pack("!II", 16, 0x12345678) + bytes(8),
        struct.pack("!III", 12, 80877102, 1),
        b"\xff" * 100,
    ],
)
async def test_garbage_is_answered_with_an_error(garbage: bytes) -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        bystander = await lab.session()
        client = await lab.connect()
        client.send(garbage)

        assert (await client.error())["C"] in ("08P01", "0A000")
        assert await bystander.query("who") == [b"n1"]
        assert len(lab.servers["n1"].startups) == 1


async def test_half_a_packet_and_silence_is_refused_in_time() -> None:
    async with proxy_lab("n1", limits=SHORT) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(startup()[:11])

        assert (await client.error())["C"] == "08P01"


async def test_a_byte_now_and_then_does_not_prolong_the_deadline() -> None:
    async with proxy_lab("n1", limits=SHORT) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        for byte in startup()[:8]:
            client.send(bytes((byte,)))
            await asyncio.sleep(0.05)

        assert (await client.error())["C"] == "08P01"


async def test_a_reset_at_any_byte_of_the_start_leaves_nothing_behind() -> None:
    linger = struct.pack("ii", 1, 0)
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        opening = SSL_REQUEST + startup(database="d") + query("who")
        for size in range(len(opening) + 1):
            raw = socket.create_connection((lab.address, PRIMARY_PORT))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raw.send(opening[:size])
            if size % 3:
                await asyncio.sleep(0.002)
            raw.close()

        await eventually(lambda: lab.proxy.snapshot().accepted_total > 40)
        await eventually(lambda: lab.proxy.snapshot().connections == 0)
        await eventually(lambda: not lab.servers["n1"].sessions)
        assert await (await lab.session()).query("who") == [b"n1"]
