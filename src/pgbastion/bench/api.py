"""How long checks take to be answered at a steady rate.

Either of a node that runs, or of a laboratory's in which the primary fails while one
node's proxy carries many sessions. Questions are spread evenly over time, and each is
timed from the instant at which it was due, so that a pause of the node counts for every
question that it delayed.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from pgbastion.bench._api_failover import Asked, run_failover
from pgbastion.bench._steady import Steady, Took
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.faults import FAULTS

PATHS: Final = ("/primary", "/health")
RATE: Final = 200.0
FOR_S: Final = 20.0


def figures(took: Took) -> dict[str, float]:
    """Return the median, the 99th percentile and the worst, in milliseconds."""
    cuts = statistics.quantiles(took.ms, n=100)
    return {
        "requests": len(took.ms),
        "unanswered": took.unanswered,
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(max(took.ms), 2),
    }


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments ask for; print a line of JSON for each path."""
    options = _parse(arguments)
    if options.url is None:
        _failover(options)
        return
    steady = Steady(options.url, anew=options.anew)
    try:
        found = uvloop.run(steady.measure(PATHS, options.rate, options.seconds))
    except OSError as failure:
        sys.exit(f"{options.url} does not answer: {failure!r}")
    for path, took in found.items():
        print(json.dumps({"path": path, "rate": options.rate, **figures(took)}))


def _failover(options: argparse.Namespace) -> None:
    asked = Asked(
        fault=options.fault,
        node=options.node,
        sessions=options.sessions,
        rate=options.rate,
        for_s=options.seconds,
        anew=options.anew,
    )
    try:
        for line in run_failover(asked, options.keep_logs):
            print(json.dumps(line), flush=True)
    except (CannotRun, LabError) as why:
        sys.exit(f"not run: {why}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench api", description=__doc__)
    parser.add_argument(
        "url", nargs="?", help="a node's API; without: a failover in a laboratory"
    )
    parser.add_argument("rate", nargs="?", type=float, default=RATE, help="a second")
    parser.add_argument("seconds", nargs="?", type=float, default=FOR_S)
    parser.add_argument(
        "--anew", action="store_true", help="a connection for each question"
    )
    parser.add_argument("--fault", default="postmaster", choices=sorted(FAULTS))
    parser.add_argument(
        "--node",
        default="standby",
        choices=("old", "standby"),
        help="whose checks are asked, and whose proxy carries the sessions",
    )
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/api"))
    return parser.parse_args(arguments)
