"""What the server says of its synchronous setting, and who changed it."""

import asyncio
from typing import Any

import pytest

from pgbastion.clock import boottime_ns
from pgbastion.model.cluster import NOBODY, ReplicationMode, SyncSet
from pgbastion.model.ids import DataId
from pgbastion.postgres.primary import SyncEffect
from pgbastion.postgres.render import parse_sync_names, sync_names
from pgbastion.postgres.sync_change import SETTLED_NS, SyncChange

QUORUM, SYNC = ReplicationMode.QUORUM, ReplicationMode.SYNC
PAIR = SyncSet(names=("a", "b"), num_sync=1)


class Server:
    """Takes the setting at once."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def set_sync(self, mode: ReplicationMode, sync: SyncSet, own: DataId) -> None:
        del own
        self.written.append(sync_names(mode, sync))

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
            await change.apply(mode, sync, DataId("x"))

    asyncio.run(apply())
    return change, server


def test_a_setting_of_somebody_else_is_noticed_once_and_written_again() -> None:
    change, server = applied((QUORUM, NOBODY))
    later = boottime_ns() + SETTLED_NS

    assert change.facts(QUORUM, "*", later)["sync_foreign"]
    assert not change.facts(QUORUM, "*", later)["sync_foreign"]
    asyncio.run(change.apply(QUORUM, NOBODY, DataId("x")))
    assert server.written == ["", ""]


def test_our_own_setting_is_nobody_elses() -> None:
    change, _ = applied((QUORUM, NOBODY))

    assert not change.facts(QUORUM, "", boottime_ns() + SETTLED_NS)["sync_foreign"]


def test_a_session_may_read_the_old_setting_for_a_moment() -> None:
    change, _ = applied((QUORUM, NOBODY))

    assert not change.facts(QUORUM, 'ANY 1 ("a")', boottime_ns())["sync_foreign"]


def test_nothing_was_set_yet() -> None:
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
