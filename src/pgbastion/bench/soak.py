"""Keep every processor busy for a long time, and see that no role changes.

Nothing is broken here: each failover is a false one. One cluster a profile, one after
the other, each with a writer's load and two busy processes a processor.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.checker import describe, longest_gap
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.settings import Plan
from pgbastion.clock import boottime_ns

BUSY_EACH: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What came of one profile."""

    profile: str
    minutes: float
    changes: int
    gap_ms: int
    acknowledged: int
    lost: str

    def __str__(self) -> str:
        """Return it in one line."""
        return (
            f"{self.profile}: {self.minutes:g} minutes, {self.changes} changes of the"
            f" primary, longest gap {self.gap_ms} ms, {self.acknowledged} acknowledged,"
            f" {self.lost or 'nothing lost'}"
        )


def _burn() -> None:
    while True:
        sum(range(100_000))


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes busy."""
    burning = [
        multiprocessing.Process(target=_burn, daemon=True) for _ in range(processes)
    ]
    for each in burning:
        each.start()
    try:
        yield
    finally:
        for each in burning:
            each.kill()
            each.join()


def run_soak(profile: str, minutes: float, keep_logs: Path) -> Soak:
    """Run one profile."""
    with Lab(Plan(profile=profile), keep_logs_in=keep_logs) as lab:
        lab.start()
        epoch, writers = lab.epoch(), lab.writers()
        cores = len(os.sched_getaffinity(0))
        with writers:
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            begun_ns = boottime_ns()
            with busy(BUSY_EACH * cores):
                time.sleep(minutes * 60)
            ended_ns = boottime_ns()
        lab.wait_steady()
        changes = lab.epoch() - epoch
        if changes:
            print(f"logs: {lab.keep_logs()}")
        return Soak(
            profile=profile,
            minutes=minutes,
            changes=changes,
            gap_ms=longest_gap(writers.acknowledged(), begun_ns, ended_ns).ms,
            acknowledged=len(writers.acknowledged()),
            lost=describe(lab.check(writers)),
        )


def main(arguments: Sequence[str]) -> None:
    """Run each profile; exit code 1 if a role changed or a row is missing."""
    parser = argparse.ArgumentParser(prog="bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for each profile")
    parser.add_argument("--profiles", default="fast,normal,wide")
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/soak"))
    options = parser.parse_args(arguments)
    found = []
    for profile in options.profiles.split(","):
        try:
            found.append(run_soak(profile, options.minutes, options.keep_logs))
        except CannotRun as why:
            sys.exit(f"not run: {why}")
        print(found[-1], flush=True)
    if any(each.changes or each.lost for each in found):
        sys.exit(1)
