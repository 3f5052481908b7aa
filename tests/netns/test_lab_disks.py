"""The laboratory's disks freeze, fill and go away, also while they are frozen."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.bench.lab.disks import LoopDisk
from pgbastion.bench.lab.errors import CannotRun
from support.lab_servers import lab_directory

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def place() -> Iterator[Path]:
    with lab_directory() as path:
        yield path


def disk(place: Path) -> LoopDisk:
    try:
        return LoopDisk(place / "image", place / "mounted", 64 << 20)
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def test_a_write_to_a_frozen_disk_ends_only_after_the_thaw(place: Path) -> None:
    made = disk(place)
    try:
        made.freeze()
        writer = threading.Thread(
            target=(place / "mounted" / "file").write_text, args=("x",)
        )
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        made.thaw()
        writer.join(10)
        assert not writer.is_alive()
    finally:
        made.remove()


def test_a_full_disk_takes_nothing_until_it_is_emptied(place: Path) -> None:
    made = disk(place)
    try:
        made.fill()
        with pytest.raises(OSError, match="No space left"):
            (place / "mounted" / "file").write_bytes(bytes(100_000))
        made.empty()
        (place / "mounted" / "file").write_bytes(bytes(100_000))
    finally:
        made.remove()


def test_a_frozen_disk_can_be_removed(place: Path) -> None:
    made = disk(place)
    made.freeze()

    made.remove()

    assert not (place / "mounted").is_mount()
    assert not (place / "image").exists()
