"""A daemon that takes over ends the one that runs, and nobody else."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.cli import replacing
from pgbastion.cli.replacing import end_running_daemon

LEAVES = "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))"
HANGS = "signal.signal(signal.SIGUSR2, signal.SIG_IGN)"
LOCKS = "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"


@contextmanager
def daemon(raft_dir: Path, *behaviour: str) -> Iterator["subprocess.Popen[str]"]:
    program = "\n".join(
        (
            "import fcntl, signal, sys, time",
            f"file = open({str(raft_dir / 'lock')!r}, 'w')",
            *behaviour,
            "print('ready', flush=True)",
            "time.sleep(60)",
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_daemon_that_runs_is_asked_to_leave(tmp_path: Path) -> None:
    with daemon(tmp_path, LEAVES, LOCKS) as process:
        assert end_running_daemon(tmp_path) == process.pid
        assert process.wait(1) == 7


def test_one_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "LEAVE_S", 0.2)
    with daemon(tmp_path, HANGS, LOCKS) as process:
        assert end_running_daemon(tmp_path) == process.pid
        assert process.wait(1) == -9


def test_a_process_that_only_looks_at_the_lock_is_left_alone(tmp_path: Path) -> None:
    with daemon(tmp_path, LEAVES) as process:
        assert end_running_daemon(tmp_path) is None
        assert process.poll() is None


def test_the_daemon_of_another_directory_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with daemon(other, LEAVES, LOCKS) as process:
        assert end_running_daemon(tmp_path) is None
        assert process.poll() is None
