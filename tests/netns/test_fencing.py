"""A primary that is cut off is switched off by the operator's program: nobody waits."""

import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.bench.lab.checker import describe
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.faults import Fault
from pgbastion.bench.lab.injections import cut_from_nodes
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.trial import run_trial
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

# As a power switch does it: everything of the node at once, until nothing is left.
SCRIPT = """#!/bin/sh
set -eu
test "$1" = off
echo "$2 $3 $PGBASTION_CLUSTER $PGBASTION_EPOCH" >> {asked}
turns=0
while pids=$(ip netns pids "{prefix}$2") && test -n "$pids"; do
    kill -9 $pids || true
    turns=$((turns + 1))
    test "$turns" -lt 200
    sleep 0.02
done
"""


@contextmanager
def cut_from_nodes_and_back(lab: Lab, name: str) -> Iterator[None]:
    """Cut the node off; in the end it is healed, and switched on again."""
    with cut_from_nodes(lab, name):
        yield
    lab.node(name).start()


def test_a_primary_that_is_switched_off_is_replaced_without_a_wait(
    tmp_path: Path,
) -> None:
    program, asked = tmp_path / "fence", tmp_path / "asked"
    plan = Plan(sections={"failover": {"fence_command": str(program)}})
    fault = Fault(
        name="cut and fenced",
        title="cut off, and switched off by the fencing program",
        inject=cut_from_nodes_and_back,
        cuts=True,
    )
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            prefix = lab.network.command("n1")[-1].removesuffix("n1")
            program.write_text(SCRIPT.format(asked=asked, prefix=prefix))
            program.chmod(stat.S_IRWXU)
            lab.start()
            trial = run_trial(lab, fault)
            sys.stdout.write(f"{trial}\n")
            answer = lab.node(trial.new_primary).get("/cluster/history")
    except CannotRun as why:
        pytest.skip(f"not run: {why}")

    assert describe(trial.checks) == ""
    assert [str(each) for each in trial.sampled.violations] == []
    assert trial.new_primary != trial.old_primary
    address = lab.network.addresses[trial.old_primary]
    assert asked.read_text() == f"{trial.old_primary} {address} lab {trial.epochs[0]}\n"
    former, newest = answer["changes"][-2:]
    assert newest["epoch"] == trial.epochs[1]
    # Whoever waits for a lease says so.
    assert newest["cause"] == "vouched_for"
    assert former["vouched_by"] == "failover.fence_command"
