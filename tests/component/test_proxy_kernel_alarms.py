"""While the kernel moves the bytes nobody listens: what wakes user space after all."""

import asyncio
import resource
import select
import socket

import pytest

from pgbastion.proxy.epoll_poller import EpollPoller
from pgbastion.proxy.kernel import path
from pgbastion.proxy.kernel.bpf import Ring
from pgbastion.proxy.kernel.flow import WINDOW_BYTES, KernelFlow
from pgbastion.proxy.kernel.program import WORDS_PER_SLOT, Word
from pgbastion.proxy.routes import DataPath
from pgbastion.testing.stand_in_server import READY
from support.proxy_lab import (
    WAIT_S,
    RawPair,
    eventually,
    kernel_path_is_possible,
    raw_pair,
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
_MESSAGES = 1_000
_PIECE = 1 << 16


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_messages_in_the_kernel_do_not_wake_the_proxy() -> None:
    async with raw_pair(KERNEL) as pair:
        share = pair.kernel_share
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

        await asyncio.to_thread(_talk, pair.client, pair.server)

        woken = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        assert pair.kernel_share[0] == share[0] + _MESSAGES * len(READY)
        assert woken < _MESSAGES / 2


def _talk(client: socket.socket, server: socket.socket) -> None:
    for _ in range(_MESSAGES):
        for sender, receiver in ((client, server), (server, client)):
            sender.send(READY)
            select.select([receiver], [], [], WAIT_S)
            assert receiver.recv(len(READY)) == READY


async def test_a_reader_that_keeps_up_keeps_the_stream_in_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credit that runs out is asked for in time, without any clock."""
    async with raw_pair(KERNEL) as pair:
        _end_ticks(pair, monkeypatch)
        by_hand = pair.relay.down.moved

        await _stream(pair, 4 * WINDOW_BYTES)

        assert pair.relay.down.moved == by_hand


def _end_ticks(pair: RawPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after sessions once an hour, so that only events can do anything."""
    kernel = pair.lab.proxy._path.kernel
    assert kernel is not None
    monkeypatch.setattr(path, "_TICK_S", 3600.0)
    kernel._arm(path._TICK_S)


async def _stream(pair: RawPair, size: int) -> None:
    for _ in range(size // _PIECE):
        await pair.loop.sock_sendall(pair.server, bytes(_PIECE))
        await pair.receive(pair.client, _PIECE)


async def test_bytes_beyond_the_credit_are_heard_of_and_the_kernel_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_pair(KERNEL) as pair:
        _end_ticks(pair, monkeypatch)
        by_hand = pair.relay.down.moved
        _take_credit_away(pair)

        await _stream(pair, _PIECE)
        assert pair.relay.down.moved > by_hand

        share = pair.kernel_share[1]
        await _stream(pair, _PIECE)
        assert pair.kernel_share[1] == share + _PIECE


def _take_credit_away(pair: RawPair) -> None:
    flow = pair.relay.down
    assert isinstance(flow, KernelFlow)
    flow._words[flow._at + Word.LIMIT] = flow._words[flow._at + Word.REDIRECTED]


async def test_the_end_of_the_lease_is_heard_of() -> None:
    async with raw_pair(KERNEL) as pair:
        expired = asyncio.Event()
        pair.relay.host.on_expired = expired.set
        pair.relay.lease.set(0)

        await pair.loop.sock_sendall(pair.server, b"late")

        async with asyncio.timeout(WAIT_S):
            await expired.wait()


async def test_a_piece_that_crosses_the_grant_is_heard_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program judged it by the old CONSUMED: it passed it, and gave no alarm."""
    async with raw_pair(KERNEL) as pair:
        _end_ticks(pair, monkeypatch)
        _take_credit_away(pair)
        flow, poller = pair.relay.down, pair.relay.host.poller
        assert isinstance(flow, KernelFlow)
        mute = poller.mute_reader

        def meanwhile(fd: int) -> None:
            mute(fd)
            flow._words[flow._at + Word.PASSED] += 4
            monkeypatch.setattr(poller, "mute_reader", mute)

        monkeypatch.setattr(poller, "mute_reader", meanwhile)
        await _stream(pair, _PIECE)

        assert isinstance(poller, EpollPoller)
        entry = poller._entries[flow.source.fileno()]
        assert not entry.muted


async def test_alarms_of_sessions_that_have_ended_are_nobodys() -> None:
    async with raw_pair(KERNEL) as pair:
        kernel = pair.lab.proxy._path.kernel
        assert kernel is not None
        assert len(kernel._by_slot) == 2
        pair.relay.abort()
        await eventually(lambda: not kernel._by_slot)

        kernel._on_alarms()


async def test_the_ring_has_room_for_every_slot_to_call_twice() -> None:
    async with raw_pair(KERNEL) as pair:
        kernel = pair.lab.proxy._path.kernel
        assert kernel is not None
        slots = len(kernel._words) // WORDS_PER_SLOT
        assert kernel._alarms._size >= 2 * slots * Ring._BYTES_A_NUMBER
