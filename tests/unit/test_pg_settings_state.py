"""What a server says of its settings is kept, but not what is outdated."""

import asyncio
from typing import cast

import pytest

from pgbastion.errors import PostgresError
from pgbastion.postgres.primary import Primary
from pgbastion.postgres.settings_state import NOTHING, SettingsWatch


class FakePrimary:
    """A server whose session takes a reload up only when it is told to."""

    def __init__(self) -> None:
        self.files = self.taken_up = 0
        self.asked = 0
        self.answers = True

    async def loaded_at(self) -> str:
        return f"at {self.taken_up}"

    async def pending_restart(self) -> tuple[str, ...]:
        if not self.answers:
            raise PostgresError("gone")
        self.asked += 1
        return ("max_connections",) if self.taken_up else ()

    async def limits(self) -> tuple[tuple[str, int], ...]:
        return ()

    async def reload(self) -> None:
        self.files += 1


@pytest.fixture
def server() -> FakePrimary:
    return FakePrimary()


@pytest.fixture
def watch(server: FakePrimary) -> SettingsWatch:
    return SettingsWatch(cast("Primary", server), look_s=1.0)


def pending(watch: SettingsWatch) -> tuple[str, ...]:
    return asyncio.run(watch.ask()).pending_restart


def test_a_server_is_asked_once(server: FakePrimary, watch: SettingsWatch) -> None:
    assert (pending(watch), pending(watch)) == ((), ())
    assert server.asked == 1


def test_what_a_session_says_before_it_took_a_reload_up_is_not_kept(
    server: FakePrimary, watch: SettingsWatch
) -> None:
    asyncio.run(watch.reload())
    assert pending(watch) == ()

    server.taken_up = server.files

    assert pending(watch) == ("max_connections",)
    assert pending(watch) == ("max_connections",)
    assert server.asked == 2


def test_a_reload_has_settled_once_the_session_took_it_up(
    server: FakePrimary, watch: SettingsWatch
) -> None:
    async def reload() -> tuple[str, ...]:
        await watch.reload()
        asyncio.get_running_loop().call_later(0.05, take_up)
        return (await watch.settled()).pending_restart

    def take_up() -> None:
        server.taken_up = server.files

    assert asyncio.run(reload()) == ("max_connections",)


def test_another_server_is_asked_anew(
    server: FakePrimary, watch: SettingsWatch
) -> None:
    assert pending(watch) == ()
    server.taken_up = 1

    watch.forget()

    assert pending(watch) == ("max_connections",)


def test_a_silent_server_says_nothing_that_is_kept(
    server: FakePrimary, watch: SettingsWatch
) -> None:
    server.answers = False
    assert asyncio.run(watch.ask()) is NOTHING
    server.answers, server.taken_up = True, 1

    assert pending(watch) == ("max_connections",)
