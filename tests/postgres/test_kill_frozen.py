"""A server on a frozen file system: what cannot die is reported, and dies later."""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.postgres.guard_client import kill_by_directory
from pgbastion.postgres.guard_messages import Exited, Gone, Killed, Stopped
from support.guard_lab import alive, until
from support.guard_server import (
    EPOCH,
    ServerLab,
    Writers,
    fresh_cluster,
    newest_server,
    server_lab,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.root]

WRITERS = 2
IMAGE_BYTES = 320 << 20


@contextmanager
def own_file_system() -> Iterator[Path]:
    """Mount an ext4 of its own; skip the test where that is impossible."""
    if os.geteuid() != 0:
        pytest.skip("mounting and freezing a file system takes root")
    with tempfile.TemporaryDirectory(prefix="guard-disk-") as name:
        image, mounted = Path(name) / "image", Path(name) / "mounted"
        Path(name).chmod(0o755)
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        mount = subprocess.run(
            ["mount", "-o", "loop", image, mounted], capture_output=True, check=False
        )
        if mount.returncode:
            pytest.skip(f"no loop mount here: {mount.stderr.decode().strip()}")
        try:
            yield mounted
        finally:
            freeze(mounted, on=False)
            unmount(mounted)


def freeze(mounted: Path, *, on: bool) -> None:
    subprocess.run(
        ["fsfreeze", "-f" if on else "-u", mounted], capture_output=True, check=on
    )


def unmount(mounted: Path) -> None:
    # Killed processes let go of their files a moment after they are gone.
    for _ in range(50):
        if subprocess.run(["umount", mounted], check=False).returncode == 0:
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(f"{mounted} is still in use")


@pytest.fixture(scope="module")
def bin_dir() -> Iterator[Path]:
    with newest_server() as found:
        yield found


@pytest.fixture(scope="module")
def template(bin_dir: Path) -> Iterator[Path]:
    with fresh_cluster(bin_dir) as made:
        yield made


@pytest.fixture
async def frozen_lab(
    bin_dir: Path, template: Path
) -> AsyncIterator[tuple[ServerLab, Path, Writers]]:
    """Two writers on a file system that has just been frozen."""
    with own_file_system() as mounted:
        async with server_lab(bin_dir, template, folder=mounted) as lab:
            await lab.start()
            writers = Writers(lab, WRITERS)
            await writers.begin()
            freeze(mounted, on=True)
            try:
                yield lab, mounted, writers
            finally:
                freeze(mounted, on=False)
                await writers.join()


async def test_a_kill_on_a_frozen_disk_is_no_stop_before_the_thaw(
    frozen_lab: tuple[ServerLab, Path, Writers],
) -> None:
    lab, mounted, writers = frozen_lab
    await asyncio.sleep(0.1)

    outcome = await lab.client.kill(deadline_s=0.5)

    assert not outcome.stopped
    states = [line.split()[3] for line in outcome.left]
    assert "D" in states
    assert (await lab.client.status()).state == "not_stopped"
    assert not (await lab.guard.event(Exited)).stopped
    acknowledged = set(writers.acknowledged)

    freeze(mounted, on=False)
    await lab.guard.event(Stopped)

    await lab.is_dead_for_good()
    await writers.join()
    assert writers.acknowledged == acknowledged
    assert (await lab.client.status()).left == ()
    assert acknowledged <= await lab.rows_after_restart()


async def test_the_guard_itself_does_not_hang_on_a_frozen_disk(
    frozen_lab: tuple[ServerLab, Path, Writers],
) -> None:
    lab, mounted, _ = frozen_lab
    lab.guard.lease(EPOCH, left_ms=100)

    await lab.guard.event(Killed, 1)
    status = await lab.client.status()

    assert status.state in ("killing", "not_stopped")
    assert status.ended == EPOCH
    assert status.tainted
    freeze(mounted, on=False)
    await lab.guard.event(Stopped)


async def test_without_guard_a_frozen_disk_s_server_ends_by_directory_at_the_thaw(
    frozen_lab: tuple[ServerLab, Path, Writers],
) -> None:
    lab, mounted, writers = frozen_lab
    await asyncio.sleep(0.1)
    below = lab.below()
    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await lab.guard.event(Gone)

    left = await kill_by_directory(*lab.where, deadline_s=0.5)
    assert left
    acknowledged = set(writers.acknowledged)

    killing = asyncio.create_task(kill_by_directory(*lab.where, deadline_s=10))
    freeze(mounted, on=False)
    assert await killing == ()
    await until(lambda: not any(map(alive, below)))
    await writers.join()
    assert writers.acknowledged == acknowledged
