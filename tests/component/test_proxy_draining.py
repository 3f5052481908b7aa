"""Taking a proxy, a server or an address out of service; who is connected."""

import asyncio
import socket
from dataclasses import replace
from ipaddress import ip_network

import pytest

from pgbastion.errors import ProxyError
from pgbastion.proxy.refusals import Refusal
from pgbastion.proxy.routes import Binding, DataPath, Limits, Service
from pgbastion.testing.stand_in_server import READY, Behaviour
from support.proxy_lab import (
    PRIMARY_PORT,
    REPLICA_PORT,
    SSL_REQUEST,
    ProxyLab,
    eventually,
    own_address,
    proxy_lab,
    query,
    raw_pair,
    startup,
    two_free_ports,
)

pytestmark = pytest.mark.anyio
ANY_PORT = REPLICA_PORT + 1


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def refused(lab: ProxyLab, port: int = PRIMARY_PORT) -> dict[str, str]:
    client = await lab.connect(port)
    client.send(startup())
    return await client.error()


# --- the proxy ---


async def test_a_draining_proxy_lets_nobody_in_and_ends_sessions_in_the_end() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        session = await lab.session()

        lab.proxy.drain(0.4)

        error = await refused(lab)
        assert (error["C"], "maintenance" in error["M"]) == ("57P01", True)
        assert await session.query("who") == [b"n1"]
        assert lab.proxy.snapshot().draining
        assert 0 < lab.proxy.snapshot().drain_left_s < 0.5
        assert (await session.error())["C"] == "57P01"
        assert lab.proxy.snapshot().refused_total == {Refusal.DRAINING: 1}


async def test_those_who_wait_are_told_when_the_proxy_drains() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        client = await lab.connect()
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        lab.proxy.drain(5)

        assert (await client.error())["C"] == "57P01"


async def test_a_proxy_that_is_needed_again_takes_clients_and_keeps_sessions() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        session = await lab.session()
        lab.proxy.drain(0.2)

        lab.proxy.undrain()

        await lab.session()
        await eventually(lambda: not lab.proxy.snapshot().draining)
        assert await session.query("who") == [b"n1"]


async def test_before_a_stop_idle_sessions_end_at_once_and_others_when_done() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        idle, busy = await lab.session(), await lab.session()
        await busy.query("who")
        busy.send(query("wait"))
        await eventually(lambda: lab.servers["n1"].queries.count("wait") == 1)

        lab.proxy.drain(30, idle_first=True)

        assert (await idle.error())["C"] == "57P01"
        assert lab.proxy.snapshot().connections == 1
        pid = int.from_bytes(busy.key[:4], "big")
        lab.servers["n1"]._cancelled[pid].set()
        assert next(kind for kind, _ in await busy.until_ready()) == b"E"
        assert (await busy.error())["C"] == "57P01"
        await lab.proxy.until_empty()


async def test_before_a_stop_a_client_that_does_not_wait_for_answers_gets_them() -> (
    None
):
    """It sends transactions in a row: after each answer it seems to be idle."""
    async with raw_pair(DataPath.USERSPACE) as pair:
        await pair.loop.sock_sendall(pair.client, query("who") * 8)
        await pair.receive(pair.server, 8 * len(query("who")))
        await pair.loop.sock_sendall(pair.server, READY)
        await pair.receive(pair.client, len(READY))

        pair.lab.proxy.drain(30, idle_first=True)

        for _ in range(7):
            await asyncio.sleep(0.05)
            await pair.loop.sock_sendall(pair.server, READY)
            assert await pair.receive(pair.client, len(READY)) == READY
        assert b"57P01" in await pair.end_of(pair.client)


# --- a server ---


async def test_a_standby_that_is_taken_out_again_has_all_of_its_time_again() -> None:
    async with proxy_lab("n1", "n2", limits=Limits(drain_s=0.5)) as lab:
        out = replace(lab.routes("n1"), draining=frozenset({lab.backend("n2")}))
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        reader = await lab.session(REPLICA_PORT)
        lab.proxy.set_routes(out)
        first = lab.proxy._board._drains[lab.backend("n2")]

        lab.proxy.set_routes(lab.routes("n1", "n2"))
        lab.proxy.set_routes(replace(out, revision=9))

        assert first.cancelled()
        assert await reader.query("who") == [b"n2"]
        assert "maintenance" in (await reader.error())["M"]
        assert not lab.proxy._board._drains


async def test_sessions_with_a_standby_that_is_taken_out_end_after_a_while() -> None:
    limits = Limits(drain_s=0.3)
    async with proxy_lab("n1", "n2", "n3", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        reader, writer = await lab.session(REPLICA_PORT), await lab.session()
        taken_out = frozenset({lab.backend("n2")})

        lab.proxy.set_routes(replace(lab.routes("n1", "n3"), draining=taken_out))

        assert await reader.query("who") == [b"n2"]
        newcomer = await lab.session(REPLICA_PORT)
        assert await newcomer.query("who") == [b"n3"]
        assert "maintenance" in (await reader.error())["M"]
        assert await writer.query("who") == [b"n1"]


async def test_a_primary_that_drains_keeps_its_sessions() -> None:
    """The role has to go first."""
    async with proxy_lab("n1", limits=Limits(drain_s=0)) as lab:
        taken_out = frozenset({lab.backend("n1")})
        lab.proxy.set_routes(replace(lab.routes("n1"), draining=taken_out))
        session = await lab.session()
        assert await session.query("who") == [b"n1"]
        assert await session.query("who") == [b"n1"]


# --- addresses ---


def binding(lab: ProxyLab, *addresses: str, **ports: int) -> Binding:
    given = {Service(name): port for name, port in ports.items()}
    return Binding(addresses=addresses or (lab.address,), ports=given)


async def test_an_address_that_closes_gives_its_sessions_time() -> None:
    async with proxy_lab("n1", "n2", limits=Limits(drain_s=0.3)) as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        stays, goes = await lab.session(), await lab.session(REPLICA_PORT)

        lab.proxy.rebind(binding(lab, primary=PRIMARY_PORT, any=ANY_PORT))

        with pytest.raises(ConnectionRefusedError):
            await lab.connect(REPLICA_PORT)
        await lab.session(ANY_PORT)
        assert await goes.query("who") == [b"n2"]
        assert (await goes.error())["C"] == "57P01"
        assert await stays.query("who") == [b"n1"]


async def test_an_address_that_closes_again_gives_the_whole_time_again() -> None:
    async with proxy_lab("n1", "n2", limits=Limits(drain_s=0.2)) as lab:
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        client = await lab.session(REPLICA_PORT)
        closed = binding(lab, primary=PRIMARY_PORT)
        lab.proxy.rebind(closed)
        lab.proxy.rebind(binding(lab, primary=PRIMARY_PORT, replica=REPLICA_PORT))
        lab.proxy.set_limits(Limits(drain_s=60))

        lab.proxy.rebind(closed)

        await asyncio.sleep(0.4)
        assert await client.query("who") == [b"n2"]


async def test_an_address_that_cannot_be_had_changes_nothing() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        taken = socket.create_server((lab.address, ANY_PORT))
        with taken, pytest.raises(ProxyError, match=str(ANY_PORT)):
            lab.proxy.rebind(binding(lab, any=ANY_PORT))

        await lab.session()


async def test_many_addresses_and_both_families_are_served() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        other = own_address()
        lab.proxy.rebind(binding(lab, lab.address, other, "::1", primary=PRIMARY_PORT))

        for address in (lab.address, other, "::1"):
            lab.address = address
            assert await (await lab.session()).query("who") == [b"n1"]


async def test_one_address_takes_the_place_of_all_and_the_other_way_round() -> None:
    port = two_free_ports()
    limits = Limits(drain_s=0.2)
    async with proxy_lab("n1", first_port=port, limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        stays = await lab.session()
        for address in ("0.0.0.0", "::", lab.address):
            lab.proxy.rebind(binding(lab, address, primary=port))
            assert await (await lab.session()).query("who") == [b"n1"]
        # Its own address was open all the time.
        await asyncio.sleep(0.4)
        assert await stays.query("who") == [b"n1"]

        # Where the new one cannot be had, the old one is there again.
        with pytest.raises(ProxyError, match=r"192\.0\.2\.1"):
            lab.proxy.rebind(binding(lab, "127.0.0.1", "192.0.2.1", primary=port))
        assert await (await lab.session()).query("who") == [b"n1"]


@pytest.mark.parametrize("more", ["0.0.0.0", "127.0.0.1", "::1"])
async def test_all_addresses_of_both_families_include_others_that_are_named(
    more: str,
) -> None:
    port = two_free_ports()
    async with proxy_lab("n1", first_port=port) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        lab.proxy.rebind(binding(lab, more, "::", primary=port))

        for address in (lab.address, "::1"):
            lab.address = address
            assert await (await lab.session()).query("who") == [b"n1"]


async def test_nobody_waits_at_an_address_that_was_closed() -> None:
    """Systemd keeps a copy of its socket, which must not go on taking clients."""
    async with proxy_lab("n1") as lab:
        copies = [listener.dup() for listener in lab.proxy.listening]
        lab.proxy.rebind(binding(lab, primary=PRIMARY_PORT))

        with pytest.raises(ConnectionRefusedError):
            await lab.connect(REPLICA_PORT)
        for copy in copies:
            copy.close()


# --- readers ---


async def test_the_port_for_any_server_takes_the_primary_too() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.rebind(binding(lab, primary=PRIMARY_PORT, any=ANY_PORT))
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        clients = [await lab.session(ANY_PORT) for _ in range(4)]
        asked = [(await c.query("who"))[0] for c in clients]
        assert sorted(asked) == [b"n1", b"n1", b"n2", b"n2"]

        lab.proxy.set_routes(lab.routes(None, "n2", epoch=2, hold=True))
        later = await lab.session(ANY_PORT)
        assert await later.query("who") == [b"n2"]


async def test_a_heavier_standby_gets_more_sessions() -> None:
    async with proxy_lab("n1", "n2", "n3") as lab:
        routes = lab.routes("n1", "n2", "n3")
        lab.proxy.set_routes(replace(routes, weights={"n3": 3}))
        clients = [await lab.session(REPLICA_PORT) for _ in range(8)]
        asked = [(await c.query("who"))[0] for c in clients]
        assert (asked.count(b"n2"), asked.count(b"n3")) == (2, 6)


# --- who may come, and who is there ---


async def test_an_address_that_is_not_allowed_is_told_so() -> None:
    limits = Limits(allow=(ip_network("10.0.0.0/8"),))
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        error = await refused(lab)
        assert (error["C"], "proxy.allow" in error["H"]) == ("28000", True)

        lab.proxy.set_limits(replace(limits, allow=(ip_network("127.0.0.0/8"),)))
        await lab.session()


async def test_every_client_is_described() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.servers["n2"].tls = True
        lab.proxy.set_routes(lab.routes("n1", "n2"))
        client = await lab.connect()
        client.send(startup(user="alice", database="shop", application_name="till"))
        await client.until_ready()
        await client.query("who")
        hidden = await lab.connect(REPLICA_PORT)
        hidden.send(SSL_REQUEST)
        assert await hidden.read(1) == b"S"
        silent = await lab.connect()
        silent.send(b"\0")
        lab.servers["n1"].behaviour = Behaviour.SILENT
        await eventually(lambda: len(list(lab.proxy.sessions())) == 3)

        opening, session, encrypted = lab.proxy.sessions()

        assert (session.user, session.database, session.application) == (
            "alice", "shop", "till",
        )  # fmt: skip
        assert (session.node, session.epoch, session.state) == ("n1", 1, "open")
        assert session.client == "{}:{}".format(
            *client.writer.get_extra_info("sockname")
        )
        assert (session.path, session.encryption) == ("userspace", "none")
        assert session.bytes_to_client > session.bytes_to_server == len(query("who"))
        assert 0 <= session.age_s < 10
        assert (encrypted.encryption, encrypted.user) == ("passthrough", "")
        assert (opening.state, opening.node) == ("opening", "")


async def test_a_client_that_waits_is_shown_so() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes(None, hold=True))
        client = await lab.connect()
        client.send(startup(user="bob"))
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        (shown,) = lab.proxy.sessions()

        assert (shown.state, shown.user, shown.database) == ("waiting", "bob", "bob")
