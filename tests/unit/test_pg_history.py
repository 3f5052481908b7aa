"""Timeline histories in pg_wal: only those that were asked for are read.

Each has a line for every promotion before it, so reading all of them costs the square
of a cluster's promotions, inside the gap of a failover.
"""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pgbastion.errors import TimelineTaken
from pgbastion.model.ids import Timeline
from pgbastion.postgres.files import Files
from pgbastion.postgres.history import HistoryFiles
from pgbastion.postgres.layout import Account, PgPaths

T = TypeVar("T")

SECOND = "1\t0/5000000\tbefore 2\n"
THIRD = f"{SECOND}2\t0/6000000\tbefore 3\n"


def ask(root: Path, question: Callable[[HistoryFiles], Awaitable[T]]) -> T:
    """Return what the files below ``root`` answer."""
    entry = pwd.getpwuid(os.geteuid())
    account = Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    paths = PgPaths(
        bin_dir=root,
        data_dir=root,
        run_dir=root,
        socket_dir=root,
        state_dir=root,
        account=account,
    )
    files = Files(account)

    async def run() -> T:
        return await question(HistoryFiles(paths, files))

    try:
        return asyncio.run(run())
    finally:
        files.close()


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    """Return a pg_wal with three timelines, of which nobody can read the second."""
    wal = tmp_path / "pg_wal"
    wal.mkdir()
    (wal / "00000002.history").write_text("damaged")
    (wal / "00000003.history").write_text(THIRD)
    (wal / "000000030000000000000006").write_text("a segment")
    return wal


def test_a_history_is_read_without_the_others(wal: Path) -> None:
    found = ask(wal.parent, lambda files: files.read(Timeline(3)))
    assert found is not None
    assert found.begin == 0x6000000
    assert ask(wal.parent, lambda files: files.read(Timeline(4))) is None


def test_a_timeline_is_known_by_the_name_of_its_file(wal: Path) -> None:
    assert ask(wal.parent, lambda files: files.known()) == {2, 3}


def test_timelines_that_are_older_are_not_read(wal: Path) -> None:
    found = ask(wal.parent, lambda files: files.newer(Timeline(2)))
    assert [history.timeline for history in found] == [3]


def test_a_promotion_reads_the_history_of_its_own_timeline_only(wal: Path) -> None:
    ask(wal.parent, lambda files: files.write_missing(Timeline(3), Timeline(6)))
    assert ask(wal.parent, lambda files: files.known()) == {2, 3, 4, 5}
    assert (wal / "00000002.history").read_text() == "damaged"
    with pytest.raises(TimelineTaken, match="timeline 5 is known here"):
        ask(wal.parent, lambda files: files.write_missing(Timeline(3), Timeline(5)))
