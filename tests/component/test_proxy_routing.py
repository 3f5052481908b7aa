"""Where the proxy's ports lead, and what ends a session."""

import asyncio
import os
import socket
import time
from collections import Counter

import pytest

from pgbastion.errors import ProxyError
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.refusals import Refusal
from pgbastion.proxy.routes import Binding, Limits, Service
from support.proxy_lab import (
    PRIMARY_PORT,
    REPLICA_PORT,
    eventually,
    own_address,
    proxy_lab,
    query,
    seconds_from_now,
    startup,
    two_free_ports,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_the_primary_port_leads_to_the_primary() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n2", "n1"))

        client = await lab.session(PRIMARY_PORT)

        assert await client.query("who") == [b"n2"]


async def test_the_replica_port_takes_the_standby_with_fewest_sessions() -> None:
    async with proxy_lab("n1", "n2", "n3") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2", "n3"))

        first = [await lab.session(REPLICA_PORT) for _ in range(4)]
        nodes = Counter([(await c.query("who"))[0] for c in first])
        assert nodes == {b"n2": 2, b"n3": 2}

        for client in first:
            if await client.query("who") == [b"n2"]:
                client.close()
        await eventually(lambda: not lab.servers["n2"].sessions)
        later = [await lab.session(REPLICA_PORT) for _ in range(2)]
        assert [await c.query("who") for c in later] == [[b"n2"], [b"n2"]]


async def test_before_any_routes_clients_wait_and_are_then_refused() -> None:
    async with proxy_lab("n1", limits=Limits(hold_s=0.2)) as lab:
        for port in (PRIMARY_PORT, REPLICA_PORT):
            client = await lab.connect(port)
            client.send(startup())
            error = await client.error()
            assert error["C"] == "57P03"
            assert "not learnt" in error["D"]


async def test_sessions_of_an_ex_primary_end_before_set_routes_returns() -> None:
    """S5: the server's side is reset, the client reads 57P01 and the end."""
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()

        lab.proxy.set_routes(lab.routes("n2", epoch=2))
        assert lab.proxy.snapshot().connections == 0

        begin = time.perf_counter()
        error = await client.error()
        assert error["C"] == "57P01"
        assert "n2 in epoch 2" in error["D"]
        assert time.perf_counter() - begin < 0.1
        await eventually(lambda: lab.servers["n1"].endings == ["reset"])
        assert await (await lab.session()).query("who") == [b"n2"]
        assert lab.proxy.snapshot().superseded_total == 1


async def test_a_session_ends_with_its_epoch_though_the_primary_stays() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", epoch=1))
        client = await lab.session()

        lab.proxy.set_routes(lab.routes("n1", epoch=2))

        assert (await client.error())["C"] == "57P01"


async def test_a_session_outlives_routes_that_do_not_concern_it() -> None:
    async with proxy_lab("n1", "n2", "n3") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2", "n3"))
        writer, reader = await lab.session(), await lab.session(REPLICA_PORT)

        lab.proxy.set_routes(lab.routes("n1"))

        assert await writer.query("who") == [b"n1"]
        assert await reader.query("who") in ([b"n2"], [b"n3"])


async def test_a_session_with_a_standby_ends_when_that_becomes_primary() -> None:
    """Otherwise it could write and be bound to no epoch."""
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        client = await lab.session(REPLICA_PORT)

        lab.proxy.set_routes(lab.routes("n2", "n2", epoch=2))

        assert (await client.error())["C"] == "57P01"


async def test_a_readers_session_ends_whatever_address_it_came_by() -> None:
    """It is the same server, whatever address the session has reached it by."""
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        client = await lab.session(REPLICA_PORT)
        lab.servers["n2"].host = own_address()

        lab.proxy.set_routes(lab.routes("n2", "n2", epoch=2))

        assert (await client.error())["C"] == "57P01"


async def test_reads_on_the_primary_are_bound_to_its_expiry() -> None:
    """The routes may name the primary among those that serve reads."""
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n1", left_s=0.3))
        client = await lab.session(REPLICA_PORT)
        assert await client.query("who") == [b"n1"]

        assert (await client.error())["C"] == "57P01"
        late = await lab.connect(REPLICA_PORT)
        late.send(startup())
        assert (await late.error())["C"] == "57P03"


async def test_nothing_is_put_into_a_message_that_is_not_whole() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()
        client.send(query("half"))
        half = await client.read(55)

        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        assert half.startswith(b"D")
        assert await client.rest() == b""


async def test_an_expired_view_ends_sessions_and_refuses() -> None:
    """S5: nobody has to call anything for this."""
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2", left_s=0.3))
        client, reader = await lab.session(), await lab.session(REPLICA_PORT)

        error = await client.error()
        assert error["C"] == "57P01"
        assert "longer than the lease" in error["D"]
        late = await lab.connect()
        late.send(startup())
        assert (await late.error())["C"] == "57P03"
        assert not lab.proxy.snapshot().primary_usable
        assert lab.proxy.snapshot().refused_total == {Refusal.VIEW_EXPIRED: 1}
        assert await reader.query("who") == [b"n2"]


async def test_an_extended_view_keeps_sessions_and_never_shrinks() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", left_s=0.3))
        client = await lab.session()

        lab.proxy.extend(seconds_from_now(60))
        lab.proxy.extend(seconds_from_now(0.1))
        await asyncio.sleep(0.5)

        assert await client.query("who") == [b"n1"]


async def test_an_extension_after_the_expiry_opens_the_port_again() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", left_s=-1))
        assert not lab.proxy.snapshot().primary_usable

        lab.proxy.extend(seconds_from_now(0.4))

        client = await lab.session()
        assert (await client.error())["C"] == "57P01"


async def test_shorter_routes_take_effect_for_idle_sessions() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", left_s=60))
        client = await lab.session()
        lab.proxy.set_routes(lab.routes("n1", left_s=0.2))

        begin = time.perf_counter()
        assert (await client.error())["C"] == "57P01"
        assert time.perf_counter() - begin < 0.5


async def test_a_proxy_that_was_frozen_past_the_expiry_moves_nothing() -> None:
    """What arrived meanwhile is not passed on before the timer gets its turn."""
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", left_s=0.2))
        client = await lab.session()
        lab.proxy._board.close()  # no timer: the relay has to look by itself
        os.write(client.writer.get_extra_info("socket").fileno(), query("insert"))

        time.sleep(0.4)  # noqa: ASYNC251 - the loop itself is what has to stand still

        assert (await client.error())["C"] == "57P01"
        await eventually(lambda: lab.servers["n1"].endings == ["reset"])
        assert lab.servers["n1"].queries == []


@pytest.mark.parametrize(
    ("bind", "dialled", "backend"),
    [
        ("::1", "::1", "::1"),
        ("::", "127.0.0.1", "127.0.0.1"),
        ("::", "::1", "127.0.0.1"),
    ],
)
async def test_both_families_are_served(bind: str, dialled: str, backend: str) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    port = two_free_ports()  # "::" has the port on every address
    async with proxy_lab("n1", bind=bind, backend=backend, first_port=port) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        lab.address = dialled
        client = await lab.session()

        assert await client.query("who") == [b"n1"]
        (relay,) = lab.proxy._relays
        assert relay.client_address == dialled


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


async def test_an_address_in_use_is_named_with_its_holder() -> None:
    async with proxy_lab("n1") as lab:
        second = Proxy(
            binding=Binding(
                addresses=(lab.address,),
                ports={Service.PRIMARY: PRIMARY_PORT, Service.REPLICA: REPLICA_PORT},
            ),
            limits=Limits(),
            on_event=lambda _name, _fields: None,
        )
        with pytest.raises(ProxyError, match=rf"{lab.address}:15432.*\(pid \d+\)"):
            await second.start()


async def test_a_name_is_no_address_to_listen_on() -> None:
    proxy = Proxy(
        binding=Binding(
            addresses=("localhost",),
            ports={Service.PRIMARY: PRIMARY_PORT, Service.REPLICA: REPLICA_PORT},
        ),
        limits=Limits(),
        on_event=lambda _name, _fields: None,
    )
    with pytest.raises(ProxyError, match="no IP address"):
        await proxy.start()


async def test_stopping_waits_for_sessions_and_then_ends_them() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        quick, idle = await lab.session(), await lab.session()

        stopping = asyncio.create_task(lab.proxy.stop(0.5))
        await asyncio.sleep(0.1)
        assert await quick.query("who") == [b"n1"]
        with pytest.raises(OSError, match=r"(?i)refused"):
            await lab.connect()
        quick.close()

        error = await idle.error()
        assert (error["C"], "stopping" in error["M"]) == ("57P01", True)
        await stopping


async def test_stopping_ends_at_once_when_the_last_session_has_gone() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()
        begin = time.perf_counter()
        stopping = asyncio.create_task(lab.proxy.stop(5))
        await asyncio.sleep(0.05)
        client.close()
        await stopping

        assert time.perf_counter() - begin < 2


async def test_bytes_and_sessions_are_counted_for_each_server() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        client, reader = await lab.session(), await lab.session(REPLICA_PORT)
        await client.query("rows 10 1000")
        await reader.query("who")
        running = {(t.service, t.node): t for t in lab.proxy.snapshot().traffic}
        client.close()
        await eventually(lambda: lab.proxy.snapshot().connections == 1)
        ended = {(t.service, t.node): t for t in lab.proxy.snapshot().traffic}

        assert running[Service.PRIMARY, "n1"].sessions == 1
        assert running[Service.PRIMARY, "n1"].bytes_to_server == len(
            query("rows 10 1000")
        )
        assert running[Service.PRIMARY, "n1"].bytes_to_client > 10_000
        assert running[Service.REPLICA, "n2"].sessions == 1
        assert ended[Service.PRIMARY, "n1"].sessions == 0
        assert ended[Service.PRIMARY, "n1"].sessions_total == 1
        assert (
            ended[Service.PRIMARY, "n1"].bytes_to_client
            == running[Service.PRIMARY, "n1"].bytes_to_client
        )
