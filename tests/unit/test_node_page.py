"""The daemon's words of the shared page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.guard import page as words
from pgbastion.guard.page import Page, create
from pgbastion.node.page import SharedPage


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = create(str(tmp_path / "page"))
    yield made
    made.close()


def test_the_guard_reads_a_pause_and_its_end(page: Page) -> None:
    shared = SharedPage(page, 0)

    shared.note_pause(1, paused=True)
    during = (page[words.PAUSED], page[words.PAUSE_REVISION])
    shared.note_pause(2, paused=False)

    assert during == (1, 1)
    assert (page[words.PAUSED], page[words.PAUSE_REVISION]) == (0, 2)
    assert (shared.read().paused, shared.read().pause_revision) == (False, 2)


def test_a_log_that_is_read_again_from_its_beginning_ends_no_pause(page: Page) -> None:
    shared = SharedPage(page, 0)
    shared.note_pause(3, paused=True)

    shared.note_pause(2, paused=False)

    assert (shared.read().paused, shared.read().pause_revision) == (True, 3)


def test_a_daemon_that_is_out_of_office_pauses_nothing(page: Page) -> None:
    page[words.GENERATION] = 2

    SharedPage(page, 1).note_pause(1, paused=True)

    assert page[words.PAUSED] == 0
