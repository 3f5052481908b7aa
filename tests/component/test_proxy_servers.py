"""The proxy between a client and a server that misbehaves."""

import asyncio
import socket
import time
from dataclasses import replace

import pytest

from pgbastion.proxy import opening
from pgbastion.proxy.routes import Backend, Limits
from pgbastion.proxy.sockets import FamilyAddress, resolve
from pgbastion.testing.stand_in_server import Behaviour
from support.proxy_lab import (
    REPLICA_PORT,
    ProxyLab,
    deaf_address,
    eventually,
    own_address,
    proxy_lab,
    startup,
)
from support.proxy_opening import (
    SHORT,
    refused,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# --- servers that misbehave ---


async def test_a_server_that_cannot_be_reached_is_reported() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        await lab.servers["n1"].stop()

        error = await refused(lab)

        assert (error["C"], "reached" in error["M"]) == ("57P03", True)
        assert error["D"] == "n1: Connection refused."
        assert lab.proxy.snapshot().traffic[0].failures_total == 1


async def test_a_name_that_does_not_resolve_is_reported() -> None:
    async with proxy_lab("n1") as lab:
        lab.servers["n1"].host = "no-such-host.invalid"
        lab.proxy.set_routes(lab.routes("n1"))

        assert (await refused(lab))["C"] == "57P03"
        lab.servers["n1"].host = "127.0.0.1"


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: FamilyAddress) -> None:
    """Have every server's name stand for these addresses."""

    async def resolved(*_asked: object) -> tuple[FamilyAddress, ...]:
        return found

    monkeypatch.setattr(opening, "resolve", resolved)


def address_of(lab: ProxyLab, node: str) -> FamilyAddress:
    server = lab.servers[node]
    return socket.AF_INET, (server.host, server.port)


@pytest.mark.parametrize("useless", ["refuses", "is deaf", "is of no family"])
async def test_the_next_address_of_a_name_is_tried(
    useless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with an IPv6 and an IPv4 address, and a server on one of them."""
    listener, fillers, port = deaf_address()
    first: dict[str, FamilyAddress] = {
        "refuses": (socket.AF_INET, (own_address(), port)),
        "is deaf": (socket.AF_INET, listener.getsockname()),
        "is of no family": (255, ("::1", port)),
    }
    async with proxy_lab("n1", limits=Limits(connect_s=2)) as lab:
        resolve_to(monkeypatch, first[useless], address_of(lab, "n1"))
        lab.proxy.set_routes(lab.routes("n1"))

        client = await lab.session()

        assert await client.query("who") == [b"n1"]
        (traffic,) = lab.proxy.snapshot().traffic
        assert (traffic.sessions, traffic.failures_total) == (1, 0)
    for raw in (listener, *fillers):
        raw.close()


async def test_how_the_last_address_failed_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy_lab("n1") as lab:
        dead = socket.AF_INET, (own_address(), 1)
        resolve_to(monkeypatch, dead, (255, ("::1", 1)))
        lab.proxy.set_routes(lab.routes("n1"))

        assert "not supported" in (await refused(lab))["D"]

        resolve_to(monkeypatch, dead, dead)
        assert (await refused(lab))["D"] == "n1: Connection refused."
        await eventually(lambda: lab.proxy.snapshot().traffic[0].sessions == 0)
        assert lab.proxy.snapshot().traffic[0].failures_total == 2


async def test_a_change_of_the_routes_ends_the_trying_of_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener, fillers, _ = deaf_address()
    deaf = socket.AF_INET, listener.getsockname()
    async with proxy_lab("n1", "n2", limits=Limits(connect_s=60)) as lab:
        resolve_to(monkeypatch, deaf, address_of(lab, "n1"))
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: len(lab.proxy._board.sessions) == 1)

        resolve_to(monkeypatch, address_of(lab, "n2"))
        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        await client.until_ready()
        assert await client.query("who") == [b"n2"]
        assert lab.servers["n1"].startups == []
    for raw in (listener, *fillers):
        raw.close()


async def test_all_addresses_of_a_name_are_found() -> None:
    class Resolver:
        """A loop that knows one name, of two addresses."""

        async def getaddrinfo(self, *_asked: object, **_how: object) -> list[object]:
            where = [(10, ("2001:db8::1", 5432, 0, 0)), (2, ("192.0.2.1", 5432))]
            return [(family, 1, 6, "", address) for family, address in where]

    backend = Backend("n1", "two-addresses.invalid", 5432)
    found = await resolve(Resolver(), backend, 1)  # type: ignore[arg-type]

    assert found == (
        (10, ("2001:db8::1", 5432, 0, 0)),
        (2, ("192.0.2.1", 5432)),
    )


@pytest.mark.parametrize("behaviour", [Behaviour.SILENT, Behaviour.RESET])
async def test_a_server_that_does_not_answer_is_reported(behaviour: Behaviour) -> None:
    async with proxy_lab("n1", limits=SHORT) as lab:
        lab.servers["n1"].behaviour = behaviour
        lab.proxy.set_routes(lab.routes("n1"))

        assert (await refused(lab))["C"] == "08006"


@pytest.mark.parametrize(
    "behaviour", [Behaviour.SILENT, Behaviour.RESET, Behaviour.STARTING_UP]
)
async def test_another_standby_is_asked_where_one_does_not_serve(
    behaviour: Behaviour,
) -> None:
    async with proxy_lab("n1", "n2", "n3", limits=SHORT) as lab:
        lab.servers["n2"].behaviour = behaviour
        lab.proxy.set_routes(lab.routes("n1", "n2", "n3"))

        for _ in range(3):
            client = await lab.session(REPLICA_PORT)
            assert await client.query("who") == [b"n3"]


async def test_the_last_standbys_own_words_reach_the_client() -> None:
    async with proxy_lab("n1", "n2", "n3") as lab:
        for node in ("n2", "n3"):
            lab.servers[node].behaviour = Behaviour.STARTING_UP
        lab.proxy.set_routes(lab.routes("n1", "n2", "n3"))

        error = await refused(lab, REPLICA_PORT)

        assert (error["C"], "is starting up" in error["M"]) == ("57P03", True)


async def test_a_primarys_own_refusal_reaches_the_client() -> None:
    async with proxy_lab("n1") as lab:
        lab.servers["n1"].behaviour = Behaviour.STARTING_UP
        lab.proxy.set_routes(lab.routes("n1"))

        assert (await refused(lab))["M"] == "n1 is starting up"


async def test_a_client_on_the_way_to_a_dead_host_goes_to_the_new_primary() -> None:
    """The change of routes breaks into the attempt, it does not wait for it."""
    async with proxy_lab("n1") as lab:
        listener, fillers, port = deaf_address()
        dead = Backend("n0", listener.getsockname()[0], port)
        routes = lab.routes("n1")
        lab.proxy.set_routes(replace(routes, epoch=7, primary=dead))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: len(lab.proxy._board.sessions) == 1)

        begin = time.perf_counter()
        lab.proxy.set_routes(routes)
        await client.until_ready()

        assert time.perf_counter() - begin < 0.2
        for raw in (listener, *fillers):
            raw.close()


async def test_a_client_of_a_silent_primary_goes_to_the_new_one() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.servers["n1"].behaviour = Behaviour.SILENT
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: len(lab.proxy._board.sessions) == 1)
        await asyncio.sleep(0.05)

        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        await client.until_ready()
        assert await client.query("who") == [b"n2"]
