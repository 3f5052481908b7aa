"""Kill every process of every node at once, again and again, and look for lost rows.

Writers go on all the time. After each kill all nodes are started again, and the next
kill comes at a random moment after the first write that was accepted since. At the end
every acknowledged row has to be on every server, also of a run that was cut short.
"""

import argparse
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from types import FrameType
from typing import Final

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.checker import ServerCheck, describe
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.workload import Writers
from pgbastion.clock import boottime_ns

WRITES_AGAIN_S: Final = 180.0
CALM_S: Final = 1.0
TOLD_EVERY: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a run."""

    seed: int
    wanted: int
    acknowledged: int
    checks: Mapping[str, ServerCheck]
    """What each server has of the rows; empty: they could not be compared."""
    again_s: tuple[float, ...]
    """From each start of all nodes to the first write that was accepted."""
    trouble: tuple[str, ...] = ()
    """Bounds that the cluster missed."""

    @property
    def passed(self) -> bool:
        """Whether it came back each time, and every server has every row once."""
        clean = all(check.clean for check in self.checks.values())
        return bool(self.checks and self.again_s) and clean and not self.trouble

    def __str__(self) -> str:
        """Return it in a few lines, the verdict last."""
        times = f"{len(self.again_s)} of {self.wanted} times"
        lines = [
            f"{times} all nodes were killed and took writes again (seed {self.seed})"
        ]
        if self.again_s:
            lines.append(
                f"writes again after {median(self.again_s):.1f} s at the median,"
                f" {max(self.again_s):.1f} s at the most"
            )
        lines.append(
            f"{self.acknowledged} rows acknowledged, compared on"
            f" {', '.join(self.checks) or 'no server'}"
        )
        lines += [*self.trouble, *filter(None, [describe(self.checks)])]
        lines.append(f"verdict: {'nothing lost' if self.passed else 'FAILED'}")
        return "\n".join(lines)


class EndOfRun:
    """Ends a run cleanly at the first signal, and at the second at once."""

    def __init__(self) -> None:
        self.ended = False

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        if self.ended:
            sys.exit(f"ended by signal {number}: rows not compared")
        self.ended = True


def kill_all(lab: Lab) -> None:
    """Kill every process of every node in one sweep, then whatever is left."""
    for process in [each for node in lab.nodes.values() for each in node.processes()]:
        processes.send(process, signal.SIGKILL)
    for node in lab.nodes.values():
        node.kill()


def run_restarts(
    lab: Lab, *, times: int, minutes: float, seed: int, ended: Callable[[], bool]
) -> Finding:
    """Kill the cluster so often, or for so long; look at every row at the end.

    Once ``ended`` says so, it ends with the restart that goes on.
    """
    random, again_s = Random(seed), list[float]()  # noqa: S311 - the seed repeats it
    trouble: list[str] = []
    checks: dict[str, ServerCheck] = {}
    ends_s = time.monotonic() + minutes * 60
    lab.wait_steady()
    with lab.writers() as writers:
        try:
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            while len(again_s) < times and not ended():
                time.sleep(random.uniform(0, CALM_S))
                again_s.append(_restart(lab, writers))
                if len(again_s) % TOLD_EVERY == 0:
                    print(f"{len(again_s)} of {times}", flush=True)
                if time.monotonic() > ends_s:
                    break
            lab.wait_steady(waits.REJOINED_S + waits.STEADY_S)
        except LabError as why:
            trouble.append(str(why))
    try:
        checks = lab.check(writers)
    except LabError as why:
        trouble.append(f"rows not compared: {why}")
    return Finding(
        seed=seed,
        wanted=times,
        acknowledged=len(writers.acknowledged()),
        checks=checks,
        again_s=tuple(again_s),
        trouble=tuple(trouble),
    )


def _restart(lab: Lab, writers: Writers) -> float:
    """Kill everything, start it, and return after how long writes were accepted."""
    kill_all(lab)
    began_s, began_ns = time.monotonic(), boottime_ns()
    for node in lab.nodes.values():
        node.start()
    writers.wait_for_write(began_ns, WRITES_AGAIN_S)
    return time.monotonic() - began_s


def main(arguments: Sequence[str]) -> None:
    """Run as often as the arguments say; exit code 1 if a row is missing."""
    parser = argparse.ArgumentParser(prog="bench restarts", description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=120.0, help="at most")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--profile", default="normal")
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/restarts"))
    options = parser.parse_args(arguments)
    told = EndOfRun()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told.take)
    try:
        with Lab(Plan(profile=options.profile), keep_logs_in=options.keep_logs) as lab:
            lab.start()
            finding = run_restarts(
                lab,
                times=options.times,
                minutes=options.minutes,
                seed=options.seed,
                ended=lambda: told.ended,
            )
            if not finding.passed:
                print(f"logs: {lab.keep_logs()}")
    except (CannotRun, LabError) as why:
        sys.exit(f"not run: {why}")
    print(finding)
    if not finding.passed:
        sys.exit(1)
