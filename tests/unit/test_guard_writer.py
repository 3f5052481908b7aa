"""A daemon that comes while another one of its node lives."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.errors import GuardError
from pgbastion.guard import page as words
from pgbastion.guard.page import Page, create
from pgbastion.node.page import SharedPage
from pgbastion.postgres.guard_writer import become_writer

pytestmark = pytest.mark.anyio


class Guard:
    """Names process 7 as the writer, in generation 3, until that ends."""

    latest = SimpleNamespace(writer=7, generation=3)

    def __init__(self) -> None:
        self.asked = 0
        self.is_waited_for = asyncio.Event()
        self.has_ended = asyncio.Event()

    async def ask_for_writer_lock(self) -> int | None:
        self.asked += 1
        return 4 if self.has_ended.is_set() else None

    async def writer_lock_is_free(self, _until_s: float) -> None:
        self.is_waited_for.set()
        await self.has_ended.wait()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = create(str(tmp_path / "page"))
    made[words.GENERATION] = 3
    yield made
    made.close()


async def test_beside_a_daemon_that_stays_the_second_is_refused(page: Page) -> None:
    guard: Any = Guard()

    with pytest.raises(GuardError, match=r"another daemon .* runs: process 7;"):
        await become_writer(guard, Path(page.path), told_s=0)


async def test_a_daemon_that_has_said_that_it_ends_is_waited_for(page: Page) -> None:
    guard: Any = Guard()
    SharedPage(page, 3).note_leaving()

    waiting = asyncio.create_task(become_writer(guard, Path(page.path), told_s=0))
    await guard.is_waited_for.wait()
    guard.has_ended.set()

    assert await waiting == 4


async def test_one_that_ends_for_ever_is_named(page: Page) -> None:
    guard: Any = Guard()
    SharedPage(page, 3).note_leaving()

    with pytest.raises(GuardError, match=r"process 7, was told to end and still runs"):
        await become_writer(guard, Path(page.path), ending_s=0)


async def test_the_word_of_an_earlier_daemon_says_nothing_of_this_one(
    page: Page,
) -> None:
    page[words.LEAVING] = 2

    with pytest.raises(GuardError, match="another daemon"):
        await become_writer(Guard(), Path(page.path), told_s=0)  # type: ignore[arg-type]


async def test_a_daemon_that_is_not_the_writer_does_not_speak_for_the_next(
    page: Page,
) -> None:
    SharedPage(page, 2).note_leaving()

    assert page[words.LEAVING] == 0
