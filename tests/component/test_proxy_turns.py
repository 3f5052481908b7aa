"""Many held clients at once: the loop's other work has its turn between them."""

import asyncio
from dataclasses import dataclass, field

import pytest

from pgbastion.clock import boottime_ns
from pgbastion.proxy.routes import Backend, Limits, Routes, Service
from pgbastion.proxy.switchboard import RELEASED_AT_ONCE, Switchboard

pytestmark = pytest.mark.anyio

MANY = 4 * RELEASED_AT_ONCE + 1
A_MINUTE_NS = 60_000_000_000


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@dataclass(eq=False)
class Client:
    """A client in the queue that notes when it was let go on."""

    queue: "Queue"
    since_s: float
    service: Service = Service.PRIMARY

    def release(self) -> None:
        self.queue.released.append((self.queue.turn, self.since_s))


@dataclass
class Queue:
    """A switchboard whose clients all wait for a primary."""

    turn: int = 0
    released: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.board = Switchboard(loop, lambda *_: None, Limits())
        self.lose_primary(1)
        # The last in the queue came first: it has tried a server meanwhile.
        for since_s in (*range(2, MANY + 1), 1):
            self.board.hold(Client(self, float(since_s)))

    def lose_primary(self, revision: int) -> None:
        self.board.set_routes(_routes(revision, None))

    def find_primary(self, revision: int) -> None:
        self.board.set_routes(_routes(revision, Backend("n1", "127.0.0.1", 5432)))

    async def pass_turn(self) -> None:
        self.turn += 1
        await asyncio.sleep(0)


def _routes(revision: int, primary: Backend | None) -> Routes:
    return Routes(
        revision=revision,
        epoch=revision,
        primary=primary,
        primary_reason="the test says so",
        replicas=(),
        replica_reason="the test says so, too",
        expires_ns=boottime_ns() + A_MINUTE_NS,
        hold=True,
    )


async def test_held_clients_go_on_in_turns_of_the_loop_and_in_order() -> None:
    queue = Queue()

    queue.find_primary(2)
    while queue.board.held:
        await queue.pass_turn()

    assert [since for _, since in queue.released] == list(range(1, MANY + 1))
    turns = [turn for turn, _ in queue.released]
    assert max(turns.count(turn) for turn in turns) == RELEASED_AT_ONCE
    queue.board.close()


async def test_who_is_not_yet_released_when_the_primary_is_lost_waits_on() -> None:
    queue = Queue()
    queue.find_primary(2)

    queue.lose_primary(3)
    for _ in range(MANY):
        await queue.pass_turn()
    assert len(queue.released) == RELEASED_AT_ONCE

    queue.find_primary(4)
    while queue.board.held:
        await queue.pass_turn()
    assert len(queue.released) == MANY
    queue.board.close()


async def test_nobody_is_released_by_a_switchboard_that_is_closed() -> None:
    queue = Queue()
    queue.find_primary(2)

    queue.board.close()
    for _ in range(MANY):
        await queue.pass_turn()

    assert queue.board.held == MANY - RELEASED_AT_ONCE
