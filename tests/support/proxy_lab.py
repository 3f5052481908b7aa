"""A proxy between stand-in servers and clients that speak the bare protocol."""

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgbastion.clock import boottime_ns
from pgbastion.proxy.listener import OnUnknownCancel, Proxy
from pgbastion.proxy.relay import Relay
from pgbastion.proxy.routes import Backend, Binding, DataPath, Limits, Routes, Service
from pgbastion.testing.stand_in_server import READY, StandInServer

PRIMARY_PORT = 15432
REPLICA_PORT = 15433
WAIT_S = 10.0
SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSS_REQUEST = struct.pack("!II", 8, 80877104)

_numbers = itertools.count(1)


def own_address() -> str:
    """Return a loopback address that no other test of this run uses."""
    number = next(_numbers)
    return f"127.35.{os.getpid() % 250 + 1}.{number % 250 + 1}"


def two_free_ports() -> int:
    """Return a port that is free on every address, like the one after it."""
    # Below the range from which the kernel takes ports for those who name none.
    for port in range(20_000 + os.getpid() % 5_000 * 2, 32_000, 2):
        with contextlib.suppress(OSError):
            for number in (port, port + 1):
                where = ("::", number)
                socket.create_server(where, family=socket.AF_INET6).close()
            return port
    raise AssertionError("no two ports are free")


def seconds_from_now(seconds: float) -> int:
    """Return an instant of CLOCK_BOOTTIME in nanoseconds."""
    return boottime_ns() + int(seconds * 1e9)


@dataclass
class ProxyLab:
    """One proxy, its servers, and what it reported."""

    proxy: Proxy
    address: str
    servers: dict[str, StandInServer]
    events: list[tuple[str, Mapping[str, object]]]
    first_port: int = PRIMARY_PORT
    revision: int = 0
    clients: list["RawClient"] = field(default_factory=list)

    def backend(self, node: str) -> Backend:
        """Return where ``node``'s server listens."""
        server = self.servers[node]
        return Backend(node, server.host, server.port)

    def routes(
        self,
        primary: str | None,
        *replicas: str,
        epoch: int = 1,
        left_s: float = 60.0,
        hold: bool = False,
        park: bool = False,
        patient: bool = False,
    ) -> Routes:
        """Describe routes to nodes of this lab."""
        self.revision += 1
        return Routes(
            revision=self.revision,
            epoch=epoch,
            primary=self.backend(primary) if primary else None,
            primary_reason="the test says so",
            replicas=tuple(self.backend(node) for node in replicas),
            replica_reason="the test says so, too",
            expires_ns=seconds_from_now(left_s),
            hold=hold or park,
            park=park,
            patient=patient,
        )

    async def connect(self, port: int = PRIMARY_PORT) -> "RawClient":
        """Open a connection to the proxy and send nothing."""
        at = self.first_port + port - PRIMARY_PORT
        reader, writer = await asyncio.open_connection(self.address, at)
        client = RawClient(reader, writer)
        self.clients.append(client)
        return client

    async def session(self, port: int = PRIMARY_PORT) -> "RawClient":
        """Open a session up to the server's ReadyForQuery."""
        client = await self.connect(port)
        client.send(startup())
        await client.until_ready()
        return client


@asynccontextmanager
async def proxy_lab(
    *nodes: str,
    limits: Limits | None = None,
    data_path: DataPath = DataPath.USERSPACE,
    on_unknown_cancel: OnUnknownCancel | None = None,
    bind: str = "",
    backend: str = "",
    first_port: int = PRIMARY_PORT,
    settle_s: float = 0,
) -> AsyncIterator[ProxyLab]:
    """Run a proxy with one stand-in server a node, and end everything afterwards."""
    address = bind or own_address()
    servers = {
        node: StandInServer(node, host=backend or own_address()) for node in nodes
    }
    events: list[tuple[str, Mapping[str, object]]] = []
    proxy = Proxy(
        binding=Binding(
            addresses=(address,),
            ports={Service.PRIMARY: first_port, Service.REPLICA: first_port + 1},
        ),
        limits=replace(limits or Limits(), linger_s=0.2, settle_s=settle_s),
        on_event=lambda name, fields: events.append((name, dict(fields))),
        on_unknown_cancel=on_unknown_cancel,
        data_path=data_path,
    )
    lab = ProxyLab(proxy, address, servers, events, first_port)
    try:
        for server in servers.values():
            await server.start()
        await proxy.start()
        await eventually(lambda: "proxy_data_path" in [name for name, _ in events])
        yield lab
    finally:
        for client in lab.clients:
            client.close()
        await proxy.stop(0)
        for server in servers.values():
            await server.stop()
        # Transports close one pass of the loop after they were told to.
        await asyncio.sleep(0.01)


@dataclass
class RawClient:
    """A client that sees the bytes of the protocol."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: bytes = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    def close(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()

    async def read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readexactly(size)

    async def message(self) -> tuple[bytes, bytes]:
        """Read one message: its kind and its body."""
        kind, length = struct.unpack("!cI", await self.read(5))
        return kind, await self.read(length - 4)

    async def until_ready(self) -> list[tuple[bytes, bytes]]:
        """Read messages until ReadyForQuery; return those before it."""
        messages = []
        while (message := await self.message())[0] != b"Z":
            if message[0] == b"K":
                self.key = message[1]
            messages.append(message)
        return messages

    async def query(self, text: str) -> list[bytes]:
        """Run a query; return the first column of each row."""
        self.send(query(text))
        return [body[6:] for kind, body in await self.until_ready() if kind == b"D"]

    async def error(self) -> dict[str, str]:
        """Read an ErrorResponse and then the end of the connection."""
        kind, body = await self.message()
        assert kind == b"E", (kind, body)
        assert await self.rest() == b""
        return {text[0]: text[1:] for text in body[:-2].decode().split("\0")}

    async def rest(self) -> bytes:
        """Read up to the end of the connection."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()


def startup(**parameters: str) -> bytes:
    """Build a StartupMessage of protocol 3.0."""
    pairs = "".join(f"{k}\0{v}\0" for k, v in {"user": "u", **parameters}.items())
    body = struct.pack("!I", 3 << 16) + pairs.encode() + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def query(text: str) -> bytes:
    """Build a Query message."""
    body = text.encode() + b"\0"
    return b"Q" + struct.pack("!I", len(body) + 4) + body


def cancel_request(key: bytes) -> bytes:
    """Build a CancelRequest from the body of BackendKeyData."""
    return struct.pack("!II", len(key) + 8, 80877102) + key


@dataclass
class RawPair:
    """Both ends of one session, as plain sockets."""

    lab: ProxyLab
    client: socket.socket
    server: socket.socket
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    @property
    def relay(self) -> Relay:
        (relay,) = self.lab.proxy._relays
        return relay

    async def until_in_kernel(self) -> None:
        """Exchange messages until the kernel moves both directions."""
        async with asyncio.timeout(WAIT_S):
            while not all(self.kernel_share):
                await self.loop.sock_sendall(self.client, b"ping")
                assert await self.receive(self.server, 4) == b"ping"
                await self.loop.sock_sendall(self.server, READY)
                assert await self.receive(self.client, len(READY)) == READY
                await asyncio.sleep(0.001)

    @property
    def kernel_share(self) -> tuple[int, int]:
        """How many bytes the kernel moved up and down."""
        up, down = self.relay.up, self.relay.down
        return up.total - up.moved, down.total - down.moved

    async def receive(self, at: socket.socket, size: int) -> bytes:
        received = bytearray()
        async with asyncio.timeout(WAIT_S):
            while len(received) < size:
                data = await self.loop.sock_recv(at, size - len(received))
                assert data, "the connection ended early"
                received += data
        return bytes(received)

    async def end_of(self, at: socket.socket) -> bytes:
        received = bytearray()
        async with asyncio.timeout(WAIT_S):
            while data := await self.loop.sock_recv(at, 65536):
                received += data
        return bytes(received)


def kernel_path_is_possible() -> bool:
    """Tell whether this process may load programs into this kernel."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    cap_net_admin, cap_bpf = 1 << 12, 1 << 39
    return bool(effective & cap_net_admin and effective & cap_bpf)


@asynccontextmanager
async def raw_pair(
    data_path: DataPath, limits: Limits | None = None, *, left_s: float = 60
) -> AsyncIterator[RawPair]:
    """Connect a client through the proxy to a server socket of the test."""
    loop = asyncio.get_running_loop()
    async with proxy_lab("n1", limits=limits, data_path=data_path) as lab:
        await lab.servers["n1"].stop()
        with socket.create_server((lab.servers["n1"].host, 0)) as listener:
            listener.setblocking(False)
            lab.servers["n1"].port = listener.getsockname()[1]
            lab.proxy.set_routes(lab.routes("n1", left_s=left_s))
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, (lab.address, PRIMARY_PORT))
            await loop.sock_sendall(client, startup())
            server, _ = await loop.sock_accept(listener)
        pair = RawPair(lab, client, server)
        try:
            assert await pair.receive(server, len(startup())) == startup()
            await loop.sock_sendall(server, b"R\0\0\0\x08\0\0\0\0")
            await pair.receive(client, 9)
            if data_path is DataPath.KERNEL:
                await pair.until_in_kernel()
            yield pair
        finally:
            # A test may have replaced an end.
            for end in (client, server, pair.client, pair.server):
                end.close()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds.

    Raises:
        TimeoutError: It did not within `WAIT_S`.
    """
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - conditions are of any kind
            await asyncio.sleep(0.005)


def deaf_address() -> tuple[socket.socket, list[socket.socket], int]:
    """Return a listener that takes no connection any more, and its port.

    Its queue is full, so the kernel drops what arrives: like a host that is gone.
    """
    listener = socket.socket()
    listener.bind((own_address(), 0))
    listener.listen(0)
    where = listener.getsockname()
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(where)
        fillers.append(filler)
    return listener, fillers, where[1]
