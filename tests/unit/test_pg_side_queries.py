"""What is looked into whenever a server has read its files."""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from pgbastion.errors import PostgresError
from pgbastion.postgres.config_files import ConfigFiles
from pgbastion.postgres.connection import Address
from pgbastion.postgres.primary import Primary
from pgbastion.postgres.settings import undermines
from pgbastion.postgres.side_queries import SideQueries
from pgbastion.postgres.standby import Standby


class Standing:
    """A standby whose server has no more to say."""

    async def warm(self) -> None:
        return None


class Endangered:
    """A server whose files are looked through; now and then that fails."""

    def __init__(self) -> None:
        self.looked = 0
        self.fails = False

    async def end_dangers(self, *, in_recovery: bool) -> None:
        assert in_recovery
        self.looked += 1
        if self.fails:
            raise PostgresError("the disk did not answer")

    async def open(self) -> None:
        return None

    async def loaded_at(self) -> str:
        raise PostgresError("not asked for here")


def looked(server: Endangered, readings: Sequence[str]) -> int:
    side = SideQueries(cast("Primary", server), cast("Standby", Standing()), look_s=5.0)

    async def look() -> None:
        for reading in readings:
            await side.ask((), in_recovery=True, loaded_at=reading)

    asyncio.run(look())
    return server.looked


def test_the_files_are_looked_through_whenever_the_server_has_read_them() -> None:
    assert looked(Endangered(), ("one", "one", "two", "two")) == 2


def test_the_files_are_looked_through_again_after_a_try_that_failed() -> None:
    server = Endangered()
    server.fails = True
    assert looked(server, ("one", "one", "one")) == 3


class Files:
    """postgresql.auto.conf with what somebody has set."""

    def __init__(self, *found: str) -> None:
        self.found = set(found)

    async def sanitise(
        self, unwanted: Callable[[str, str], bool] = undermines
    ) -> tuple[str, ...]:
        removed = {name for name in self.found if unwanted(name, "off")}
        self.found -= removed
        return tuple(removed)


class Told(Primary):
    """A primary whose server may not hear that it is to read its files."""

    def __init__(self, files: Files) -> None:
        super().__init__(
            Address(host="/run", port=1, user="u", password="p"),
            cast("ConfigFiles", files),
        )
        self.times = 0
        self.hears = True

    async def reload(self) -> None:
        self.times += 1
        if not self.hears:
            raise PostgresError("it does not answer")


def test_a_server_is_told_what_was_taken_out_until_it_hears() -> None:
    """S2: the file would be mended, and the server goes on without fsync."""
    server = Told(Files("fsync", "work_mem"))
    server.hears = False

    async def end_dangers() -> None:
        for hears in (False, False, True, True):
            server.hears = hears
            try:
                await server.end_dangers(in_recovery=False)
            except PostgresError:
                assert not hears

    asyncio.run(end_dangers())
    assert server.times == 3


def test_whom_commits_wait_for_is_left_to_the_rule_that_takes_the_promise_back() -> (
    None
):
    files = Files("synchronous_standby_names", "synchronous_commit", "primary_conninfo")
    asyncio.run(Told(files).end_dangers(in_recovery=False))
    assert files.found == {"synchronous_standby_names", "primary_conninfo"}


def test_a_standby_is_led_nowhere_else() -> None:
    files = Files("synchronous_standby_names", "primary_conninfo", "work_mem")
    asyncio.run(Told(files).end_dangers(in_recovery=True))
    assert files.found == {"work_mem"}
