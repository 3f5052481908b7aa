"""The engine in an asyncio program: outcomes are awaited, events come in order."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from pgbastion.consensus.engine import Engine, ask_as_guest
from pgbastion.consensus.interface import (
    Committed,
    Event,
    LeaderChanged,
    Logged,
    Request,
)
from pgbastion.errors import ConsensusError
from pgbastion.guard import page as shared_page

HOST = "127.31.2.1"
SECRET = b"a secret of these tests"
CLUSTER = "0123456789abcdef"
SOON_S = 5.0
# On a busy machine the engine's ticks are late, each for itself.
TICKS_S = 30.0

Kind = TypeVar("Kind", bound=Event)

pytestmark = pytest.mark.anyio


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


class Running:
    """An engine and everything that it has told."""

    def __init__(self, engine: Engine, address: str) -> None:
        self.engine = engine
        self.address = address
        self.events: list[Event] = []
        self.changed = asyncio.Event()

    async def listen(self) -> None:
        """Apply what is committed, answer what is asked."""
        async for event in self.engine.events():
            if isinstance(event, Committed):
                self.engine.applied(event.index)
            if isinstance(event, Request):
                self.engine.answer(event.request_id, b"re: " + event.payload)
            self.events.append(event)
            self.changed.set()

    async def told(self, kind: type[Kind], holds: Callable[[Kind], bool]) -> Kind:
        """Wait for an event."""
        async with asyncio.timeout(SOON_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and holds(event):
                        return event
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    page = folder / "page"
    shared_page.obtain(str(page)).close()
    address = free_address()
    engine = Engine(
        directory=folder / "raft",
        listen=address,
        secret=SECRET,
        heartbeat_ms=40,
        election_ms=200,
        page=page,
        generation=0,
    )
    run = Running(engine, address)
    listening = asyncio.create_task(run.listen())
    try:
        yield run
    finally:
        listening.cancel()
        engine.stop()


@asynccontextmanager
async def formed(folder: Path) -> AsyncIterator[Running]:
    async with running(folder) as run:
        run.engine.form(CLUSTER, 1, run.address)
        await run.told(LeaderChanged, lambda event: event.leader == 1)
        yield run


async def test_what_keeps_a_node_from_an_identity_is_a_failure_of_the_world(
    tmp_path: Path,
) -> None:
    """The daemon ends with its words then, not with a traceback."""
    async with formed(tmp_path) as run:
        with pytest.raises(ConsensusError, match="a member already"):
            run.engine.form(CLUSTER, 1, run.address)
        with pytest.raises(ConsensusError, match="a member already"):
            run.engine.join(CLUSTER, 2, [])


async def test_a_proposal_is_awaited_until_the_host_has_applied_it(
    tmp_path: Path,
) -> None:
    async with formed(tmp_path) as run:
        index = await run.engine.propose(b"data", SOON_S)

        entries = [e for e in run.events if isinstance(e, Committed)]
        assert entries[-1].index == index
        assert entries[-1].data == b"data"


async def test_a_read_tells_when_it_was_asked(tmp_path: Path) -> None:
    async with formed(tmp_path) as run:
        await run.engine.propose(b"data", SOON_S)
        before = run.engine.status().elected_ns

        assert (await run.engine.read_index(SOON_S) or 0) > before


async def test_a_guest_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        answer = await ask_as_guest(
            run.address, SECRET, 3, b"who", timeout_s=SOON_S, credentials=None
        )

        assert answer == b"re: who"
        request = await run.told(Request, lambda event: event.kind == 3)
        assert request.member_id == 0


async def test_a_guest_of_another_secret_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        other = b"not the secret of it"

        with pytest.raises(ConsensusError, match="has another secret"):
            await ask_as_guest(
                run.address, other, 3, b"who", timeout_s=SOON_S, credentials=None
            )


async def test_commands_without_a_membership_end_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        assert await run.engine.propose(b"data", SOON_S) is None
        assert await run.engine.read_index(SOON_S) is None
        assert not await run.engine.transfer(2, SOON_S)
        assert run.engine.identity() is None


async def test_an_identity_survives_a_restart(tmp_path: Path) -> None:
    async with formed(tmp_path) as run:
        await run.engine.propose(b"kept", SOON_S)
    async with running(tmp_path) as run:
        await run.told(Committed, lambda event: event.data == b"kept")

        assert run.engine.identity() == (CLUSTER, 1)


async def test_a_stop_ends_what_is_awaited(tmp_path: Path) -> None:
    async with formed(tmp_path) as run:
        question = asyncio.create_task(run.engine.request(9, 1, b"", 60.0))
        await asyncio.sleep(0)

        run.engine.stop()

        async with asyncio.timeout(SOON_S):
            assert await question is None


async def test_a_change_that_is_refused_says_why(tmp_path: Path) -> None:
    async with formed(tmp_path) as run:
        await run.engine.propose(b"data", SOON_S)

        outcome = await run.engine.change("promote", 5, "", SOON_S)

        assert outcome == "refused: not_learner"


async def test_a_directory_in_use_is_an_error_of_the_world(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(ConsensusError, match="another process"):
            async with running(tmp_path):
                pass


@pytest.mark.slow
async def test_a_leader_whose_loop_stands_still_leads_nobody(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its heartbeats go on without the loop, and nothing would be decided."""
    apart = tmp_path_factory.mktemp("other")
    async with formed(tmp_path) as run, running(apart) as other:
        other.engine.join(CLUSTER, 2, [(1, run.address)])
        await run.engine.propose(b"data", SOON_S)
        # Who is alone leads on.
        joined = await run.engine.change("add_learner", 2, other.address, SOON_S)
        assert joined == "ok"

        stand_still_until(lambda: run.engine.status().role == "follower")

        await run.told(Logged, lambda event: event.event == "host_lives")
        assert await run.engine.propose(b"later", SOON_S) is not None


def stand_still_until(holds: Callable[[], bool]) -> None:
    """Wait the way that holds up the loop."""
    until_s = time.monotonic() + TICKS_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.01)
