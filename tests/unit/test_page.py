"""The shared page: its words are read and written whole."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.guard import page as words
from pgbastion.guard.page import MAGIC, SIZE, WORDS, Page, PageError, create, obtain

# Two values that differ in each of their eight bytes: half of one and half of the
# other is neither.
LOW = 0x0101_0101_0101_0101
HIGH = 0x7E7E_7E7E_7E7E_7E7E
# A word that is written byte by byte is caught long before that.
CHANGES = 1_000
LOOK_S_MAX = 50.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "page")


@pytest.fixture
def page(path: str) -> Iterator[Page]:
    made = create(path)
    yield made
    made.close()


def test_a_new_page_is_zero_but_for_its_magic_word(page: Page) -> None:
    found = page.words()

    assert found.pop("magic") == MAGIC
    assert set(found.values()) == {0}


def test_a_new_page_is_for_its_owner_only(page: Page) -> None:
    assert Path(page.path).stat().st_mode & 0o777 == 0o600
    assert Path(page.path).stat().st_size == SIZE


def test_words_have_their_own_places() -> None:
    places = list(WORDS.values())

    assert len(set(places)) == len(places)
    assert all(0 <= place < SIZE // 8 for place in places)


def test_a_word_lies_at_eight_times_its_index_in_native_order(page: Page) -> None:
    page[words.EXPIRY_NS] = 0x0102_0304_0506_0708

    raw = memoryview(Path(page.path).read_bytes()).cast("q")

    assert raw[words.EXPIRY_NS] == 0x0102_0304_0506_0708
    assert sum(1 for word in raw if word) == 2  # this one and the magic word


def test_what_one_mapping_writes_the_other_reads(page: Page, path: str) -> None:
    other = Page(path)
    page[words.EPOCH] = -1

    assert other[words.EPOCH] == -1
    other.close()


def test_obtain_keeps_what_was_latched(page: Page, path: str) -> None:
    page[words.ENDED_EPOCH] = 7

    again = obtain(path)

    assert again[words.ENDED_EPOCH] == 7
    again.close()


def test_obtain_makes_an_absent_page(path: str) -> None:
    page = obtain(path)

    assert page[words.GENERATION] == 0
    page.close()
    assert [entry.name for entry in Path(path).parent.iterdir()] == ["page"]


def test_a_page_of_another_layout_is_refused(page: Page, path: str) -> None:
    page[words.MAGIC_WORD] = MAGIC + 1

    with pytest.raises(PageError, match="layout"):
        Page(path)


def test_a_file_of_another_size_is_refused(path: str) -> None:
    Path(path).write_bytes(bytes(SIZE - 8))
    Path(path).chmod(0o600)

    with pytest.raises(PageError, match="bytes"):
        Page(path)


def test_a_page_that_others_may_write_is_refused(page: Page, path: str) -> None:
    Path(path).chmod(0o660)

    with pytest.raises(PageError, match="others"):
        Page(path)


def test_a_symbolic_link_is_not_followed(page: Page, path: str) -> None:
    link = f"{path}.link"
    Path(link).symlink_to(path)

    with pytest.raises(OSError, match="symbolic"):
        Page(link)


@pytest.mark.slow
def test_no_reader_sees_half_a_word(page: Page, path: str) -> None:
    # On one processor they would take turns, each for milliseconds.
    allowed = os.sched_getaffinity(0)
    reads_on, writes_on = min(allowed), max(allowed)
    writer = os.fork()
    if writer == 0:
        os.sched_setaffinity(0, {writes_on})
        while os.getppid() != 1:
            page[words.EXPIRY_NS] = LOW
            page[words.EXPIRY_NS] = HIGH
        os._exit(0)
    seen = set()
    last, changes = 0, 0
    end = time.monotonic() + LOOK_S_MAX
    try:
        os.sched_setaffinity(0, {reads_on})
        while changes < CHANGES and time.monotonic() < end:
            now = page[words.EXPIRY_NS]
            changes += now != last
            last = now
            seen.add(now)
    finally:
        os.sched_setaffinity(0, allowed)
        os.kill(writer, 9)
        os.waitpid(writer, 0)

    assert changes >= CHANGES, "writer and reader hardly ran at the same time"
    assert seen - {0} == {LOW, HIGH}
