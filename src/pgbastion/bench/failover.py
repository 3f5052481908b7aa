"""Measure the longest gap in writes under each fault, and print a table.

Each run hits a cluster of real nodes in network namespaces while four writers insert
through the surviving proxies. Gaps are between acknowledged writes; lost rows, writes
that two nodes acknowledged at one time and the time until the node was back are in the
table as well, since a short gap is worth nothing without them.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from pgbastion.bench.idle import measure_idle, print_idle
from pgbastion.bench.lab.checker import describe_full
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.faults import FAULTS, Fault, Outcome
from pgbastion.bench.lab.load import Load
from pgbastion.bench.lab.patroni import TIMINGS, PatroniLab
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.trial import Trial, run_trial

PATRONI: Final = (
    "Patroni 4.1.5 + etcd 3.4 + HAProxy 2.6, worst of three on two busy cores, "
    "2026-11-29; --with-patroni measures yours"
)
_PROFILES: Final = ("normal", "fast")
_WIDTH: Final = 200
_LEAD_S: Final = 2.0
_CONNECTIONS: Final = 100
"""What PostgreSQL has by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a fault may cost, and what the comparison cost; milliseconds.

    ``patroni_ms`` holds its defaults and its settings tuned to the least it allows;
    None: not measured.
    """

    fault: str
    goal_ms: dict[str, int]
    patroni_ms: tuple[int, int] | None
    with_witness: bool = False


FIGURES: Final = (
    Figure(
        fault="postmaster",
        goal_ms={"normal": 600, "fast": 600},
        patroni_ms=(7_840, 7_070),
    ),
    Figure(
        fault="frozen",
        goal_ms={"normal": 3_000, "fast": 1_500},
        patroni_ms=(34_450, 28_000),
    ),
    Figure(
        fault="daemon",
        goal_ms={"normal": 6_000, "fast": 2_800},
        patroni_ms=(28_890, 17_120),
    ),
    Figure(
        fault="cut",
        goal_ms={"normal": 6_000, "fast": 2_800},
        patroni_ms=(41_520, 25_830),
    ),
    Figure(
        fault="node",
        goal_ms={"normal": 6_000, "fast": 2_800},
        patroni_ms=(46_250, 26_700),
    ),
    Figure(
        fault="standby",
        goal_ms={"normal": 1_500, "fast": 1_000},
        patroni_ms=None,
        with_witness=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The runs of one fault in one profile; ``failed`` says why others ended early."""

    figure: Figure
    profile: str
    trials: tuple[Trial, ...]
    failed: tuple[str, ...]


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments ask for; exit code 1 if a promise was broken."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        if options.idle:
            print_idle(console, measure_idle(options.settle, options.measure))
            return
        series = list(_measure(options, console))
    except (CannotRun, LabError) as why:
        sys.exit(f"not run: {why}")
    if options.with_patroni:
        series += _measure_patroni(options, console)
    _print_table(console, series, options.runs)
    if any(_broken(each) for each in series if each.profile not in TIMINGS):
        sys.exit("a promise was broken: see the table")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench failover", description=__doc__)
    known = [figure.fault for figure in FIGURES]
    parser.add_argument("--faults", default=",".join(known), help=f"of {known}")
    parser.add_argument("--profiles", default=",".join(_PROFILES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=3, help="with PostgreSQL")
    parser.add_argument("--writers", type=int, help="instead of four")
    parser.add_argument("--sessions", type=int, default=0, help="that ask nothing")
    parser.add_argument("--shared-buffers", default="128MB", help="of each server")
    parser.add_argument("--version", default="newest", help="of PostgreSQL")
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/bench"))
    parser.add_argument(
        "--with-patroni",
        metavar="PROGRAM",
        help="run the same faults with this Patroni, and etcd and haproxy from PATH",
    )
    parser.add_argument("--idle", action="store_true", help="cost of an idle node")
    parser.add_argument("--settle", type=float, default=300.0, help="s, before --idle")
    parser.add_argument("--measure", type=float, default=60.0, help="s, for --idle")
    options = parser.parse_args(arguments)
    unknown = set(options.faults.split(",")) - set(known)
    if unknown:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    return options


def _measure(options: argparse.Namespace, console: Console) -> Iterator[Series]:
    wanted = options.faults.split(",")
    for profile in filter(None, options.profiles.split(",")):
        for with_witness in (False, True):
            figures = [
                figure
                for figure in FIGURES
                if figure.fault in wanted and figure.with_witness is with_witness
            ]
            if figures:
                plan = _plan(options, profile, with_witness=with_witness)
                yield from _measure_on(
                    lambda plan=plan: Lab(plan, options.keep_logs),  # type: ignore[misc]
                    figures,
                    options,
                    console,
                )


def _measure_patroni(options: argparse.Namespace, console: Console) -> list[Series]:
    """Run the faults that the comparison has; what cannot run is said."""
    figures = [
        figure
        for figure in FIGURES
        if figure.fault in options.faults.split(",") and figure.patroni_ms
    ]
    series: list[Series] = []
    for profile in TIMINGS:
        plan = Plan(profile=profile, version=options.version)
        try:
            series += _measure_on(
                lambda plan=plan: PatroniLab(  # type: ignore[misc]
                    plan, options.with_patroni, options.keep_logs
                ),
                figures,
                options,
                console,
            )
        except (CannotRun, LabError) as why:
            console.print(f"{profile}: not run: {why}", highlight=False)
    return series


def _plan(options: argparse.Namespace, profile: str, *, with_witness: bool) -> Plan:
    connections = _CONNECTIONS + options.sessions
    return Plan(
        profile=profile,
        version=options.version,
        postgres_nodes=2 if with_witness else options.nodes,
        witnesses=1 if with_witness else 0,
        parameters={
            "shared_buffers": options.shared_buffers,
            "max_connections": connections,
        },
    )


def _measure_on(
    build: Callable[[], Lab],
    figures: list[Figure],
    options: argparse.Namespace,
    console: Console,
) -> Iterator[Series]:
    """Run the faults in turn; a cluster that missed a bound is replaced."""
    waiting = deque(figure.fault for figure in figures for _ in range(options.runs))
    load = Load(writers=options.writers, idle_sessions=options.sessions, lead_s=_LEAD_S)
    profile = ""
    found: dict[str, list[Trial | str]] = {figure.fault: [] for figure in figures}
    while waiting:
        with build() as lab:
            profile = lab.plan.profile
            lab.start()
            for fault, result in _until_broken(lab, waiting, load):
                found[fault].append(result)
                console.print(
                    f"{fault} ({profile}): {result}", highlight=False, soft_wrap=True
                )
    for figure in figures:
        results = found[figure.fault]
        yield Series(
            figure=figure,
            profile=profile,
            trials=tuple(each for each in results if isinstance(each, Trial)),
            failed=tuple(each for each in results if isinstance(each, str)),
        )


def _until_broken(
    lab: Lab, waiting: deque[str], load: Load
) -> Iterator[tuple[str, Trial | str]]:
    """Run what waits, up to the first that leaves the cluster in no good state."""
    while waiting:
        fault = waiting.popleft()
        try:
            yield fault, run_trial(lab, _fault(lab, fault), load)
        except LabError as error:
            yield fault, f"{error}\nlogs: {lab.keep_logs()}"
            return


def _fault(lab: Lab, name: str) -> Fault:
    """Return the fault; Patroni may start a server again where we take over."""
    fault = FAULTS[name]
    if lab.plan.profile not in TIMINGS:
        return fault
    return replace(fault, outcome=Outcome.NEW_SERVER)


def _print_table(console: Console, series: list[Series], runs: int) -> None:
    table = Table(
        title=f"Longest gap between acknowledged writes, {runs} runs each",
        caption=f"* {PATRONI}",
    )
    for heading in ("fault", "profile"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "worst",
        "median",
        "goal",
        "lost rows",
        "two at once",
        "role changed",
        "full throughput, median / worst",
        "whole again",
        "failed",
        "Patroni* defaults / tuned",
    ):
        table.add_column(heading, justify="right")
    for each in series:
        table.add_row(*_row(each))
    console.print(table)
    for each in series:
        for why in each.failed:
            console.print(
                f"{each.figure.fault} ({each.profile}) failed: {why.splitlines()[0]}"
            )


def _row(series: Series) -> list[str]:
    figure, trials = series.figure, series.trials
    gaps = [trial.gap.ms for trial in trials]
    ours = series.profile in figure.goal_ms
    patroni = figure.patroni_ms if ours else None
    return [
        FAULTS[figure.fault].title + (" (2 + witness)" if figure.with_witness else ""),
        series.profile,
        _seconds(max(gaps)) if gaps else "-",
        _seconds(median(gaps)) if gaps else "-",
        _seconds(figure.goal_ms[series.profile]) if ours else "-",
        str(sum(trial.lost for trial in trials)),
        str(sum(len(trial.sampled.violations) for trial in trials)),
        f"{sum(trial.role_changed for trial in trials)} of {len(trials)}",
        describe_full([trial.full_ms for trial in trials]),
        _seconds(max(trial.rejoin_s for trial in trials) * 1000) if trials else "-",
        str(len(series.failed)),
        f"{_seconds(patroni[0])} / {_seconds(patroni[1])}" if patroni else "-",
    ]


def _broken(series: Series) -> bool:
    """Tell whether a row was lost, two nodes acknowledged, or a bound was missed."""
    return bool(series.failed) or any(
        trial.sampled.violations or not all(c.clean for c in trial.checks.values())
        for trial in series.trials
    )


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.2f} s"
