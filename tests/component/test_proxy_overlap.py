"""Segments that were sent again with other borders: bytes that came before are skipped.

A sender whose socket is made again with an older sequence number (tcp(7), TCP_REPAIR)
sends what the receiver's kernel has already, and new bytes behind it in one segment.
"""

import socket
import struct

import pytest

from pgbastion.proxy.kernel import flow as kernel_flow
from pgbastion.proxy.kernel import path, program
from pgbastion.proxy.kernel.flow import KernelFlow
from pgbastion.proxy.kernel.program import Word
from pgbastion.proxy.routes import DataPath
from pgbastion.proxy.tcp_info import read_next_sequence
from support.busy_sockets import in_use
from support.proxy_lab import (
    RawPair,
    eventually,
    kernel_path_is_possible,
    proxy_lab,
    raw_pair,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not kernel_path_is_possible(),
        reason="TCP_REPAIR and the kernel data path need capabilities",
    ),
]
_REPAIR, _QUEUE, _SEQUENCE, _OPTIONS, _WINDOW = 19, 20, 21, 22, 29  # linux/tcp.h
_RECEIVE, _SEND = 1, 2
_SEGMENT_MAX = struct.pack("II", 2, 65_483)  # option 2, as loopback has it
_WINDOW_BYTES = 20
# What a sender's kernel fills at once, and how many of them a piece has at most;
# linux/skbuff.h, net/core/sock.c.
FRAGMENT_BYTES, FRAGMENTS_MAX = 32_768, 17


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def rewind(old: socket.socket, by: int) -> socket.socket:
    """Replace a connection's end by one that is ``by`` bytes behind in sending."""
    tcp = socket.IPPROTO_TCP
    old.setsockopt(tcp, _REPAIR, 1)
    numbers = {}
    for queue in (_RECEIVE, _SEND):
        old.setsockopt(tcp, _QUEUE, queue)
        numbers[queue] = old.getsockopt(tcp, _SEQUENCE) % 2**32
    window = old.getsockopt(tcp, _WINDOW, _WINDOW_BYTES)
    here, there = old.getsockname(), old.getpeername()
    numbers[_SEND] = (numbers[_SEND] - by) % 2**32
    new = socket.socket()
    new.setsockopt(tcp, _REPAIR, 1)
    new.bind(here)
    for queue, number in numbers.items():
        new.setsockopt(tcp, _QUEUE, queue)
        new.setsockopt(tcp, _SEQUENCE, struct.pack("I", number))
    old.close()  # in this mode nobody is told
    new.connect(there)
    new.setsockopt(tcp, _OPTIONS, _SEGMENT_MAX)
    # To set these has the size of segments computed anew, from the option above.
    new.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
    new.setsockopt(tcp, _WINDOW, window)
    new.setsockopt(tcp, _REPAIR, -1)
    new.setblocking(False)
    return new


async def _send_again(pair: RawPair, size: int) -> None:
    """Let the server send ``size`` bytes, and then again with three new ones."""
    again = await _send_old(pair, size) + b"new"
    pair.server = rewind(pair.server, size)
    await pair.loop.sock_sendall(pair.server, again)


async def _send_again_joined(pair: RawPair, size: int) -> None:
    """Do the same so that all of it comes joined to one piece.

    It is joined while the receiver's socket is in use, to a segment that its sender
    has forgotten; so each segment has a sender of its own.
    """
    again = await _send_old(pair, size) + b"new"
    with in_use(pair.relay.server):
        pair.server = rewind(pair.server, size)
        for at in range(0, len(again), FRAGMENT_BYTES):
            segment = again[at : at + FRAGMENT_BYTES]
            assert pair.server.send(segment) == len(segment)
            pair.server = rewind(pair.server, 0)


async def _send_old(pair: RawPair, size: int) -> bytes:
    old = bytes(number % 251 for number in range(size))
    await pair.loop.sock_sendall(pair.server, old)
    assert await pair.receive(pair.client, size) == old
    flow = pair.relay.down
    await eventually(lambda: _is_acknowledged(pair.server) and flow.total >= size)
    return old


def _is_acknowledged(sender: socket.socket) -> bool:
    unacked: int
    (unacked,) = struct.unpack_from("@24xI", sender.getsockopt(6, 11, 232))
    return unacked == 0


@pytest.mark.parametrize("data_path", [DataPath.USERSPACE, DataPath.KERNEL])
@pytest.mark.parametrize("size", [4, 5_000])
async def test_bytes_that_came_before_are_not_sent_on_twice(
    data_path: DataPath, size: int
) -> None:
    async with raw_pair(data_path) as pair:
        await _send_again(pair, size)
        assert await pair.receive(pair.client, 3) == b"new"

        # The kernel's own count is right, so the next bytes are heard of.
        await pair.loop.sock_sendall(pair.server, b"more")
        assert await pair.receive(pair.client, 4) == b"more"
        await pair.loop.sock_sendall(pair.client, b"answer")
        assert await pair.receive(pair.server, 6) == b"answer"


async def test_they_are_cut_off_what_is_passed_up_as_well() -> None:
    async with raw_pair(DataPath.KERNEL) as pair:
        flow = pair.relay.down
        assert isinstance(flow, KernelFlow)
        flow._words[flow._at + Word.LIMIT] = flow._words[flow._at + Word.REDIRECTED]

        await _send_again(pair, 1_000)

        assert await pair.receive(pair.client, 3) == b"new"


async def test_all_that_one_piece_can_have_of_them_is_cut_off() -> None:
    async with raw_pair(DataPath.KERNEL) as pair:
        await _send_again_joined(pair, FRAGMENTS_MAX * FRAGMENT_BYTES - 3)
        assert await pair.receive(pair.client, 3) == b"new"

        assert await pair.receive(pair.server, 1) == b"\0"
        await pair.loop.sock_sendall(pair.server, b"more")
        assert await pair.receive(pair.client, 4) == b"more"


@pytest.mark.parametrize("cuts", [64, 65])
async def test_more_than_is_cut_off_breaks_the_session(
    monkeypatch: pytest.MonkeyPatch, cuts: int
) -> None:
    """No byte of such a piece is sent on; with one cut more it is none."""
    monkeypatch.setattr(program, "_CUTS_MAX", cuts)
    size = 8 * FRAGMENT_BYTES
    assert (size <= cuts * program._CUT_BYTES) == (cuts == 65)
    async with raw_pair(DataPath.KERNEL) as pair:
        await _send_again_joined(pair, size)

        if cuts == 65:
            assert await pair.receive(pair.client, 3) == b"new"
        else:
            assert await pair.end_of(pair.client) == b""
        broken = "proxy_stream_broken" in [name for name, _ in pair.lab.events]
        assert broken == (cuts == 64)


async def test_a_kernel_that_cannot_cut_safely_breaks_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(path, "may_cut_pieces", lambda: False)
    async with raw_pair(DataPath.KERNEL) as pair:
        await _send_again(pair, 100)

        with pytest.raises(ConnectionResetError):
            await pair.end_of(pair.server)
        assert await pair.end_of(pair.client) == b""
        assert "proxy_stream_broken" in [name for name, _ in pair.lab.events]


async def test_a_kernel_that_hides_the_sequence_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(connection: socket.socket) -> int:
        return (read_next_sequence(connection) - 1) % 2**32

    monkeypatch.setattr(kernel_flow, "read_next_sequence", wrong)
    async with proxy_lab("n1", data_path=DataPath.AUTO) as lab:
        snapshot = lab.proxy.snapshot()

        assert snapshot.data_path is DataPath.USERSPACE
        assert "self-test" in snapshot.data_path_reason


async def test_asking_for_the_sequence_leaves_the_connection_as_it_was() -> None:
    async with raw_pair(DataPath.USERSPACE) as pair:
        reused = pair.relay.client.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        before = read_next_sequence(pair.relay.client)
        await pair.loop.sock_sendall(pair.client, b"12345")
        assert await pair.receive(pair.server, 5) == b"12345"

        assert read_next_sequence(pair.relay.client) == (before + 5) % 2**32
        reuse = pair.relay.client.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert (reuse, bool(reuse)) == (reused, True)
        await pair.loop.sock_sendall(pair.server, b"67")
        assert await pair.receive(pair.client, 2) == b"67"
