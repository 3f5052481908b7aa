"""TLS that ends in the proxy, and TLS with the servers."""

import asyncio
import contextlib
import os
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from pgbastion.errors import ProxyError
from pgbastion.proxy.proxy_protocol import render_header
from pgbastion.proxy.refusals import Refusal
from pgbastion.proxy.routes import Limits
from pgbastion.proxy.tls import Tls, TlsFiles, TlsSocket
from support.certificates import make_certificate
from support.proxy_lab import (
    GSS_REQUEST,
    PRIMARY_PORT,
    SSL_REQUEST,
    WAIT_S,
    ProxyLab,
    RawClient,
    cancel_request,
    eventually,
    proxy_lab,
    query,
    startup,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    cert, key = make_certificate(tmp_path, "proxy")
    return TlsFiles(cert=cert, key=key)


@asynccontextmanager
async def ending(
    files: TlsFiles, *nodes: str, limits: Limits | None = None
) -> AsyncIterator[ProxyLab]:
    """Run a proxy in which TLS ends."""
    async with proxy_lab(*nodes or ("n1",), limits=limits) as lab:
        lab.proxy.set_tls(files)
        lab.proxy.set_routes(lab.routes("n1"))
        yield lab


async def secure(
    lab: ProxyLab, ca: Path, *, direct: bool = False, alpn: str = "postgresql"
) -> RawClient:
    """Connect with TLS, after a request for it or directly."""
    client = await lab.connect()
    if not direct:
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols([alpn])
    async with asyncio.timeout(WAIT_S):
        await client.writer.start_tls(context)
    return client


@pytest.mark.parametrize("direct", [False, True], ids=["request", "direct"])
async def test_tls_ends_in_the_proxy(files: TlsFiles, *, direct: bool) -> None:
    async with ending(files) as lab:
        client = await secure(lab, files.cert, direct=direct)
        client.send(startup(user="alice"))
        await client.until_ready()

        assert await client.query("who") == [b"n1"]
        (shown,) = lab.proxy.sessions()
        assert (shown.encryption, shown.user) == ("terminated", "alice")


async def test_many_bytes_pass_both_ways_whole(files: TlsFiles) -> None:
    async with ending(files) as lab:
        client = await secure(lab, files.cert)
        client.send(startup())
        await client.until_ready()
        for size in (1, 16_383, 16_384, 16_385, 65_537, 3_000_000):
            (row,) = await client.query(f"rows 1 {size}")
            assert len(row) == size
        long = "x" * 2_000_000
        client.send(query(long))
        await client.until_ready()
        assert lab.servers["n1"].queries[-1] == long


async def test_a_session_of_an_ex_primary_is_told_so_in_tls(files: TlsFiles) -> None:
    async with ending(files, "n1", "n2") as lab:
        client = await secure(lab, files.cert)
        client.send(startup())
        await client.until_ready()

        lab.proxy.set_routes(lab.routes("n2", epoch=2))

        assert (await client.error())["C"] == "57P01"


async def test_a_refusal_is_said_within_tls(files: TlsFiles) -> None:
    async with ending(files) as lab:
        lab.proxy.set_routes(lab.routes(None))
        client = await secure(lab, files.cert, direct=True)
        client.send(startup())
        assert (await client.error())["C"] == "57P03"


async def test_a_cancel_request_may_be_encrypted(files: TlsFiles) -> None:
    async with ending(files) as lab:
        session = await secure(lab, files.cert)
        session.send(startup())
        await session.until_ready()
        session.send(query("wait"))
        canceller = await secure(lab, files.cert)
        canceller.send(cancel_request(session.key))
        assert await canceller.rest() == b""
        assert (await session.message())[0] == b"E"


async def test_clients_without_tls_are_served_unless_it_is_required(
    files: TlsFiles,
) -> None:
    async with ending(files) as lab:
        await lab.session()
        lab.proxy.set_tls(replace(files, required=True))
        client = await lab.connect()
        client.send(startup())
        error = await client.error()
        assert (error["C"], "sslmode" in error["H"]) == ("28000", True)
        assert lab.proxy.snapshot().refused_total == {Refusal.NOT_ENCRYPTED: 1}


async def test_gssapi_is_declined_where_tls_ends(files: TlsFiles) -> None:
    async with ending(files) as lab:
        client = await lab.connect()
        client.send(GSS_REQUEST)
        assert await client.read(1) == b"N"
        client.send(startup())
        await client.until_ready()


async def test_bytes_behind_the_request_never_count_as_encrypted(
    files: TlsFiles,
) -> None:
    """What somebody between could put in; CVE-2021-23214."""
    async with ending(files) as lab:
        client = await lab.connect()
        client.send(SSL_REQUEST + startup())
        assert (await client.error())["C"] == "08P01"
        assert lab.servers["n1"].startups == []


async def test_direct_tls_has_to_name_the_protocol(files: TlsFiles) -> None:
    async with ending(files) as lab:
        client = await secure(lab, files.cert, direct=True, alpn="")
        assert (await client.error())["C"] == "08P01"


@pytest.mark.parametrize("garbage", [b"\x16", b"\x16\x03\x01\xff\xff", b"\x16" * 99])
async def test_a_handshake_of_garbage_ends_in_time(
    files: TlsFiles, garbage: bytes
) -> None:
    async with ending(files, limits=Limits(first_packet_s=0.3)) as lab:
        client = await lab.connect()
        client.send(garbage)
        with contextlib.suppress(ConnectionResetError):
            await client.rest()
        await eventually(lambda: lab.proxy.snapshot().connections == 0)
        await lab.session()


async def test_a_certificate_that_changes_is_read_again(
    files: TlsFiles, tmp_path: Path
) -> None:
    async with ending(files) as lab:
        await secure(lab, files.cert)
        other = tmp_path / "other"
        other.mkdir()
        cert, key = make_certificate(other, "another")
        os.replace(key, files.key)  # noqa: PTH105
        os.replace(cert, files.cert)  # noqa: PTH105
        lab.proxy._host.tls._looked_s = 0  # type: ignore[union-attr]

        # It is its own authority, so only the new one is trusted here.
        await secure(lab, files.cert)

        files.cert.write_text("no certificate")
        lab.proxy._host.tls._looked_s = 0  # type: ignore[union-attr]
        client = await lab.connect()
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        assert "proxy_certificate_refused" in [name for name, _ in lab.events]


async def test_certificates_are_read_again_also_where_tls_goes_to_servers_only(
    files: TlsFiles, tmp_path: Path
) -> None:
    async with proxy_lab("n1") as lab:
        there = tmp_path / "server"
        there.mkdir()
        cert, key = make_certificate(there, lab.servers["n1"].host)
        ca = tmp_path / "ca.crt"
        ca.write_bytes(files.cert.read_bytes())
        lab.proxy.set_tls(replace(files, verify="ca", ca=ca))
        async with tls_server(lab, TlsFiles(cert=cert, key=key)):
            lab.proxy.set_routes(lab.routes("n1"))
            client = await lab.connect()
            client.send(startup())
            assert "CERTIFICATE_VERIFY" in (await client.error())["D"]

            ca.write_bytes(cert.read_bytes())
            lab.proxy._host.tls._looked_s = 0  # type: ignore[union-attr]

            await lab.session()


async def test_files_that_cannot_be_used_are_refused(files: TlsFiles) -> None:
    async with ending(files) as lab:
        wrong = replace(files, key=files.cert)
        with pytest.raises(ProxyError, match="TLS"):
            lab.proxy.set_tls(wrong)
        await secure(lab, files.cert)


async def test_tls_that_runs_is_not_begun_anew(files: TlsFiles) -> None:
    """OpenSSL 3 refuses it by itself, older ones do not."""
    async with ending(files) as lab:
        await secure(lab, files.cert)
        (client,) = (o._handshake.client for o in lab.proxy._openings)

        assert isinstance(client, TlsSocket)
        assert client.context.options & ssl.OP_NO_RENEGOTIATION


# --- towards the servers ---


@asynccontextmanager
async def tls_server(lab: ProxyLab, files: TlsFiles) -> AsyncIterator[None]:
    """Put a server with TLS in front of n1's stand-in, whose port it takes."""
    server = lab.servers["n1"]
    plain = server.host, server.port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == SSL_REQUEST
        writer.write(b"S")
        try:
            await writer.start_tls(context)
        except OSError:
            return
        inner_reader, inner_writer = await asyncio.open_connection(*plain)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    front = await asyncio.start_server(serve, server.host, 0)
    server.port = front.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        front.close()
        server.port = plain[1]


@pytest.mark.parametrize("verify", ["require", "ca", "full"])
async def test_the_proxy_connects_to_servers_with_tls(
    files: TlsFiles, tmp_path: Path, verify: str
) -> None:
    async with proxy_lab("n1") as lab:
        there = tmp_path / "server"
        there.mkdir()
        cert, key = make_certificate(there, lab.servers["n1"].host)
        lab.proxy.set_tls(replace(files, verify=verify, ca=cert))
        async with tls_server(lab, TlsFiles(cert=cert, key=key)):
            lab.proxy.set_routes(lab.routes("n1"))
            client = await secure(lab, files.cert)
            client.send(startup())
            await client.until_ready()
            assert client.key
            (row,) = await client.query("rows 1 500000")
            assert len(row) == 500_000
            await lab.session()
            await asyncio.sleep(0)
            for each in lab.clients:
                each.close()
            await eventually(lambda: lab.proxy.snapshot().connections == 0)


@pytest.mark.parametrize("verify", ["ca", "full"])
async def test_a_server_with_another_certificate_is_not_used(
    files: TlsFiles, tmp_path: Path, verify: str
) -> None:
    async with proxy_lab("n1") as lab:
        there = tmp_path / "server"
        there.mkdir()
        name = "somebody.else" if verify == "full" else lab.servers["n1"].host
        cert, key = make_certificate(there, name)
        ca = cert if verify == "full" else files.cert
        lab.proxy.set_tls(replace(files, verify=verify, ca=ca))
        async with tls_server(lab, TlsFiles(cert=cert, key=key)):
            lab.proxy.set_routes(lab.routes("n1"))
            client = await lab.connect()
            client.send(startup())
            error = await client.error()
            assert (error["C"], "CERTIFICATE_VERIFY" in error["D"]) == ("57P03", True)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_a_server_says_after_the_clients_end_arrives(
    files: TlsFiles, version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.minimum_version = context.maximum_version = version
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = socket.create_connection(listener.getsockname(), timeout=WAIT_S)
        far, _ = listener.accept()
        far.settimeout(WAIT_S)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        accepted = pool.submit(context.wrap_socket, far, server_side=True)
        own = Tls(replace(files, verify="require"), print).connect(near, "n1")
        stack.enter_context(own).do_handshake()
        server = stack.enter_context(accepted.result())
        server.sendall(b"before")
        assert select.select([own], [], [], WAIT_S)[0]

        own.shutdown(socket.SHUT_WR)
        server.sendall(b"after")

        assert [own.recv(), own.recv()] == [b"before", b"after"]
        assert server.recv(1) == b""


async def test_a_server_without_tls_is_not_used(files: TlsFiles) -> None:
    async with ending(replace(files, verify="require")) as lab:
        client = await lab.connect()
        client.send(startup())
        assert "does not offer TLS" in (await client.error())["D"]


# --- balancers that tell who their client is ---

BALANCERS = Limits(proxied_from=(ip_network("127.0.0.0/8"),))


async def test_a_balancer_tells_who_its_client_is() -> None:
    async with proxy_lab("n1", limits=BALANCERS) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        header = render_header(("198.51.100.7", 4711), ("10.0.0.1", 5432))
        client.send(header[:20])
        await asyncio.sleep(0.02)
        client.send(header[20:] + startup())
        await client.until_ready()
        (shown,) = lab.proxy.sessions()
        assert shown.client.startswith("198.51.100.7:")
        client.close()
        await eventually(lambda: not lab.proxy._by_address)


async def test_rules_for_addresses_are_for_the_balancers_client() -> None:
    limits = replace(BALANCERS, allow=(ip_network("198.51.100.0/24"),))
    limits = replace(limits, connections_per_address_max=1)
    async with proxy_lab("n1", limits=limits) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        told = []
        for host in ("198.51.100.7", "198.51.100.7", "198.51.100.8", "203.0.113.1"):
            client = await lab.connect()
            client.send(render_header((host, 1), ("10.0.0.1", 2)) + startup())
            kind, body = await client.message()
            told.append("ok" if kind == b"R" else body.split(b"C")[1][:5].decode())
        assert told == ["ok", "53300", "ok", "28000"]


async def test_a_balancer_without_the_header_is_refused() -> None:
    async with proxy_lab("n1", limits=BALANCERS) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(startup())
        assert (await client.error())["C"] == "08P01"


async def test_a_server_can_be_told_the_clients_address() -> None:
    async with proxy_lab("n1", limits=Limits(tells_servers=True)) as lab:
        heard = asyncio.get_running_loop().create_future()

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            heard.set_result(await reader.readexactly(28))
            writer.close()

        server = await asyncio.start_server(serve, lab.servers["n1"].host, 0)
        lab.servers["n1"].port = server.sockets[0].getsockname()[1]
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(startup())
        own = client.writer.get_extra_info("sockname")
        async with asyncio.timeout(WAIT_S):
            header = await heard
        there = (lab.servers["n1"].host, lab.servers["n1"].port)
        assert header == render_header(own, there)
        assert struct.unpack("!H", header[24:26])[0] == own[1]
        assert PRIMARY_PORT
        server.close()
