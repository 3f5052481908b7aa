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


def test_a_daemon_that_is_not_the_writer_pauses_nothing(page: Page) -> None:
    page[words.GENERATION] = 2

    SharedPage(page, 1).note_pause(1, paused=True)

    assert page[words.PAUSED] == 0


def test_the_margin_of_a_file_replaces_none_that_a_former_daemon_has_set(
    page: Page,
) -> None:
    """A file's may be as long as the cluster's lease: the guard would act at once."""
    shared = SharedPage(page, 0)

    shared.set_lead(500, sure=False)
    fresh = page[words.LEAD_NS]
    shared.set_lead(200, sure=True)
    shared.set_lead(2_000, sure=False)
    started = page[words.LEAD_NS]
    shared.set_lead(2_000, sure=True)

    assert (fresh, started) == (500_000_000, 200_000_000)
    assert page[words.LEAD_NS] == 2_000_000_000
