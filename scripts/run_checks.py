"""Run the project's checks, layer by layer, and say at the end what ran and what not.

A layer that cannot run here is reported as not run, with its reason; never as passed.
Every layer has a deadline. A process that a layer leaves behind is named, ended, and
counts as a failure. An interrupt ends the layer that runs and cleans up the same way.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from checks.layers import PLANS, Layer, layers_of
from checks.leftovers import Leftovers
from checks.outcome import Outcome, Totals
from checks.processes import run_layer

ROOT = Path(__file__).resolve().parent.parent


class Interrupted(BaseException):
    """Somebody wants us to end."""


def main() -> int:
    """Run the plan named on the command line; return the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", choices=sorted(PLANS))
    plan = parser.parse_args().plan
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    os.chdir(ROOT)
    shutil.rmtree(ROOT / "test-results", ignore_errors=True)
    (ROOT / "test-results").mkdir()
    outcomes: list[Outcome] = []
    interrupted = False
    with _scratch() as scratch:
        try:
            outcomes.extend(_run(layer, scratch) for layer in layers_of(plan))
        except Interrupted:
            interrupted = True
            for line in Leftovers(scratch).remove():
                print(f"removed after the interrupt: {line}")
    return _summary(outcomes, interrupted=interrupted)


def _run(layer: Layer, scratch: Path) -> Outcome:
    print(f"\n=== {layer.name}", flush=True)
    reason = layer.cannot_run()
    if reason is not None:
        print(f"not run: {reason}")
        return Outcome(name=layer.name, not_run=reason)
    started = time.monotonic()
    outcome = run_layer(layer, scratch)
    again = layer.again()
    if again is not None and outcome.may_be_unsteady():
        print(f"\n=== {again.name}", flush=True)
        outcome = outcome.looked_at_again(run_layer(again, scratch))
    for line in Leftovers(scratch).remove():
        print(f"left behind: {line}")
        outcome = outcome.with_failure(f"left behind: {line}")
    return outcome.lasting(time.monotonic() - started)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Give a directory for everything that the checks write; remove it at the end.

    It is short, for sockets, and others may pass it, for PostgreSQL's user.
    """
    path = Path(tempfile.mkdtemp(prefix="pgb-run-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _summary(outcomes: list[Outcome], *, interrupted: bool) -> int:
    print("\n=== summary")
    for outcome in outcomes:
        print(outcome.line())
    for outcome in outcomes:
        for detail in outcome.details:
            print(f"  {outcome.name}: {detail}")
    totals = Totals.of(outcomes)
    if interrupted:
        print("interrupted: the layers that are not listed did not run")
    print(totals.line(), flush=True)
    if interrupted:
        return 130
    return 1 if totals.failed else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main())
