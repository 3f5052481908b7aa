"""``python -m pgbastion.testing.sim``: many seeds, or one of them with its trace."""

import argparse
import sys

from pgbastion.testing.sim.campaign import Campaign, run_campaign
from pgbastion.testing.sim.runs import run_seed, shape_of
from pgbastion.testing.sim.scripts import SCRIPTS, run_script
from pgbastion.testing.sim.world import Violation


def main() -> int:
    """Parse the arguments, run, print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pgbastion.testing.sim")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: all cores")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    parser.add_argument("--script", choices=SCRIPTS, help="play this script alone")
    parser.add_argument(
        "--tries", type=int, default=1, help="seeds for the script, up to a violation"
    )
    options = parser.parse_args()
    if options.script is not None:
        return _play(options.script, options.tries, trace=options.trace)
    if options.seed is not None:
        return _run_one(options.seed, trace=options.trace)
    campaign = run_campaign(options.first, options.seeds, jobs=options.jobs)
    _print(campaign)
    return 1 if any(campaign.failures()) else 0


def _run_one(seed: int, *, trace: bool) -> int:
    say = sys.stdout.write
    say(f"seed {seed}: {shape_of(seed)}\n")
    try:
        tally = run_seed(seed, _line if trace else None)
    except Violation as violation:
        say(f"seed {seed}: {violation}\n")
        return 1
    say(f"seed {seed}: {tally.failovers} failovers, {tally.commits} commits, ")
    say(f"faults: {dict(tally.faults)}\n")
    return 0


def _play(name: str, tries: int, *, trace: bool) -> int:
    """Play a script with one seed after the other, as chance decides in between."""
    for seed in (None, *range(2, tries + 1)):
        try:
            run_script(name, seed=seed, trace=_line if trace else None)
        except Violation as violation:
            _line(f"{name}: {violation}")
            return 1
        except AssertionError as missed:
            # What a script waits for may not come with a seed that nobody chose.
            if seed is None:
                raise
            _line(f"{name}, seed {seed}: {missed}")
    _line(f"{name}: no promise is broken")
    return 0


def _line(line: str) -> None:
    sys.stdout.write(line + "\n")


def _print(campaign: Campaign) -> None:
    for line in (*campaign.counts(), *campaign.failures()):
        _line(line)


if __name__ == "__main__":
    sys.exit(main())
