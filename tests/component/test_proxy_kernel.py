"""What only the kernel data path can get wrong."""

import asyncio
import fcntl
import hashlib
import os
import random
import socket
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgbastion.errors import InvariantError, ProxyError
from pgbastion.proxy import tcp_info
from pgbastion.proxy.kernel import bpf, path
from pgbastion.proxy.kernel.assembler import Assembler, Register
from pgbastion.proxy.kernel.flow import WINDOW_BYTES, KernelFlow
from pgbastion.proxy.kernel.program import Word
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import Binding, DataPath, Limits, Service
from pgbastion.testing.stand_in_server import READY, row
from support.proxy_lab import (
    PRIMARY_PORT,
    REPLICA_PORT,
    SSL_REQUEST,
    WAIT_S,
    RawClient,
    eventually,
    kernel_path_is_possible,
    proxy_lab,
    raw_pair,
    seconds_from_now,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not kernel_path_is_possible(),
        reason="the kernel data path needs CAP_BPF and CAP_NET_ADMIN",
    ),
]
KERNEL = DataPath.KERNEL


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_busy_session_moves_into_the_kernel_and_is_still_counted() -> None:
    async with raw_pair(KERNEL) as pair:
        before = pair.relay.bytes_to_server
        share = pair.kernel_share[0]
        await pair.loop.sock_sendall(pair.client, b"x" * 1000)
        await pair.receive(pair.server, 1000)

        assert pair.kernel_share[0] == share + 1000
        assert pair.relay.bytes_to_server == before + 1000
        assert pair.lab.proxy.snapshot().in_kernel == 1
        assert pair.lab.proxy.snapshot().data_path is DataPath.KERNEL


async def test_an_idle_session_stays_in_user_space() -> None:
    async with proxy_lab("n1", data_path=KERNEL) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()
        await client.query("who")

        assert lab.proxy.snapshot().in_kernel == 0


async def test_a_frozen_proxy_moves_nothing_after_the_expiry() -> None:
    """S5: the program itself looks at the lease, no loop has to run for it."""
    async with raw_pair(KERNEL, left_s=1.0) as pair:
        client = socket.fromfd(pair.client.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        received: list[bytes] = []

        def during_the_freeze() -> None:
            for _ in range(30):
                client.send(b"12345678")
                time.sleep(0.05)
                try:
                    received.append(pair.server.recv(8, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    received.append(b"")

        talking = threading.Thread(target=during_the_freeze)
        talking.start()
        time.sleep(1.8)  # noqa: ASYNC251 - the loop itself is what has to stand still
        talking.join()
        client.close()

        assert received[0] == b"12345678"
        assert received[-5:] == [b""] * 5
        error = await _error_at(pair.client)
        assert b"57P01" in error
        with pytest.raises(ConnectionResetError):
            await pair.end_of(pair.server)


async def _error_at(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        return await loop.sock_recv(client, 1000)


async def test_an_extended_lease_keeps_the_kernel_going() -> None:
    async with raw_pair(KERNEL, left_s=0.6) as pair:
        pair.lab.proxy.extend(seconds_from_now(60))
        await asyncio.sleep(0.8)
        share = pair.kernel_share[0]
        await pair.loop.sock_sendall(pair.client, b"still")

        assert await pair.receive(pair.server, 5) == b"still"
        assert pair.kernel_share[0] == share + 5


async def test_a_session_in_the_kernel_is_told_why_it_ends() -> None:
    """The end of what the program moved was a ReadyForQuery."""
    async with raw_pair(KERNEL) as pair:
        pair.lab.proxy.set_routes(pair.lab.routes(None, epoch=2))

        assert b"C57P01" in await pair.end_of(pair.client)
        with pytest.raises(ConnectionResetError):
            await pair.end_of(pair.server)


async def test_nothing_is_put_into_a_message_that_the_kernel_has_begun() -> None:
    async with raw_pair(KERNEL) as pair:
        share = pair.kernel_share[1]
        half = row(b"x" * 100)[:50]
        await pair.loop.sock_sendall(pair.server, half)
        assert await pair.receive(pair.client, 50) == half
        assert pair.kernel_share[1] == share + 50

        pair.lab.proxy.set_routes(pair.lab.routes(None, epoch=2))

        assert await pair.end_of(pair.client) == b""


async def test_encrypted_sessions_use_the_kernel_and_end_without_words() -> None:
    async with proxy_lab("n1", data_path=KERNEL) as lab:
        lab.servers["n1"].tls = True
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.connect()
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        await _until(client, lambda: lab.proxy.snapshot().in_kernel == 1)
        noise = os.urandom(3_000_000)
        client.send(noise)
        assert await client.read(len(noise)) == noise

        lab.proxy.set_routes(lab.routes(None, epoch=2))
        assert await client.rest() == b""


async def _until(client: RawClient, condition: object) -> None:
    assert callable(condition)
    while not condition():
        client.send(b"echo")
        assert await client.read(4) == b"echo"


async def test_a_stalled_reader_keeps_a_window_in_the_kernel_and_no_more() -> None:
    async with raw_pair(KERNEL) as pair:
        share = pair.kernel_share[1]
        sent = 0
        last_s = time.monotonic()
        while time.monotonic() - last_s < 0.5 and sent < 1 << 28:
            try:
                sent += pair.server.send(bytes(1 << 16))
                last_s = time.monotonic()
            except BlockingIOError:
                await asyncio.sleep(0.01)

        unread = pair.kernel_share[1] - share
        buffered = _send_buffer_max() + _receive_buffer_max()
        assert unread <= WINDOW_BYTES + buffered
        assert sent < 64 << 20
        assert await pair.receive(pair.client, sent) == bytes(sent)


def _send_buffer_max() -> int:
    return int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])


def _receive_buffer_max() -> int:
    return int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])


async def test_bytes_keep_their_order_however_often_the_way_changes() -> None:
    """Bursts beyond the credit, pauses in which it is granted again."""
    async with raw_pair(KERNEL) as pair:
        rng = random.Random(7)
        for _ in range(12):
            blob = rng.randbytes(int(2 ** rng.uniform(8, 22)))
            sending = asyncio.create_task(pair.loop.sock_sendall(pair.server, blob))
            if rng.random() < 0.4:
                await asyncio.sleep(0.02)  # the reader is slower than the sender
            received = await pair.receive(pair.client, len(blob))
            await sending
            same = hashlib.sha256(received).digest() == hashlib.sha256(blob).digest()
            assert same
            if rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0, 0.12))

        by_kernel = pair.kernel_share[1]
        assert 0 < by_kernel < pair.relay.bytes_to_client


async def test_the_end_of_one_direction_leaves_the_other_what_it_has_queued() -> None:
    """An empty piece, as a bare FIN is, must not get into the kernel's queue."""
    async with raw_pair(KERNEL) as pair:
        sent = 0
        last_s = time.monotonic()
        while time.monotonic() - last_s < 0.3:
            try:
                sent += pair.server.send(bytes(1 << 16))
                last_s = time.monotonic()
            except BlockingIOError:
                await asyncio.sleep(0.01)

        pair.client.shutdown(socket.SHUT_WR)
        assert await pair.end_of(pair.server) == b""

        assert await pair.receive(pair.client, sent) == bytes(sent)


@pytest.mark.parametrize("by", [5, -5])
async def test_an_end_waits_for_all_that_came_before_it(by: int) -> None:
    """It waits for bytes redirected and not queued yet, and for bytes not yet seen."""
    async with raw_pair(KERNEL) as pair:
        flow = pair.relay.down
        assert isinstance(flow, KernelFlow)
        flow._words[flow._at + Word.REDIRECTED] += by

        pair.server.shutdown(socket.SHUT_WR)

        # It was met, and is looked at again.
        await eventually(lambda: flow._timer is not None)
        with pytest.raises(BlockingIOError):
            pair.client.recv(1)
        flow._words[flow._at + Word.REDIRECTED] -= by
        assert await pair.end_of(pair.client) == b""


async def test_a_session_for_which_there_is_no_room_stays_in_user_space() -> None:
    limits = Limits(connections_max=2)
    async with proxy_lab("n1", limits=limits, data_path=KERNEL) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        kernel_path = lab.proxy._path.kernel
        assert kernel_path is not None
        kernel_path._unused_slot = kernel_path._entries
        kernel_path._free.clear()
        client = await lab.session()
        for _ in range(100):
            assert await client.query("who") == [b"n1"]

        assert lab.proxy.snapshot().in_kernel == 0


async def test_a_socket_that_the_kernel_refuses_stays_in_user_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy_lab("n1", data_path=KERNEL) as lab:
        lab.proxy.set_routes(lab.routes("n1"))

        def refuse(*_arguments: object) -> None:
            raise OSError(95, "not supported")

        kernel_path = lab.proxy._path.kernel
        assert kernel_path is not None
        monkeypatch.setattr(kernel_path._sockets, "update", refuse)
        client = await lab.session()
        for _ in range(40):
            assert await client.query("who") == [b"n1"]

        assert lab.proxy.snapshot().in_kernel == 0
        assert lab.proxy.snapshot().kernel_refused_total > 0


async def test_slots_are_given_back_when_sessions_end() -> None:
    async with proxy_lab("n1", data_path=KERNEL) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        kernel_path = lab.proxy._path.kernel
        assert kernel_path is not None
        for _ in range(5):
            client = await lab.session()
            for _ in range(40):
                await client.query("who")
            assert lab.proxy.snapshot().in_kernel == 1
            client.close()
            await eventually(lambda: lab.proxy.snapshot().connections == 0)
        await asyncio.sleep(path._QUARANTINE_NS / 1e9)

        assert lab.proxy.snapshot().in_kernel == 0
        # Two slots of the self-test, and two that are handed on.
        assert kernel_path._unused_slot - path._FIRST_SLOT <= 12
        slots = [kernel_path._take_slot() for _ in range(2)]
        assert max(slots) < kernel_path._unused_slot


@pytest.mark.parametrize("wanted", [DataPath.AUTO, DataPath.KERNEL])
async def test_without_the_kernels_leave_user_space_serves(
    monkeypatch: pytest.MonkeyPatch, wanted: DataPath
) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(1, "bpf(MAP_CREATE): Operation not permitted")

    monkeypatch.setattr(bpf, "_bpf", refuse)
    async with proxy_lab("n1", data_path=wanted) as lab:
        lab.proxy.set_routes(lab.routes("n1"))

        assert await (await lab.session()).query("who") == [b"n1"]
        snapshot = lab.proxy.snapshot()
        assert snapshot.data_path is DataPath.USERSPACE
        assert "not permitted" in snapshot.data_path_reason
        warned = "proxy_kernel_path_failed" in [name for name, _ in lab.events]
        assert warned == (wanted is DataPath.KERNEL)


async def test_clients_are_served_while_the_kernel_path_is_tried_out() -> None:
    async with proxy_lab("n1") as lab:
        await lab.proxy.stop(0)
        proxy = Proxy(
            binding=Binding(
                addresses=(lab.address,),
                ports={Service.PRIMARY: PRIMARY_PORT, Service.REPLICA: REPLICA_PORT},
            ),
            limits=Limits(),
            on_event=lambda _name, _fields: None,
            data_path=KERNEL,
        )
        await proxy.start()
        try:
            proxy.set_routes(lab.routes("n1"))
            client = await lab.session()
            assert await client.query("who") == [b"n1"]
            assert proxy.snapshot().data_path is DataPath.USERSPACE
            assert "being tried out" in proxy.snapshot().data_path_reason
        finally:
            await proxy.stop(0)


async def test_a_program_that_the_verifier_refuses_is_reported() -> None:
    with pytest.raises(ProxyError, match="refuses the program"):
        bpf.load_verdict_program(b"\x95" + bytes(7))


def test_a_jump_needs_its_label() -> None:
    program = Assembler()
    program.jump_if_zero(Register.R1, "nowhere")

    with pytest.raises(InvariantError):
        program.finish()


async def test_many_small_queries_through_the_kernel_come_back_in_order() -> None:
    async with proxy_lab("n1", data_path=KERNEL) as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        clients = [await lab.session() for _ in range(8)]
        rng = random.Random(11)

        async def talk(client: RawClient) -> None:
            for _ in range(60):
                size = int(2 ** rng.uniform(0, 16))
                count = rng.randint(1, 5)
                rows = await client.query(f"rows {count} {size}")
                assert [len(r) for r in rows] == [size] * count
                assert [int(r[:10]) for r in rows if size >= 10] == (
                    list(range(count)) if size >= 10 else []
                )

        async with asyncio.timeout(30):
            await asyncio.gather(*(talk(client) for client in clients))
        assert lab.proxy.snapshot().in_kernel == 8


async def test_bytes_acknowledged_at_the_adoption_are_counted_as_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted too low at first, later ones would be taken for queued too early."""

    def late(fd: int, request: int, size: bytes) -> bytes:
        """Answer when a small message that was on the way at the call has arrived."""
        end_s = time.monotonic() + WAIT_S
        while True:
            (queued,) = struct.unpack("@i", fcntl.ioctl(fd, request, size))
            if not 0 < queued <= len(READY) or time.monotonic() > end_s:
                return struct.pack("@i", queued)

    monkeypatch.setattr(tcp_info, "fcntl", SimpleNamespace(ioctl=late))
    async with raw_pair(KERNEL) as pair:
        for flow in (pair.relay.up, pair.relay.down):
            assert isinstance(flow, KernelFlow)
            queued = tcp_info.read_queued_bytes_exactly(flow.sink)
            queued -= flow._queued_before
            assert queued == flow.total - flow._moved_before
