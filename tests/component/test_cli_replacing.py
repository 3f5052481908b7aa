"""A daemon that takes over ends the one in office, and nobody else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.cli import replacing
from pgbastion.cli.replacing import end_running_daemon
from pgbastion.errors import PgBastionError
from pgbastion.guard import page as words
from pgbastion.guard import procfs

LEAVES = "import signal, sys; signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))"
HANGS = "import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN)"


@contextmanager
def daemon(behaviour: str) -> Iterator["subprocess.Popen[str]"]:
    program = f"{behaviour}\nimport time\nprint('ready', flush=True)\ntime.sleep(60)"
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


def write_page(run_dir: Path, pid: int, start: int) -> None:
    page = words.create(str(run_dir / "page"))
    page[words.WRITER_PID] = pid
    page[words.WRITER_START] = start
    page.close()


def test_the_daemon_in_office_is_asked_to_leave(tmp_path: Path) -> None:
    with daemon(LEAVES) as process:
        write_page(tmp_path, process.pid, procfs.start_ticks(process.pid))

        assert end_running_daemon(tmp_path) == process.pid
        assert process.wait(1) == 7


def test_one_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "LEAVE_S", 0.2)
    with daemon(HANGS) as process:
        write_page(tmp_path, process.pid, procfs.start_ticks(process.pid))

        assert end_running_daemon(tmp_path) == process.pid
        assert process.wait(1) == -9


def test_a_process_that_has_only_the_pid_is_left_alone(tmp_path: Path) -> None:
    with daemon(LEAVES) as process:
        write_page(tmp_path, process.pid, procfs.start_ticks(process.pid) + 1)

        assert end_running_daemon(tmp_path) is None
        assert process.poll() is None


def test_without_a_page_there_is_nobody_to_end(tmp_path: Path) -> None:
    assert end_running_daemon(tmp_path) is None


def test_without_a_writer_there_is_nobody_to_end(tmp_path: Path) -> None:
    write_page(tmp_path, 0, 0)

    assert end_running_daemon(tmp_path) is None


def test_a_page_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(bytes(os.sysconf("SC_PAGE_SIZE")))
    (tmp_path / "page").chmod(0o600)

    with pytest.raises(PgBastionError, match="shared page"):
        end_running_daemon(tmp_path)
