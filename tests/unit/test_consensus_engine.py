"""The host says that its event loop turns: from the start, and with each new bound.

Without such a sign the native engine leads nobody and stands for no election.
"""

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pgbastion.consensus import _engine
from pgbastion.consensus.engine import HOST_ELECTIONS, Engine

HEARTBEAT_MS = 2_000
ELECTION_MS = 10_000

pytestmark = pytest.mark.anyio


class Node:
    """The native engine: it notes what its host calls, in order."""

    def __init__(self, **_settings: Any) -> None:
        self.calls: list[object] = []
        self.stopped = threading.Event()

    def form(self, *_identity: object) -> None:
        self.calls.append("form")

    def join(self, *_identity: object) -> None:
        self.calls.append("join")

    def pace(self, *_ticks: int) -> None:
        self.calls.append("pace")

    def lives(self, within_ms: int) -> None:
        self.calls.append(within_ms)

    def events(self, _wait_ms: int, _most: int) -> list[tuple[Any, ...]]:
        self.stopped.wait()
        return []

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    monkeypatch.setattr(_engine, "Node", Node)
    running = Engine(
        directory=Path("raft"),
        listen="127.0.0.1:0",
        secret=b"secret",
        heartbeat_ms=HEARTBEAT_MS,
        election_ms=ELECTION_MS,
        page=Path("page"),
        generation=1,
    )
    try:
        yield running
    finally:
        running.stop()


def calls_of(engine: Engine) -> list[object]:
    node = engine._node
    assert isinstance(node, Node)
    return node.calls


async def test_an_engine_hears_that_its_host_lives_from_the_start(
    engine: Engine,
) -> None:
    assert calls_of(engine) == [HOST_ELECTIONS * ELECTION_MS]


async def test_who_founds_says_so_again(engine: Engine) -> None:
    """The engine has begun to count with its identity."""
    engine.form("00" * 16, 1, "127.0.0.1:8300")

    assert calls_of(engine)[1:] == ["form", HOST_ELECTIONS * ELECTION_MS]


async def test_who_joins_says_so_again(engine: Engine) -> None:
    engine.join("00" * 16, 2, [(1, "127.0.0.1:8300")])

    assert calls_of(engine)[1:] == ["join", HOST_ELECTIONS * ELECTION_MS]


async def test_other_timings_bound_the_silence_at_once(engine: Engine) -> None:
    """The former bound counts in ticks, which may be shorter now."""
    engine.pace(heartbeat_ms=200, election_ms=1_000)

    assert calls_of(engine)[1:] == ["pace", HOST_ELECTIONS * 1_000]


async def test_one_sign_at_a_time_is_due_and_none_after_the_stop(
    engine: Engine,
) -> None:
    first = engine._sign
    engine.pace(heartbeat_ms=200, election_ms=1_000)
    second = engine._sign
    engine.stop()

    assert first is not None
    assert second is not None
    assert first.cancelled()
    assert second.cancelled()
