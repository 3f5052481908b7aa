"""Balancers that begin with the PROXY protocol: whatever else happens at the time."""

import asyncio
import socket
import ssl
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from pgbastion.proxy.proxy_protocol import SIGNATURE, render_header
from pgbastion.proxy.routes import Limits
from pgbastion.proxy.tls import TlsFiles
from support.certificates import make_certificate
from support.proxy_lab import (
    PRIMARY_PORT,
    WAIT_S,
    cancel_request,
    eventually,
    proxy_lab,
    startup,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BALANCERS = Limits(proxied_from=(ip_network("127.0.0.0/8"),))
HEADER = render_header(("198.51.100.7", 4711), ("10.0.0.1", 5432))
LOCAL = SIGNATURE + b"\x20\0\0\0"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_its_clients_are_told_as_well_that_the_proxy_drains() -> None:
    async with proxy_lab("n1", limits=BALANCERS) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        lab.proxy.drain(5)
        client = await lab.connect()
        client.send(HEADER + startup())

        assert (await client.error())["C"] == "57P01"
        await eventually(lambda: not lab.proxy._by_address)


async def test_a_balancer_may_ask_for_itself_whether_a_server_answers() -> None:
    """The specification: a LOCAL connection is valid, and its own address counts."""
    async with proxy_lab("n1", limits=BALANCERS) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(LOCAL + startup())
        await client.until_ready()

        (shown,) = lab.proxy.sessions()
        assert shown.client.startswith("127.0.0.1:")
        client.close()
        await eventually(lambda: not lab.proxy._by_address)


async def test_a_balancer_that_asks_for_itself_counts_as_one_address() -> None:
    limits = replace(BALANCERS, connections_per_address_max=1)
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(LOCAL + startup())
        await client.until_ready()

        second = await lab.connect()
        second.send(LOCAL + startup())
        assert (await second.error())["C"] == "53300"
        client.close()
        await eventually(lambda: not lab.proxy._by_address)


async def test_rules_for_addresses_are_for_its_own_one_where_it_asks_for_itself() -> (
    None
):
    limits = replace(BALANCERS, allow=(ip_network("198.51.100.0/24"),))
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(LOCAL + startup())

        assert (await client.error())["C"] == "28000"


async def test_direct_tls_may_follow_its_header_at_once(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "proxy")
    async with proxy_lab("n1", limits=BALANCERS) as lab:
        lab.proxy.set_tls(TlsFiles(cert=cert, key=key))
        lab.proxy.set_routes(lab.routes("n1"))
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        context.set_alpn_protocols(["postgresql"])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client = await lab.connect()
        client.send(HEADER + outgoing.read())

        async with asyncio.timeout(WAIT_S):
            incoming.write(await client.reader.read(1 << 16))
        tls.do_handshake()
        assert tls.selected_alpn_protocol() == "postgresql"


@pytest.mark.parametrize("reloaded", [False, True])
async def test_servers_that_are_told_of_clients_are_so_before_a_cancel(
    *, reloaded: bool
) -> None:
    """A connection without the header is none that such a server takes."""
    limits = Limits(tells_servers=True)
    async with proxy_lab("n1", limits=None if reloaded else limits) as lab:
        lab.proxy.set_limits(limits)
        request = cancel_request(bytes(8))
        heard = asyncio.get_running_loop().create_future()

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            heard.set_result(await reader.readexactly(len(LOCAL) + len(request)))
            writer.close()

        server = await asyncio.start_server(serve, lab.servers["n1"].host, 0)
        lab.servers["n1"].port = server.sockets[0].getsockname()[1]
        lab.proxy.set_routes(lab.routes("n1"))
        try:
            with socket.create_connection((lab.address, PRIMARY_PORT)) as client:
                client.send(request)
                async with asyncio.timeout(WAIT_S):
                    assert await heard == LOCAL + request
        finally:
            server.close()
