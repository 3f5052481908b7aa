"""The proof that the kernel path works here, before any client is trusted to it.

A session over loopback is relayed in earnest: small messages until it is adopted, ten
megabytes each way, a reader that stalls, a lease that runs out and comes back, and an
end in one direction before the other.
"""

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from pgbastion.clock import boottime_ns
from pgbastion.errors import ProxyError
from pgbastion.proxy.kernel.flow import KernelFlow
from pgbastion.proxy.kernel.path import KernelPath
from pgbastion.proxy.poller import Poller
from pgbastion.proxy.relay import Engagement, Lease, Mode, Relay, RelayHost
from pgbastion.proxy.routes import Backend, Limits, Service

_TIMEOUT_S: Final = 10.0
# Sent and compared in pieces: what this process needs once, it keeps.
_PIECE_BYTES: Final = 50_000
_BULK_BYTES: Final = 200 * _PIECE_BYTES
# More than both sockets' buffers and the credit together.
_STALL_BYTES_MAX: Final = 64 << 20
_STALL_S: Final = 0.1
_LEASE_NS: Final = 60_000_000_000


async def prove(path: KernelPath, poller: Poller, limits: Limits) -> None:
    """Relay a session through ``path``.

    Raises:
        ProxyError: Something did not arrive as it should, or not in time.
    """
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        try:
            host = RelayHost(loop, poller, replace(limits, linger_s=0))
            trial = _Trial(path, host, stack)
            async with asyncio.timeout(_TIMEOUT_S):
                await trial.run()
        except (OSError, TimeoutError) as exc:
            raise ProxyError("the self-test of the kernel path failed") from exc


class _Trial:
    """One session: client - near end = far end - server."""

    def __init__(self, path: KernelPath, host: RelayHost, stack: ExitStack) -> None:
        self._loop = host.loop
        self._path = path
        self._random = random.Random(boottime_ns())  # noqa: S311 - test data
        self._client, near = _connected(stack)
        far, self._server = _connected(stack)
        host.on_warm = path.on_warm
        host.on_end = path.release
        self._lease = Lease(boottime_ns() + _LEASE_NS)
        self._lease.mirror(path.primary_lease_word)
        stack.callback(self._lease.mirror, None)
        backend = Backend("self-test", "127.0.0.1", 0)
        self._relay = Relay(
            host,
            near,
            far,
            Engagement(Service.PRIMARY, backend, 0, bound=True),
            client_address="127.0.0.1",
            lease=self._lease,
            mode=Mode.ENCRYPTED,
        )
        stack.callback(self._relay.abort)

    async def run(self) -> None:
        self._relay.start(b"")
        await self._until_adopted()
        await self._bulk()
        await self._stall()
        await self._expire()
        await self._half_close()

    async def _until_adopted(self) -> None:
        """Exchange small messages until the program moves them."""
        up, down = self._relay.up, self._relay.down
        while up.total == up.moved or down.total == down.moved:
            await self._echo(64)
            await asyncio.sleep(0.001)
            up, down = self._relay.up, self._relay.down

    async def _echo(self, size: int) -> None:
        question, answer = self._random.randbytes(size), self._random.randbytes(size)
        await self._loop.sock_sendall(self._client, question)
        _check(await self._receive(self._server, size) == question, "a question")
        await self._loop.sock_sendall(self._server, answer)
        _check(await self._receive(self._client, size) == answer, "an answer")

    async def _bulk(self) -> None:
        up, down, at_server, at_client = await asyncio.gather(
            self._send_noise(self._client),
            self._send_noise(self._server),
            self._digest(self._server, _BULK_BYTES),
            self._digest(self._client, _BULK_BYTES),
        )
        _check(at_server == up, "ten megabytes upwards")
        _check(at_client == down, "ten megabytes downwards")
        for flow in (self._relay.up, self._relay.down):
            if isinstance(flow, KernelFlow):
                _check(flow.is_in_sequence(), "the sequence of the stream")

    async def _send_noise(self, sender: socket.socket) -> bytes:
        """Send `_BULK_BYTES` in pieces; return their digest."""
        digest = hashlib.sha256()
        for _ in range(_BULK_BYTES // _PIECE_BYTES):
            piece = self._random.randbytes(_PIECE_BYTES)
            digest.update(piece)
            await self._loop.sock_sendall(sender, piece)
        return digest.digest()

    async def _stall(self) -> None:
        """A reader that stalls stops the sender, and gets everything later."""
        block, sent = bytes(65_536), 0
        digest = hashlib.sha256()
        last_s = self._loop.time()
        while self._loop.time() - last_s < _STALL_S and sent < _STALL_BYTES_MAX:
            try:
                taken = self._server.send(block)
                digest.update(block[:taken])
                sent += taken
                last_s = self._loop.time()
            except BlockingIOError:
                await asyncio.sleep(0.005)
        _check(sent < _STALL_BYTES_MAX, "a sender that has to wait")
        received = await self._digest(self._client, sent)
        _check(received == digest.digest(), "what stalled")

    async def _expire(self) -> None:
        """Once the lease is over the program passes everything up."""
        await self._until_granted()
        redirected = self._in_kernel()
        self._lease.set(0)
        expired = asyncio.Event()
        self._relay.host.on_expired = expired.set
        await self._loop.sock_sendall(self._client, b"late")
        await expired.wait()
        _check(self._in_kernel() == redirected, "a lease that ends")
        self._lease.set(boottime_ns() + _LEASE_NS)
        _check(await self._receive(self._server, 4) == b"late", "a renewed lease")

    async def _until_granted(self) -> None:
        before = self._in_kernel()
        while self._in_kernel() == before:
            await self._echo(1_000)
            await asyncio.sleep(0.001)

    async def _half_close(self) -> None:
        await self._until_granted()
        await self._loop.sock_sendall(self._client, b"last question")
        self._client.shutdown(socket.SHUT_WR)
        _check(await self._to_end(self._server) == b"last question", "the end")
        await self._loop.sock_sendall(self._server, b"last answer")
        self._server.close()
        _check(await self._to_end(self._client) == b"last answer", "the other end")

    def _in_kernel(self) -> int:
        flows = self._relay.up, self._relay.down
        return sum(flow.total - flow.moved for flow in flows)

    async def _receive(self, at: socket.socket, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            data = await self._loop.sock_recv(at, size - len(received))
            _check(bool(data), "a connection that stays open")
            received += data
        return bytes(received)

    async def _digest(self, at: socket.socket, size: int) -> bytes:
        """Return the digest of the next ``size`` bytes."""
        digest = hashlib.sha256()
        while size:
            data = await self._loop.sock_recv(at, min(size, _PIECE_BYTES))
            _check(bool(data), "a connection that stays open")
            digest.update(data)
            size -= len(data)
        return digest.digest()

    async def _to_end(self, at: socket.socket) -> bytes:
        received = bytearray()
        while data := await self._loop.sock_recv(at, 65_536):
            received += data
        return bytes(received)


def _connected(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=1)
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stack.callback(_close(end))
    return near, far


def _close(end: socket.socket) -> Callable[[], None]:
    return end.close


def _check(condition: bool, what: str) -> None:  # noqa: FBT001 - it is the subject
    if not condition:
        raise ProxyError(f"the self-test of the kernel path missed {what}")
