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
ADDRESSINGS_LEAST: Final = 1_000
SEEDS_FOR_COUNTS: Final = 400
"""A shorter campaign need not reach everything."""
CHUNK: Final = 5

TAKE_OVER: Final = "every modelled cluster begins with an empty directory"
DEFENCE: Final = "a second line: the first one has to fail for it"
BEFORE: Final = "nothing runs before the first epoch unless somebody else started it"
KEPT: Final = "modelled directories are the cluster's own and do not vanish"
MEMBERS: Final = "nobody leaves a modelled cluster"
RARE_FENCE: Final = "rare: a holder is fenced by force while it is no primary"

UNREACHED_REASONS: Final[dict[Reason, str]] = {
    Reason.PAUSE_MAY_LAST_THERE: "rare: a holder is cut off just when a pause ends",
    Reason.ORDER_EXPIRED: "an order may begin for longer than a run lasts",
    Reason.FORCED: "rare: who is forced lacks commits, and answers",
    Reason.HANDOVER_WAITS: "rare: a target is lost while its order waits for it",
    Reason.HANDOVER_FAILED: "rare: a target is lost between the word and the stop",
    Reason.TARGET_NOT_AS_FAR: "rare: in async, a target is lost after the stop",
    Reason.CATCHING_UP: "rare: the script furthest_is_barred has it",
    Reason.STOPPED_BY_OPERATOR: "a modelled daemon is killed, not told to stop",
    Reason.REMOVING_MEMBER: MEMBERS,
    Reason.LEAVING_LEADERSHIP: MEMBERS,
    Reason.REMOVAL_WAITS: MEMBERS,
    Reason.TAKING_OVER: TAKE_OVER,
    Reason.TAKING_UP: TAKE_OVER,
    Reason.DATA_DIRECTORY_MISSING: KEPT,
    Reason.UNABLE: "no modelled machine lacks anything",
    Reason.LAG_TOO_LARGE: "the modelled clients write less than the limit",
    Reason.ARMING: "arming and promoting are one decision, which says promoting",
    Reason.EARLIER_EPOCH_RUNS: DEFENCE,
    Reason.WRONG_TIMELINE: DEFENCE,
    **dict.fromkeys(
        (
            Reason.POSTMASTER_HUNG,
            Reason.BACKENDS_HUNG,
            Reason.DISK_HUNG,
            Reason.DISK_FAILED,
            Reason.DISK_FULL,
        ),
        "a model that hangs does not tell what of it: checked with a real server",
    ),
    Reason.DIVERGED: "rare: checked by tests with a real server",
}
"""Reasons that a run need not reach, and why."""

UNREACHED_TRANSITIONS: Final[dict[str, str]] = {
    **{f"{duty} <- {Found.UNMARKED}": TAKE_OVER for duty in Duty},
    **{f"{duty} <- {Found.TAKEN_OVER}": TAKE_OVER for duty in Duty},
    **{
        f"{duty} <- {found}": BEFORE
        for duty in (Duty.FOUND, Duty.AWAIT)
        for found in Found
        if found is not Found.EMPTY
    },
    **{
        f"{Duty.FENCED} <- {found}": RARE_FENCE
        for found in Found
        if found not in (Found.PRIMARY, Found.STOPPED)
    },
    "hold <- empty": KEPT,
    "give_up <- empty": KEPT,
    "follow <- unusable": KEPT,
    "give_up <- standby": "rare: the script gives_up_as_a_standby has it",
    "give_up <- starting": "rare: gives_up_while_its_server_starts has it",
}
"""Rows of the table that a run need not reach, and why."""


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
            f"{tally.commits} acknowledged commits, "
            f"{tally.addressings} times an address for replicas came to a node"
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
        if self.tally.addressings < ADDRESSINGS_LEAST:
            yield f"addresses came to nodes {self.tally.addressings} times only"
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
