"""The laboratory's clocks are what they are set to, and waits last as they should."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.bench.lab.clocks import SteeredClocks
from pgbastion.bench.lab.errors import CannotRun

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]

HOUR_S = 3600
NS_PER_S = 1_000_000_000
# Whoever asks and whoever answers read their clocks one after the other.
CLOSE_S = 10
TELLS = """
import sys, time
for line in sys.stdin:
    print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)
"""
WAITS = """
import threading, time
event, lock = threading.Event(), threading.Lock()
lock.acquire()
for wait in (event.wait, lambda s: lock.acquire(timeout=s), time.sleep):
    before = time.monotonic()
    wait(0.1)
    print(time.monotonic() - before)
"""


@pytest.fixture
def clocks(tmp_path: Path) -> SteeredClocks:
    try:
        return SteeredClocks(tmp_path, "n1")
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


class Told:
    """A program that tells its clocks when it is asked."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def off(self) -> tuple[float, float]:
        """Return how far its wall clock and its clock since boot are off, seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wall, boot = map(float, self._process.stdout.readline().split())
        return wall - time.time(), boot - time.clock_gettime(time.CLOCK_BOOTTIME)


@contextmanager
def running(clocks: SteeredClocks) -> Iterator[Told]:
    with subprocess.Popen(
        # Nothing of the environment says so: every program of the node is reached.
        [*clocks.command(), "env", "-i", sys.executable, "-c", TELLS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Told(process)


def close(seconds: float) -> object:
    return pytest.approx(seconds, abs=CLOSE_S)


def test_the_wall_clock_is_set_while_a_program_runs(clocks: SteeredClocks) -> None:
    with running(clocks) as program:
        assert program.off() == (close(0), close(0))
        clocks.set_wall(HOUR_S)
        assert program.off() == (close(HOUR_S), close(0))
        clocks.set_wall(-HOUR_S)
        assert program.off() == (close(-HOUR_S), close(0))


def test_all_clocks_stand_for_what_was_skipped(clocks: SteeredClocks) -> None:
    with running(clocks) as program:
        clocks.skip(HOUR_S * NS_PER_S)
        assert program.off() == (close(-HOUR_S), close(-HOUR_S))


def test_waits_last_as_long_as_before(clocks: SteeredClocks) -> None:
    # Since boot is not long ago on some machines: no clock is to be before that.
    clocks.skip(round(time.clock_gettime(time.CLOCK_BOOTTIME) / 2) * NS_PER_S)

    out = subprocess.run(
        [*clocks.command(), sys.executable, "-c", WAITS],
        capture_output=True,
        text=True,
        check=True,
        timeout=CLOSE_S,
    ).stdout

    assert [float(line) > 0.09 for line in out.split()] == [True] * 3
