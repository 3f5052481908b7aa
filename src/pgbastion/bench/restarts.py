"""Kill every process of every node at once, again and again, and look for lost rows.

Writers go on all the time. After each kill all nodes are started again, and the next
kill comes at a random moment after the first write that was accepted since.
"""

import argparse
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.checker import describe
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.settings import Plan
from pgbastion.clock import boottime_ns

WRITES_AGAIN_S: Final = 180.0
CALM_S: Final = 1.0
TOLD_EVERY: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a run."""

    seed: int
    times: int
    acknowledged: int
    lost: str
    again_s: tuple[float, ...]
    """From each start of all nodes to the first write that was accepted."""

    def __str__(self) -> str:
        """Return it in one line."""
        return (
            f"{self.times} times all nodes killed at once (seed {self.seed}):"
            f" {self.acknowledged} acknowledged, {self.lost or 'nothing lost'};"
            f" writes again after {median(self.again_s):.1f} s at the median,"
            f" {max(self.again_s):.1f} s at the most"
        )


def kill_all(lab: Lab) -> None:
    """Kill every process of every node in one sweep, then whatever is left."""
    for process in [each for node in lab.nodes.values() for each in node.processes()]:
        processes.send(process, signal.SIGKILL)
    for node in lab.nodes.values():
        node.kill()


def run_restarts(lab: Lab, *, times: int, minutes: float, seed: int) -> Finding:
    """Kill the cluster so often, or for so long; look at every row at the end.

    Raises:
        LabError: It took no writes again in time.
    """
    random, again_s = Random(seed), []  # noqa: S311 - the seed repeats it
    ends_s = time.monotonic() + minutes * 60
    lab.wait_steady()
    with lab.writers() as writers:
        writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        for turn in range(1, times + 1):
            time.sleep(random.uniform(0, CALM_S))
            kill_all(lab)
            began_s, began_ns = time.monotonic(), boottime_ns()
            for node in lab.nodes.values():
                node.start()
            writers.wait_for_write(began_ns, WRITES_AGAIN_S)
            again_s.append(time.monotonic() - began_s)
            if turn % TOLD_EVERY == 0:
                print(f"{turn} of {times}", flush=True)
            if time.monotonic() > ends_s:
                break
        lab.wait_steady(waits.REJOINED_S + waits.STEADY_S)
    return Finding(
        seed=seed,
        times=len(again_s),
        acknowledged=len(writers.acknowledged()),
        lost=describe(lab.check(writers)),
        again_s=tuple(again_s),
    )


def main(arguments: Sequence[str]) -> None:
    """Run as often as the arguments say; exit code 1 if a row is missing."""
    parser = argparse.ArgumentParser(prog="bench restarts", description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=120.0, help="at most")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--profile", default="normal")
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/restarts"))
    options = parser.parse_args(arguments)
    try:
        with Lab(Plan(profile=options.profile), keep_logs_in=options.keep_logs) as lab:
            lab.start()
            finding = run_restarts(
                lab, times=options.times, minutes=options.minutes, seed=options.seed
            )
            if finding.lost:
                print(f"logs: {lab.keep_logs()}")
    except (CannotRun, LabError) as why:
        sys.exit(f"not run to its end: {why}")
    print(finding)
    if finding.lost:
        sys.exit(1)
