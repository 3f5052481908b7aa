"""Measure for how long writes stop in a switchover, and where the time goes.

Eight writers insert through the proxies of three nodes in network namespaces, and
newcomers open sessions all the time, while the role is moved to the best standby again
and again. The gap is the longest time without an acknowledged write. The steps are
read from the nodes' logs: they share one clock.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.checker import (
    describe_full,
    full_throughput_ms,
    longest_gap,
)
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.ordering import Newcomers, give, wait_settled
from pgbastion.bench.lab.settings import Plan
from pgbastion.clock import NS_PER_MS, boottime_ns

WRITERS: Final = 8
MEDIAN_GOAL_MS: Final = 300
P95_GOAL_MS: Final = 500
LEADERSHIP_S: Final = 10.0
LEAD_S: Final = 1.0
"""Load before the order and after the first write, so that no end hides a gap.

Throughput is compared over a second.
"""
AROUND_MS: Final = 150
NS_PER_S: Final = 1_000_000_000
_WIDTH: Final = 200


def _is_command(kind: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda line: line["event"] == "applied" and line.get("command") == kind


def _is_event(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda line: line["event"] == name


STEPS: Final[Mapping[str, Callable[[Mapping[str, Any]], bool]]] = {
    "ordered": _is_command("order"),
    "begun: new clients wait": _is_command("begin_order"),
    "stop begins": _is_event("stopping"),
    "stopped": _is_event("stopped"),
    "released": _is_command("release"),
    "revoked": _is_command("revoke"),
    "first answer to the survey": _is_event("surveyed"),
    "assigned": _is_command("assign"),
    "promotion asked": _is_event("promotion_asked"),
    "promoted": _is_event("primary_seen"),
    "opened": _is_command("opened"),
}
"""The steps of a switchover in order, and the first line of a log that shows each."""
FIRST_COMMIT: Final = "first commit"
LAST_COMMIT: Final = "last commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of one switchover; milliseconds."""

    to: str
    outcome: str
    gap_ms: int
    full_ms: int | None
    """From the gap's begin until writes are as many as before; None: not seen."""
    lost: int
    refused: tuple[str, ...]
    served: int
    moved: bool
    """Raft leadership is with the new primary."""
    back_s: float
    """Until the old primary streamed as a standby."""
    rewound: tuple[str, ...]
    """Nodes that had to be rewound or copied: nobody has to."""
    steps: Mapping[str, float] = field(default_factory=dict)
    """Since the last acknowledged write before the gap."""
    log: Sequence[str] = ()
    """What the nodes logged from before the gap until after it, with those times."""

    def __str__(self) -> str:
        """Return it in one line."""
        return (
            f"{self.outcome} to {self.to}: gap {self.gap_ms} ms, full"
            f" throughput after {self.full_ms} ms, {self.lost} lost,"
            f" {len(self.refused)} of {self.served + len(self.refused)} refused,"
            f" old primary back after {self.back_s:.1f} s"
            + "".join(f", {name} was rewound" for name in self.rewound)
        )


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments ask for; exit code 1 if a promise was broken."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    plan = Plan(profile=options.profile, version=options.version, mode=options.mode)
    runs: list[Run] = []
    try:
        with Lab(plan, options.keep_logs) as lab:
            lab.start()
            for run in _measure(lab, options.runs, options.writers):
                runs.append(run)
                console.print(f"{len(runs)}: {run}", highlight=False, soft_wrap=True)
                if broken(run):
                    console.print(f"logs: {lab.keep_logs()}", highlight=False)
    except (CannotRun, LabError) as why:
        if not runs:
            sys.exit(f"not run: {why}")
        console.print(f"ended early: {why}", highlight=False, soft_wrap=True)
    _print_tables(console, runs, options.writers)
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    cores = len(os.sched_getaffinity(0))
    console.print(f"load of this machine over 1, 5, 15 min: {busy}; {cores} cores")
    if options.timeline and runs:
        for line in runs[-1].log:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if len(runs) < options.runs or any(broken(run) for run in runs):
        sys.exit("a promise was broken: see above")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench switchover", description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--profile", default="normal")
    parser.add_argument("--mode", default="quorum", help="async, sync or quorum")
    parser.add_argument("--version", default="newest", help="of PostgreSQL")
    parser.add_argument(
        "--timeline", action="store_true", help="print the last run's log around it"
    )
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/bench"))
    return parser.parse_args(arguments)


def broken(run: Run) -> bool:
    """Tell whether a row was lost, somebody refused, or the role did not move."""
    return bool(run.lost or run.refused or run.outcome != "done" or run.rewound)


def _measure(lab: Lab, runs: int, writers: int) -> Iterator[Run]:
    for _ in range(runs):
        lab.wait_steady()
        yield _run(lab, writers)


def _run(lab: Lab, count: int) -> Run:
    """Move the role once, under load, and check every row afterwards."""
    old = lab.primary()
    read = {node.name: _size(node.log) for node in lab.servers()}
    with lab.writers(count=count) as writers, Newcomers(lab) as newcomers:
        writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        time.sleep(LEAD_S)
        since_ns = boottime_ns()
        asked = next(node.name for node in lab.nodes.values())
        given = give(lab, asked, "/cluster/switchover", {})
        if not given.get("ok"):
            raise LabError(f"the switchover was not taken: {given}")
        order = wait_settled(lab, str(given["id"]))
        settled_ns = boottime_ns()
        writers.wait_for_write(settled_ns, waits.WRITES_AGAIN_S[lab.plan.profile])
        time.sleep(LEAD_S)
        until_ns = boottime_ns()
        lab.wait_standby(old)
        back_ns = boottime_ns()
        lab.wait_steady()
        moved = _leadership_follows(lab)
        ended_ns = boottime_ns()
    gap = longest_gap(writers.acknowledged(), since_ns, until_ns)
    checks = lab.check(writers)
    lines = list(_lines(lab, read))
    return Run(
        to=str(order["to"]),
        outcome=str(order["outcome"]),
        gap_ms=gap.ms,
        full_ms=full_throughput_ms(writers.acknowledged(), since_ns, ended_ns),
        lost=len({row for check in checks.values() for row in check.lost}),
        refused=tuple(newcomers.refused),
        served=newcomers.served,
        moved=moved,
        back_s=(back_ns - settled_ns) / NS_PER_S,
        rewound=tuple(str(line["on"]) for line in lines if _is_rewind(line)),
        steps=_steps(lines, gap.start_ns, gap.end_ns),
        log=tuple(_around(lines, gap.start_ns, gap.ms)),
    )


def _leadership_follows(lab: Lab) -> bool:
    """Wait for Raft leadership to come to the primary, which it does a moment later."""

    def follows() -> bool:
        answer = next(iter(lab.nodes.values())).get("/health")
        return answer is not None and answer.get("leader") == lab.primary()

    try:
        return waits.wait_for("leadership at the primary", follows, LEADERSHIP_S)
    except LabError:
        return False


def _is_rewind(line: Mapping[str, Any]) -> bool:
    return line["event"] == "job_started" and line.get("job") in ("rewind", "copy")


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _lines(lab: Lab, read: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield what the nodes logged since, the oldest first."""
    found: list[dict[str, Any]] = []
    for node in lab.servers():
        with node.log.open("rb") as log:
            log.seek(read[node.name])
            texts = log.read().decode(errors="replace").splitlines()
        found += [
            {"on": node.name, **json.loads(text)}
            for text in texts
            if text.startswith("{")
        ]
    yield from sorted(found, key=lambda line: str(line.get("time", "")))


def _steps(
    lines: Sequence[Mapping[str, Any]], last_ns: int, first_ns: int
) -> dict[str, float]:
    """Return when each step was first seen, in ms since the last write before it."""
    steps = {}
    for name, shows in STEPS.items():
        line = next((line for line in lines if shows(line)), None)
        if line is not None:
            steps[name] = _since_ms(line, last_ns)
    return {**steps, LAST_COMMIT: 0.0, FIRST_COMMIT: (first_ns - last_ns) / NS_PER_MS}


def _since_ms(line: Mapping[str, Any], last_ns: int) -> float:
    # Logs have the wall clock's time, writers the one since boot.
    offset_ns = time.time_ns() - boottime_ns()
    at = datetime.fromisoformat(str(line["time"]))
    return at.timestamp() * 1_000 - (last_ns + offset_ns) / NS_PER_MS


def _around(
    lines: Sequence[Mapping[str, Any]], last_ns: int, gap_ms: int
) -> Iterator[str]:
    """Yield the log from a moment before the gap to a moment after it."""
    for line in lines:
        since_ms = _since_ms(line, last_ns)
        if -AROUND_MS <= since_ms <= gap_ms + AROUND_MS:
            known = ("on", "time", "level", "part", "event")
            rest = " ".join(f"{k}={v}" for k, v in line.items() if k not in known)
            yield f"{since_ms:7.0f} {line['on']} {line['event']} {rest}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * share) - 1, 0)]


def _print_tables(console: Console, runs: Sequence[Run], writers: int) -> None:
    if not runs:
        return
    gaps = [run.gap_ms for run in runs]
    table = Table(title=f"{len(runs)} switchovers under {writers} writers")
    for heading in (
        "median", "95th percentile", "worst", "goal", "full throughput, median / worst",
        "lost rows", "refused", "leadership moved", "rewinds",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    table.add_row(
        f"{median(gaps):.0f} ms",
        f"{percentile(gaps, 0.95):.0f} ms",
        f"{max(gaps)} ms",
        f"{MEDIAN_GOAL_MS} / {P95_GOAL_MS} ms",
        describe_full([run.full_ms for run in runs]),
        str(sum(run.lost for run in runs)),
        f"{sum(len(run.refused) for run in runs)} of "
        f"{sum(run.served + len(run.refused) for run in runs)}",
        f"{sum(run.moved for run in runs)} of {len(runs)}",
        str(sum(len(run.rewound) for run in runs)),
    )
    console.print(table)
    _print_steps(console, runs)
    for why in sorted({refusal for run in runs for refusal in run.refused}):
        console.print(f"refused: {why}", highlight=False)


def _print_steps(console: Console, runs: Sequence[Run]) -> None:
    table = Table(title="When each step was first seen: ms since the last commit")
    for heading in ("step", "median", "95th percentile", "worst"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    names = {name for run in runs for name in run.steps}
    at = {n: [run.steps[n] for run in runs if n in run.steps] for n in names}
    for name in sorted(names, key=lambda each: median(at[each])):
        table.add_row(
            name,
            f"{median(at[name]):.0f}",
            f"{percentile(at[name], 0.95):.0f}",
            f"{max(at[name]):.0f}",
        )
    console.print(table)
