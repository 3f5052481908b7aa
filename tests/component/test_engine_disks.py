"""The engine's log on disks that freeze, fill up and fail."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pgbastion.bench._engine_lab import Engine, Lab, lab
from pgbastion.bench._engine_lab import until as until_within
from pgbastion.bench.lab.disks import LoopDisk, fill
from pgbastion.bench.lab.errors import CannotRun

pytestmark = [pytest.mark.root, pytest.mark.slow]

SUBNET = "127.31.9"
LONG_S = 20.0
DISK_BYTES = 40 << 20
FILLER = "filler " + "x" * 100_000
ON_DISK = 1
FAILED = ("Input/output error", "No space left on device")
"""What a device without room for a write gives: its file system's word or its own."""

until = partial(until_within, within_s=LONG_S)


@contextmanager
def loop_disk(folder: Path) -> Iterator[LoopDisk]:
    """Mount a small file system below ``folder``; skips where that is refused."""
    folder.mkdir(exist_ok=True)
    try:
        disk = LoopDisk(folder / "image", folder / "mounted", DISK_BYTES)
    except CannotRun as why:
        pytest.skip(f"not run: {why}")
    try:
        yield disk
    finally:
        disk.remove()


@contextmanager
def three(folder: Path, mounted: Path, **options: object) -> Iterator[Lab]:
    """Run three engines, of which the first leads and has its log on ``mounted``."""
    with lab(folder, SUBNET) as cluster:
        cluster.add(ON_DISK, dir=str(mounted / "raft"), **options)
        cluster.add(2)
        cluster.add(3)
        cluster.engines[ON_DISK].ask("form", member_id=ON_DISK)
        until(partial(leads, cluster, ON_DISK), "the first member leads")
        for member_id in (2, 3):
            cluster.admit(member_id)
        yield cluster


def leads(cluster: Lab, member_id: int) -> bool:
    return cluster.leader() == member_id


def said(engine: Engine, event: str) -> bool:
    return any(line[0] == event for line in engine.ask("lines"))


def write(engine: Engine, data: str) -> None:
    assert engine.ask("propose", data=data)[0] == "ok"


def test_a_leader_whose_disk_freezes_is_followed_by_another(tmp_path: Path) -> None:
    mounted = tmp_path / "disk" / "mounted"
    with loop_disk(tmp_path / "disk") as disk, three(tmp_path, mounted) as cluster:
        frozen, other = cluster.engines[ON_DISK], cluster.engines[2]
        write(frozen, "before")
        disk.freeze()

        # Nothing is written: it has to find out by itself.
        until(lambda: cluster.leader() not in {0, ON_DISK}, "another one leads")

        write(other, "meanwhile")
        assert said(frozen, "log_disk_silent")
        status = frozen.status()
        assert status["role"] == "follower"
        assert status["writing_ms"] > 0
        assert frozen.ask("propose", data="lost", timeout_ms=300)[0] != "ok"
        assert other.ask("request", member_id=ON_DISK, payload="hello")[0] == "ok"
        term = other.status()["term"]
        disk.thaw()
        until(
            lambda: "meanwhile" in frozen.ask("log"),
            "the member has what was written without it",
        )
        until(lambda: said(frozen, "log_disk_answers"), "the disk answers again")
        assert other.status()["term"] == term


def test_a_full_disk_costs_leadership_and_nothing_else(tmp_path: Path) -> None:
    mounted = tmp_path / "disk" / "mounted"
    with (
        loop_disk(tmp_path / "disk") as disk,
        three(tmp_path, mounted, compacts=False) as cluster,
    ):
        full, other = cluster.engines[ON_DISK], cluster.engines[2]
        disk.fill()

        # More than is left of the segment: the reserve becomes the next one.
        for _ in range(45):
            write(other, FILLER)

        until(lambda: cluster.leader() not in {0, ON_DISK}, "another one leads")
        assert said(full, "log_disk_full")
        assert full.process.poll() is None
        write(other, "meanwhile")
        until(lambda: "meanwhile" in full.ask("log"), "it goes on in its segment")
        disk.empty()
        write(other, "with room")
        until(lambda: said(full, "log_disk_has_room"), "it has a reserve again")


def test_the_log_of_a_full_disk_lives_on_what_it_lets_go(tmp_path: Path) -> None:
    mounted = tmp_path / "disk" / "mounted"
    with loop_disk(tmp_path / "disk") as disk, three(tmp_path, mounted) as cluster:
        full = cluster.engines[ON_DISK]
        disk.fill()

        # Far more than log and reserve have together.
        for _ in range(200):
            write(full, FILLER)
        write(full, "at the end")

        until(lambda: "at the end" in full.ask("log"), "it has everything")
        full.kill()
        full.start()
        assert full.failed is None
        until(lambda: "at the end" in full.ask("log"), "it comes back on a full disk")


def test_a_disk_that_fails_ends_the_process(tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.mkdir()
    size = f"size={DISK_BYTES // 2}"
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(backing)],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"not run: no mounts here: {tried.stderr.strip()}")
    try:
        end_by_failing_disk(tmp_path, backing)
    finally:
        subprocess.run(["umount", "--lazy", str(backing)], check=True)


def end_by_failing_disk(tmp_path: Path, backing: Path) -> None:
    """Take the space under a file system away: its writes fail, as of a broken disk."""
    with (
        loop_disk(backing),
        three(tmp_path, backing / "mounted") as cluster,
    ):
        write(cluster.engines[2], "before")
        ballast = backing / "ballast"
        fill(ballast)

        failing = cluster.engines[ON_DISK]
        for number in range(200):
            if failing.process.poll() is not None:
                break
            cluster.engines[2].ask("propose", data=f"{FILLER} {number}")

        assert failing.wait() == -signal.SIGABRT
        fatal = [line for line in failing.errors if "pgbastion: fatal" in line]
        assert any(f"log cannot be written: {error}" in fatal[0] for error in FAILED)
        ballast.unlink()
        write(cluster.engines[2], "after")
