"""Last words for many clients at once, and for those who do not listen."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgbastion.proxy.lingering_close import TOLD_AT_ONCE, LingeringCloses
from pgbastion.proxy.poller import make_poller

pytestmark = pytest.mark.anyio

MANY = 2 * TOLD_AT_ONCE + 1
WORDS = b"good bye"
PATIENCE_S = 30.0


@contextmanager
def clients(number: int) -> Iterator[tuple[LingeringCloses, list[socket.socket]]]:
    """Give a proxy's sockets, all of whose clients have been told to go."""
    loop = asyncio.get_running_loop()
    poller = make_poller(loop)
    closing = LingeringCloses(loop, poller, PATIENCE_S)
    pairs = [socket.socketpair() for _ in range(number)]
    for near, _ in pairs:
        near.setblocking(False)
        closing.close(near, WORDS)
    try:
        yield closing, [far for _, far in pairs]
    finally:
        for each in (socket for pair in pairs for socket in pair):
            each.close()
        poller.close()


def told(far: socket.socket) -> bytes:
    far.setblocking(False)
    try:
        return far.recv(64)
    except BlockingIOError:
        return b""


async def test_the_loop_has_its_turn_before_the_last_of_many_is_told() -> None:
    with clients(MANY) as (closing, far):
        heard = [told(each) for each in far]
        await closing.all_told()
        later = [told(each) for each in far[TOLD_AT_ONCE:]]
        assert len(closing) == MANY
        for each in far:
            each.close()
        await closing.finish(PATIENCE_S)
        assert len(closing) == 0

    assert heard == [WORDS] * TOLD_AT_ONCE + [b""] * (MANY - TOLD_AT_ONCE)
    assert later == [WORDS] * (MANY - TOLD_AT_ONCE)


async def test_who_is_gone_is_not_waited_for() -> None:
    with clients(0) as (closing, _):
        pairs = [socket.socketpair() for _ in range(MANY)]
        for near, far in pairs:
            far.close()
            closing.close(near, WORDS)
        async with asyncio.timeout(PATIENCE_S):
            await closing.finish(2 * PATIENCE_S)

        assert len(closing) == 0
        assert all(near.fileno() == -1 for near, _ in pairs)


async def test_at_the_end_of_patience_also_those_who_wait_are_closed() -> None:
    with clients(MANY) as (closing, far):
        # Before the loop had another turn: most of them are not told yet.
        finishing = asyncio.ensure_future(closing.finish(0))
        await finishing

        assert len(closing) == 0
        assert [each.recv(64) for each in far[:TOLD_AT_ONCE]] == [WORDS] * TOLD_AT_ONCE
