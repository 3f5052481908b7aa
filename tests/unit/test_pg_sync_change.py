"""What the server says of its synchronous setting, and who changed it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.clock import boottime_ns
from pgbastion.errors import PostgresError
from pgbastion.model.cluster import NOBODY, ReplicationMode, SyncSet
from pgbastion.model.ids import DataId
from pgbastion.model.wal import Lsn
from pgbastion.postgres.primary import SyncEffect
from pgbastion.postgres.render import parse_sync_names, sync_names
from pgbastion.postgres.sync_change import SETTLED_NS, TAKEN_UP_NS, SyncChange

QUORUM, SYNC = ReplicationMode.QUORUM, ReplicationMode.SYNC
PAIR = SyncSet(names=("a", "b"), num_sync=1)
BOTH = SyncSet(names=("a", "b"), num_sync=2)


class Server:
    """Takes the setting at once."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.ended: list[set[int]] = []
        self.walsenders = {"a": 1, "b": 2, "stranger": 3}
        self.stays: set[int] = set()
        """Walsenders that are told to end, and have not ended yet."""
        self.fails = False
        self.waits = self.prepared = False

    async def set_sync(
        self, mode: ReplicationMode, sync: SyncSet | None, own: DataId
    ) -> None:
        del own
        self.written.append(sync_names(mode, sync))
        # Once nobody confirms, a connection may be hard to get.
        assert sync is not None or self.prepared
        if self.fails:
            raise PostgresError("it was not told to read its files again")

    async def prepare_to_commit(self) -> None:
        self.prepared = True

    async def commits_wait(self) -> bool:
        assert self.prepared
        assert self.written[-1] == sync_names(QUORUM, None)
        return self.waits

    async def end_walsenders(self, pids: set[int]) -> None:
        self.ended.append(set(pids))
        for name, pid in self.walsenders.items():
            if pid in pids - self.stays:
                self.walsenders[name] = pid + 10

    async def write_position(self) -> Lsn:
        return Lsn(100)

    async def senders(self) -> tuple[Any, ...]:
        return tuple(
            SimpleNamespace(name=name, pid=pid, flush_lsn=Lsn(100))
            for name, pid in self.walsenders.items()
        )

    async def sync_effect(self, mode: ReplicationMode, sync: SyncSet) -> SyncEffect:
        del mode, sync
        return SyncEffect(effective=True)

    def __getattr__(self, what: str) -> Any:
        raise AssertionError(f"{what} is not asked for here")


def applied(*sets: tuple[ReplicationMode, SyncSet]) -> tuple[SyncChange, Server]:
    server = Server()
    change = SyncChange(server)  # type: ignore[arg-type]

    async def apply() -> None:
        for mode, sync in sets:
            await change.apply(mode, sync, DataId("x"), first=False)

    asyncio.run(apply())
    return change, server


def seen_then_applied(text: str, sync: SyncSet) -> Server:
    """Have a set applied by a daemon that found this setting."""
    change, server = applied()
    change.facts(QUORUM, text, boottime_ns())
    asyncio.run(change.apply(QUORUM, sync, DataId("x"), first=False))
    return server


@pytest.mark.parametrize("text", [sync_names(QUORUM, PAIR), "*", "ANY 1 (*)"])
def test_walsenders_that_may_need_fewer_end_whoever_set_that(text: str) -> None:
    """S2: their number does not show, and one that is late confirms with the old."""
    assert seen_then_applied(text, BOTH).ended == [{1, 2}]


@pytest.mark.parametrize(
    "text", ["", sync_names(QUORUM, None), sync_names(QUORUM, BOTH)]
)
def test_walsenders_that_need_no_fewer_go_on(text: str) -> None:
    assert seen_then_applied(text, BOTH).ended == []


def test_a_raised_number_ends_walsenders_once() -> None:
    _, server = applied((QUORUM, PAIR), *[(QUORUM, BOTH)] * 3)

    assert server.ended == [{1, 2}]


def test_a_raised_number_is_in_force_when_the_older_walsenders_are_gone() -> None:
    """S2: one that was told to end may confirm once more before it does."""
    change, server = applied((QUORUM, PAIR))
    server.stays = {2}

    def is_in_force() -> bool:
        return asyncio.run(change.apply(QUORUM, BOTH, DataId("x"), first=False))

    assert [is_in_force() for _ in range(3)] == [False] * 3
    server.stays = set()
    assert [is_in_force() for _ in range(2)] == [False, True]
    assert server.ended == [{1, 2}, {2}, {2}, {2}]


def test_a_set_that_was_perhaps_written_is_not_taken_for_unwritten() -> None:
    """S2: the next reload of the files would bring it, behind the promise's back."""
    change, server = applied((QUORUM, BOTH))
    server.fails = True
    with pytest.raises(PostgresError):
        asyncio.run(change.apply(QUORUM, PAIR, DataId("x"), first=False))
    server.fails = False

    asyncio.run(change.apply(QUORUM, BOTH, DataId("x"), first=False))

    assert server.written[-1] == sync_names(QUORUM, BOTH)
    assert len(server.written) == 3


def test_walsenders_end_also_where_the_raise_failed_at_first() -> None:
    change, server = applied((QUORUM, PAIR))
    server.fails = True
    with pytest.raises(PostgresError):
        asyncio.run(change.apply(QUORUM, BOTH, DataId("x"), first=False))
    server.fails = False
    change.facts(QUORUM, sync_names(QUORUM, BOTH), boottime_ns())

    asyncio.run(change.apply(QUORUM, BOTH, DataId("x"), first=False))

    assert server.ended == [{1, 2}]


def first_set(change: SyncChange, sync: SyncSet = PAIR) -> bool:
    return asyncio.run(change.apply(QUORUM, sync, DataId("x"), first=True))


def test_a_first_set_is_written_when_a_commit_was_seen_to_wait() -> None:
    """S2: the checkpointer, which may be busy, has sessions wait; no walsender does."""
    change, server = applied((QUORUM, NOBODY))
    nobody = sync_names(QUORUM, None)

    assert not first_set(change)
    assert not first_set(change)
    assert server.written == ["", nobody]

    server.waits = True
    first_set(change)
    assert server.written == ["", nobody, sync_names(QUORUM, PAIR)]


def test_commits_that_wait_are_seen_once_as_long_as_they_do() -> None:
    change, server = applied((QUORUM, NOBODY))
    server.waits = True
    first_set(change)
    server.waits = False

    first_set(change, BOTH)
    assert server.written[-1] == sync_names(QUORUM, BOTH)

    asyncio.run(change.apply(QUORUM, NOBODY, DataId("x"), first=False))
    first_set(change)
    assert server.written[-1] == sync_names(QUORUM, None)


def test_commits_are_seen_to_wait_again_after_somebody_elses_setting() -> None:
    change, server = applied((QUORUM, NOBODY))
    server.waits = True
    first_set(change)
    server.waits = False
    assert change.facts(QUORUM, "", boottime_ns() + 2 * TAKEN_UP_NS)["sync_foreign"]

    first_set(change)
    assert server.written[-1] == sync_names(QUORUM, None)


def test_under_a_promise_commits_wait_and_go_on_to_without_it() -> None:
    """A standby that is back before the setting is empty interrupts no commit."""
    change, server = applied((QUORUM, PAIR))

    first_set(change)

    assert sync_names(QUORUM, None) not in server.written


def test_a_setting_of_somebody_else_is_noticed_once_and_written_again() -> None:
    change, server = applied((QUORUM, NOBODY))
    later = boottime_ns() + SETTLED_NS

    assert change.facts(QUORUM, "*", later)["sync_foreign"]
    assert not change.facts(QUORUM, "*", later)["sync_foreign"]
    asyncio.run(change.apply(QUORUM, NOBODY, DataId("x"), first=False))
    assert server.written == ["", ""]


def test_our_own_setting_is_nobody_elses() -> None:
    change, _ = applied((QUORUM, NOBODY))

    assert not change.facts(QUORUM, "", boottime_ns() + SETTLED_NS)["sync_foreign"]


def test_a_session_may_read_the_old_setting_for_a_moment() -> None:
    change, _ = applied((QUORUM, NOBODY))

    assert not change.facts(QUORUM, 'ANY 1 ("a")', boottime_ns())["sync_foreign"]


def test_a_setting_is_nobody_elses_before_one_was_applied() -> None:
    change, _ = applied()

    assert not change.facts(QUORUM, "*", boottime_ns() + SETTLED_NS)["sync_foreign"]


def test_the_same_set_is_written_again_in_another_mode() -> None:
    _, server = applied((QUORUM, NOBODY), (SYNC, NOBODY), (SYNC, NOBODY))

    assert len(server.written) == 2


def test_the_words_follow_the_mode() -> None:
    change, _ = applied()
    text = sync_names(QUORUM, PAIR)

    assert change.facts(SYNC, text, 0)["sync_reworded"]
    assert not change.facts(QUORUM, text, 0)["sync_reworded"]
    assert not change.facts(SYNC, "", 0)["sync_reworded"]


@pytest.mark.parametrize(
    "text", ["*", "ANY 1 (*)", "n2", "FIRST 1 (n2)", "ANY 0 ()", 'ANY 3 ("a")']
)
def test_what_we_did_not_write_promises_nothing(text: str) -> None:
    """Else somebody's ``*`` would count as a server that confirms nothing at all."""
    assert parse_sync_names(text) == NOBODY
