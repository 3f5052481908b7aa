"""The demonstration as a newcomer runs it: real servers, and nothing left after."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from pgbastion.bench.lab import processes
from pgbastion.demo import leftovers

PROGRAM = str(Path(sys.executable).with_name("pgbastion"))
ONCE_S = 150
READY_S = 100
END_S = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the demonstration takes for the system's temporary one."""
    folder = Path(tempfile.mkdtemp(prefix="demo-test-"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    for directory in folder.iterdir():
        leftovers.remove(directory)
    shutil.rmtree(folder)


def left_in(scratch: Path) -> list[str]:
    """Return the files and processes that are still there."""
    own = os.getpid()
    found = [
        processes.command_line(p)
        for p in processes.with_argument(str(scratch))
        if p.pid != own
    ]
    return [*found, *(str(path) for path in scratch.iterdir())]


def test_a_killed_primary_costs_no_row_and_nothing_is_left(scratch: Path) -> None:
    command = [PROGRAM, "demo", "--once", "--fault", "postmaster", "--profile", "fast"]

    done = subprocess.run(
        command, capture_output=True, text=True, timeout=ONCE_S, check=False
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result) == [
        "gap_ms",
        "lost_rows",
        "acknowledged",
        "old_primary",
        "new_primary",
        "profile",
        "fault",
    ]
    assert result["lost_rows"] == 0
    assert result["acknowledged"] > 0
    assert result["gap_ms"] > 0
    assert {result["old_primary"], result["new_primary"]} <= {"n1", "n2", "n3"}
    assert (result["profile"], result["fault"]) == ("fast", "postmaster")
    assert left_in(scratch) == []


@pytest.fixture
def live(scratch: Path) -> Iterator["subprocess.Popen[str]"]:
    """A live demonstration whose output is no terminal."""
    command = [PROGRAM, "demo", "--profile", "fast"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        yield process
        process.kill()


def read_until(stream: IO[str] | None, words: str) -> str:
    """Return the lines up to the one with ``words``."""
    assert stream is not None
    said = ""
    deadline = time.monotonic() + READY_S
    for line in stream:
        said += line
        if words in line:
            return said
        assert time.monotonic() < deadline, said
    raise AssertionError(f"ended before it said {words!r}:\n{said}")


def test_ctrl_c_ends_a_demonstration_that_said_what_to_try(
    live: "subprocess.Popen[str]", scratch: Path
) -> None:
    said = read_until(live.stdout, "kill its daemon")

    live.send_signal(signal.SIGINT)
    rest, _ = live.communicate(timeout=END_S)

    assert "writes are accepted" in said
    assert "psql postgresql://postgres:" in said
    assert "/cluster" in said
    assert "kill -9 " in said
    assert live.returncode == 0, rest
    assert left_in(scratch) == []


def test_the_next_demonstration_removes_what_a_killed_one_left(
    live: "subprocess.Popen[str]", scratch: Path
) -> None:
    read_until(live.stdout, "writes are accepted")
    live.kill()
    live.wait()
    assert left_in(scratch) != []

    leftovers.remove_leftovers()

    assert left_in(scratch) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="not run: root may cut")
def test_a_fault_that_needs_root_is_refused_in_words(scratch: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "demo", "--once", "--fault", "cut"],
        capture_output=True,
        text=True,
        timeout=ONCE_S,
        check=False,
    )

    assert done.returncode == 69
    assert "needs root" in done.stderr
    assert left_in(scratch) == []
