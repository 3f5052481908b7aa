"""Timeline histories in pg_wal: only those that were asked for are read.

Each has a line for every promotion before it, so reading all of them costs the square
of a cluster's promotions, inside the gap of a failover.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pgbastion.errors import TimelineTaken
from pgbastion.model.ids import Timeline
from pgbastion.postgres.files import Files
from pgbastion.postgres.history import HistoryFiles
from pgbastion.postgres.layout import PgPaths
from support.pg_files import paths_below

T = TypeVar("T")

SECOND = "1\t0/5000000\tbefore 2\n"
THIRD = f"{SECOND}2\t0/6000000\tbefore 3\n"


def ask(paths: PgPaths, question: Callable[[HistoryFiles], Awaitable[T]]) -> T:
    """Return what the files in a server's pg_wal answer."""
    files = Files(paths.account)

    async def run() -> T:
        return await question(HistoryFiles(paths, files))

    try:
        return asyncio.run(run())
    finally:
        files.close()


@pytest.fixture
def paths(tmp_path: Path) -> PgPaths:
    """Return a server's with three timelines, of which nobody can read the second."""
    paths = paths_below(tmp_path)
    paths.wal_dir.mkdir(parents=True)
    (paths.wal_dir / "00000002.history").write_text("damaged")
    (paths.wal_dir / "00000003.history").write_text(THIRD)
    (paths.wal_dir / "000000030000000000000006").write_text("a segment")
    return paths


def test_a_history_is_read_without_the_others(paths: PgPaths) -> None:
    found = ask(paths, lambda files: files.read(Timeline(3)))
    assert found is not None
    assert found.begin == 0x6000000
    assert ask(paths, lambda files: files.read(Timeline(4))) is None


def test_a_timeline_is_known_by_the_name_of_its_file(paths: PgPaths) -> None:
    assert ask(paths, lambda files: files.known()) == {2, 3}


def test_timelines_that_are_older_are_not_read(paths: PgPaths) -> None:
    found = ask(paths, lambda files: files.newer(Timeline(2)))
    assert [history.timeline for history in found] == [3]


def test_a_promotion_reads_the_history_of_its_own_timeline_only(
    paths: PgPaths,
) -> None:
    ask(paths, lambda files: files.write_missing(Timeline(3), Timeline(6)))
    assert ask(paths, lambda files: files.known()) == {2, 3, 4, 5}
    assert (paths.wal_dir / "00000002.history").read_text() == "damaged"
    with pytest.raises(TimelineTaken, match="timeline 5 is known here"):
        ask(paths, lambda files: files.write_missing(Timeline(3), Timeline(5)))


def test_the_first_timeline_has_no_history_and_is_left_none(tmp_path: Path) -> None:
    """Files for the ids between are put before the first promotion of a cluster too."""
    paths = paths_below(tmp_path)
    paths.wal_dir.mkdir(parents=True)

    ask(paths, lambda files: files.write_missing(Timeline(1), Timeline(4)))

    assert ask(paths, lambda files: files.known()) == {2, 3}


def test_an_ancestor_without_a_file_gets_a_true_one(paths: PgPaths) -> None:
    (paths.wal_dir / "00000002.history").unlink()

    ask(paths, lambda files: files.write_missing(Timeline(3), Timeline(4)))

    assert (paths.wal_dir / "00000002.history").read_text() == SECOND
