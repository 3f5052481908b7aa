"""Many seeds on all cores, and whether they reached what a run has to reach."""

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pgbastion.control.transitions import TRANSITIONS, Duty, Found
from pgbastion.model.reasons import Reason
from pgbastion.testing.sim.runs import run_seed
from pgbastion.testing.sim.world import Tally, Violation

FAILOVERS_LEAST: Final = 500
SEEDS_FOR_COUNTS: Final = 1_000
"""A shorter campaign need not reach everything."""
CHUNK: Final = 5

NO_ORDERS: Final = "nobody orders a change of the primary yet"
UNREACHED_REASONS: Final[dict[Reason, str]] = {
    Reason.PAUSED: "nothing pauses a cluster yet",
    Reason.PAUSE_MAY_LAST_THERE: "nothing pauses a cluster yet",
    Reason.SAYING_RUNNING: "nothing pauses a cluster yet",
    Reason.ORDER_EXPIRED: NO_ORDERS,
    Reason.TARGET_NOT_AS_FAR: NO_ORDERS,
    Reason.VOUCHED_FOR: NO_ORDERS,
    Reason.FORCED: NO_ORDERS,
    Reason.HANDOVER_WAITS: NO_ORDERS,
    Reason.PREPARING_HANDOVER: NO_ORDERS,
    Reason.HOLDING_CLIENTS: NO_ORDERS,
    Reason.HANDING_OVER: NO_ORDERS,
    Reason.HANDOVER_FAILED: NO_ORDERS,
    Reason.HANDED_OVER: NO_ORDERS,
    Reason.FOREIGN_DATA: "the model's directories are the cluster's own",
    Reason.TAKING_OVER: "the model's directories are the cluster's own",
    Reason.TAKING_UP: "the model's servers are all started by the guard",
}
"""Reasons that no simulated run reaches, and why."""

UNREACHED_TRANSITIONS: Final[dict[str, str]] = {
    f"{duty} <- {found}": "the model has no PostgreSQL that somebody else made"
    for duty in Duty
    for found in (Found.UNMARKED, Found.TAKEN_OVER)
}
"""Rows of the table that no simulated run reaches, and why."""


@dataclass(slots=True)
class Campaign:
    """What came of a number of seeds."""

    seeds: int
    tally: Tally = field(default_factory=Tally)
    violations: list[tuple[int, str]] = field(default_factory=list)

    def counts(self) -> Iterator[str]:
        """Yield what was reached, a line each."""
        tally = self.tally
        yield (
            f"{self.seeds} seeds, {tally.events} events, {tally.failovers} failovers, "
            f"{tally.commits} acknowledged commits"
        )
        for title, counted in (
            ("faults", tally.faults),
            ("reasons", tally.reasons),
            ("transitions", tally.transitions),
        ):
            listed = ", ".join(f"{name} {n}" for name, n in sorted(counted.items()))
            yield f"{title}: {listed}"

    def failures(self) -> Iterator[str]:
        """Yield what must not be: broken promises, and what was not reached."""
        for seed, violation in sorted(self.violations):
            yield (
                f"seed {seed}: {violation}\n"
                f"    repeat: python -m pgbastion.testing.sim --seed {seed} --trace"
            )
        if self.seeds < SEEDS_FOR_COUNTS:
            return
        if self.tally.failovers < FAILOVERS_LEAST:
            yield f"only {self.tally.failovers} failovers, not {FAILOVERS_LEAST}"
        for reason in Reason:
            if reason not in UNREACHED_REASONS and not self.tally.reasons[reason]:
                yield f"the reason {reason} was never reached"
        for duty, found in TRANSITIONS:
            row = f"{duty} <- {found}"
            if row not in UNREACHED_TRANSITIONS and not self.tally.transitions[row]:
                yield f"the transition {row} was never reached"


def run_campaign(first: int, seeds: int, *, jobs: int = 0) -> Campaign:
    """Run ``seeds`` seeds from ``first`` on, on ``jobs`` cores (0: all)."""
    campaign = Campaign(seeds)
    jobs = jobs or len(os.sched_getaffinity(0))
    chunks = [
        range(start, min(start + CHUNK, first + seeds))
        for start in range(first, first + seeds, CHUNK)
    ]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for tally, violations in pool.imap_unordered(_run_chunk, chunks):
            campaign.tally.add(tally)
            campaign.violations += violations
    return campaign


def _run_chunk(seeds: range) -> tuple[Tally, list[tuple[int, str]]]:
    tally, violations = Tally(), []
    for seed in seeds:
        try:
            tally.add(run_seed(seed))
        except Violation as violation:
            violations.append((seed, str(violation)))
    return tally, violations
