"""The proxy's own set of watched files."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from pgbastion.platform.choice import LINUX, PORTABLE, VARIABLE, current
from pgbastion.proxy.epoll_poller import TURN_S, EpollPoller
from pgbastion.proxy.poller import Poller, make_poller

pytestmark = pytest.mark.anyio


# Which loop, and whether it watches the files by itself.
WAYS = {"uvloop": (True, False), "asyncio": (False, False), "portable": (False, True)}


@pytest.fixture(params=WAYS)
def anyio_backend(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, bool]]:
    use_uvloop, portable = WAYS[request.param]
    monkeypatch.setenv(VARIABLE, PORTABLE if portable else LINUX)
    return "asyncio", {"use_uvloop": use_uvloop}


@pytest.fixture
def epoll(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    """For what a loop of asyncio's own cannot, and nobody asks it for."""
    if not current().has_epoll:
        pytest.skip("not run: there is no epoll")


@contextmanager
def watched() -> Iterator[tuple[Poller, socket.socket, socket.socket]]:
    poller = make_poller(asyncio.get_running_loop())
    near, far = socket.socketpair()
    try:
        yield poller, near, far
    finally:
        poller.close()
        near.close()
        far.close()


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0.001)


async def test_a_reader_is_called_as_long_as_there_is_input() -> None:
    with watched() as (poller, near, far):
        calls: list[bytes] = []
        poller.add_reader(near.fileno(), lambda: calls.append(near.recv(1)))
        far.send(b"abc")
        await turns()

        assert calls == [b"a", b"b", b"c"]


async def test_nothing_is_called_after_it_was_removed() -> None:
    with watched() as (poller, near, far):
        calls: list[str] = []
        poller.add_reader(near.fileno(), lambda: calls.append("read"))
        poller.add_writer(near.fileno(), lambda: calls.append("write"))
        poller.remove_reader(near.fileno())
        poller.remove_writer(near.fileno())
        poller.remove_writer(near.fileno())
        far.send(b"abc")
        await turns()

        assert calls == []


async def test_reader_and_writer_of_one_file_are_independent() -> None:
    with watched() as (poller, near, far):
        calls: list[str] = []
        poller.add_reader(near.fileno(), lambda: calls.append("read"))
        poller.add_writer(near.fileno(), lambda: calls.append("write"))
        await turns(1)
        assert set(calls) == {"write"}

        poller.remove_writer(near.fileno())
        calls.clear()
        far.send(b"x")
        await turns(1)
        assert set(calls) == {"read"}


async def test_an_error_behind_data_is_still_reported() -> None:
    with socket.create_server(("127.35.3.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    poller = make_poller(asyncio.get_running_loop())
    seen: list[object] = []

    def read() -> None:
        try:
            seen.append(near.recv(100))
        except ConnectionResetError:
            seen.append("reset")
            poller.remove_reader(near.fileno())

    poller.add_reader(near.fileno(), read)
    far.send(b"data")
    reset = struct.pack("ii", 1, 0)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    far.close()
    await turns()
    poller.close()
    near.close()

    assert seen == [b"data", "reset"]


async def test_an_event_of_a_closed_file_does_not_reach_its_successor() -> None:
    """The second file gets the number of one whose event is in the same batch."""
    with watched() as (poller, near, far), watched() as (_, other, distant):
        calls: list[str] = []
        numbers = sorted((near.fileno(), other.fileno()))
        ends = {near.fileno(): near, other.fileno(): other}
        spare: list[int] = []

        def replace_the_other(own: int) -> None:
            (victim,) = (n for n in numbers if n != own)
            for number in numbers:
                poller.remove_reader(number)
            quiet, end = os.pipe()
            os.dup2(quiet, victim)
            spare.extend((quiet, end))
            poller.add_reader(victim, lambda: calls.append("successor"))
            calls.append("first")

        for number in numbers:
            poller.add_reader(number, partial(replace_the_other, number))
        assert set(ends) == set(numbers)
        far.send(b"x")
        distant.send(b"x")
        await turns()
        for fd in spare:
            os.close(fd)

        assert calls == ["first"]


async def test_a_handler_that_fails_does_not_keep_others_from_being_called() -> None:
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _loop, found: failures.append(found["exception"]))
    with watched() as (poller, near, far), watched() as (_, other, distant):
        calls: list[str] = []

        def fail() -> None:
            poller.remove_reader(near.fileno())
            raise ValueError("on purpose")

        poller.add_reader(near.fileno(), fail)
        poller.add_reader(other.fileno(), lambda: calls.append("other"))
        far.send(b"x")
        distant.send(b"x")
        await turns()

        assert calls
        assert [str(failure) for failure in failures] == ["on purpose"]
    loop.set_exception_handler(None)


async def test_closing_twice_is_allowed() -> None:
    poller = make_poller(asyncio.get_running_loop())
    poller.close()
    poller.close()


@pytest.mark.usefixtures("epoll")
async def test_work_of_others_does_not_wait_for_every_file_that_is_ready() -> None:
    """When a server dies, a thousand sessions end at once; checks are answered."""
    loop = asyncio.get_running_loop()
    with watched() as (poller, near, far), watched() as (_, near2, far2):
        order: list[str] = []

        def slowly(connection: socket.socket) -> None:
            connection.recv(1)
            order.append("file")
            loop.call_soon(order.append, "other")
            time.sleep(2 * TURN_S)

        for connection in (near, near2):
            poller.add_reader(connection.fileno(), partial(slowly, connection))
        far.send(b"a")
        far2.send(b"b")
        await turns()

    assert order == ["file", "other", "file", "other"]


@pytest.mark.usefixtures("epoll")
async def test_what_becomes_ready_meanwhile_is_handled_in_the_same_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgbastion.proxy.epoll_poller.TURN_S", 5.0)
    loop = asyncio.get_running_loop()
    with watched() as (poller, near, far):
        order: list[bytes] = []

        def answer() -> None:
            order.append(near.recv(1))
            if len(order) == 1:
                loop.call_soon(order.append, b"other")
                far.send(b"b")

        poller.add_reader(near.fileno(), answer)
        far.send(b"a")
        await turns()

    assert order == [b"a", b"b", b"other"]


@pytest.mark.usefixtures("epoll")
async def test_a_muted_reader_hears_of_the_end_but_not_of_input() -> None:
    with watched() as (poller, near, far):
        calls: list[bytes] = []
        poller.add_reader(near.fileno(), lambda: calls.append(near.recv(10)))
        poller.mute_reader(near.fileno())
        far.send(b"abc")
        await turns()
        assert calls == []

        far.shutdown(socket.SHUT_WR)
        await turns()
        assert calls[:2] == [b"abc", b""]


@pytest.mark.usefixtures("epoll")
@pytest.mark.parametrize("again", [EpollPoller.unmute_reader, EpollPoller.add_reader])
async def test_a_muted_reader_can_be_called_again(again: Callable[..., None]) -> None:
    with watched() as (poller, near, far):
        calls: list[bytes] = []

        def read() -> None:
            calls.append(near.recv(10))

        poller.add_reader(near.fileno(), read)
        poller.mute_reader(near.fileno())
        far.send(b"abc")
        again(
            poller, near.fileno(), *([read] if again is EpollPoller.add_reader else [])
        )
        await turns()

        assert calls == [b"abc"]


@pytest.mark.usefixtures("epoll")
async def test_muting_what_is_not_read_is_nothing() -> None:
    with watched() as (poller, near, _far):
        poller.mute_reader(near.fileno())
        poller.add_writer(near.fileno(), lambda: None)
        poller.unmute_reader(near.fileno())

        poller.add_reader(near.fileno(), lambda: None)
        assert isinstance(poller, EpollPoller)
        assert not poller._entries[near.fileno()].muted
