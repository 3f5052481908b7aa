"""Last words for many clients at once, and for those who do not listen."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgbastion.proxy.poller import make_poller
from pgbastion.proxy.sockets import TOLD_AT_ONCE, Farewells

pytestmark = pytest.mark.anyio

MANY = 2 * TOLD_AT_ONCE + 1
WORDS = b"good bye"
PATIENCE_S = 30.0


@contextmanager
def clients(number: int) -> Iterator[tuple[Farewells, list[socket.socket]]]:
    """Give a proxy's sockets, all of whose clients have been told to go."""
    loop = asyncio.get_running_loop()
    poller = make_poller(loop)
    farewells = Farewells(loop, poller, PATIENCE_S)
    pairs = [socket.socketpair() for _ in range(number)]
    for near, _ in pairs:
        near.setblocking(False)
        farewells.say(near, WORDS)
    try:
        yield farewells, [far for _, far in pairs]
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
    with clients(MANY) as (farewells, far):
        heard = [told(each) for each in far]
        await farewells.all_told()
        later = [told(each) for each in far[TOLD_AT_ONCE:]]
        assert len(farewells) == MANY
        for each in far:
            each.close()
        await farewells.finish(PATIENCE_S)
        assert len(farewells) == 0

    assert heard == [WORDS] * TOLD_AT_ONCE + [b""] * (MANY - TOLD_AT_ONCE)
    assert later == [WORDS] * (MANY - TOLD_AT_ONCE)


async def test_who_is_gone_is_not_waited_for() -> None:
    with clients(0) as (farewells, _):
        pairs = [socket.socketpair() for _ in range(MANY)]
        for near, far in pairs:
            far.close()
            farewells.say(near, WORDS)
        async with asyncio.timeout(PATIENCE_S):
            await farewells.finish(2 * PATIENCE_S)

        assert len(farewells) == 0
        assert all(near.fileno() == -1 for near, _ in pairs)


async def test_at_the_end_of_patience_also_those_who_wait_are_closed() -> None:
    with clients(MANY) as (farewells, far):
        # Before the loop had another turn: most of them are not told yet.
        finishing = asyncio.ensure_future(farewells.finish(0))
        await finishing

        assert len(farewells) == 0
        assert [each.recv(64) for each in far[:TOLD_AT_ONCE]] == [WORDS] * TOLD_AT_ONCE
