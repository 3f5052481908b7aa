"""What the process beside a server's disks finds."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbastion.postgres.fsync_worker import check

SEGMENT = "000000010000000000000001"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make what every running server has."""
    (tmp_path / "global").mkdir()
    (tmp_path / "global/pg_control").touch()
    (tmp_path / "pg_wal/archive_status").mkdir(parents=True)
    (tmp_path / "pg_wal" / SEGMENT).touch()
    return tmp_path


def look(data: Path, *others: Path) -> dict[str, object]:
    directories = [str(data), *map(str, others)]
    return check(directories, "now", os.geteuid(), os.getegid())


def test_a_directory_with_all_of_it_is_well(data: Path) -> None:
    found = look(data)

    assert found.keys() == {"free", "size"}
    assert (data / "pgbastion.probe").read_text().strip() == "now"


def remove_wal(data: Path) -> None:
    (data / "pg_wal" / SEGMENT).unlink()


def remove_wal_directory(data: Path) -> None:
    (data / "pg_wal").rename(data / "elsewhere")


def remove_control(data: Path) -> None:
    (data / "global/pg_control").unlink()


@pytest.mark.parametrize(
    ("remove", "said"),
    [
        (remove_wal, "the WAL in pg_wal is gone"),
        (remove_wal_directory, "pg_wal is gone"),
        (remove_control, "global/pg_control is gone"),
    ],
)
def test_what_a_running_server_has_lost_is_named(
    data: Path, remove: Callable[[Path], None], said: str
) -> None:
    remove(data)

    assert look(data) == {"error": f"{data}: {said}", "errno": errno.ENOENT}


def test_wal_on_a_disk_that_is_no_longer_mounted_is_gone(
    data: Path, tmp_path: Path
) -> None:
    wal = tmp_path / "disk"
    (data / "pg_wal").rename(wal)
    (data / "pg_wal").symlink_to(wal)
    assert "error" not in look(data, wal)

    wal.rename(tmp_path / "unmounted")
    wal.mkdir()

    assert look(data, wal)["error"] == f"{data}: the WAL in pg_wal is gone"
