"""Rules taken out of copies of the source, on real nodes: the sampler has to see it.

In ``async`` nothing but the lease keeps two nodes from acknowledging at one time, so
that neither a revocation nor a survey hides what is missing. The last test runs the
same faults on a copy without a mutation: what the others see is the mutation's work.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.injections import cut_from_nodes, daemon_killed
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.waits import LEASE_S, WRITES_AGAIN_S, wait_for
from pgbastion.bench.lab.workload import SamplerReport
from support.lab_faults import KEPT_LOGS
from support.mutating import (
    GUARD_OFF,
    NO_WAIT,
    Replacement,
    ages_skipped,
    led_by,
    mutated_source,
)
from support.promises import one_writer

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

PROFILE: Final = "normal"
WITNESS: Final = "n3"
# A leader has patience with a holder for a lease since its assignment, whatever the
# rules say; an election takes the rest of the time at least.
PATIENCE_S: Final = LEASE_S[PROFILE] - 0.5
GRANTED_S: Final = 1.5  # two renewals
LED_S: Final = 10.0  # from an order to lead until the other one leads
# Long enough for a dozen samples, and for the release of what was just promoted.
BOTH_S: Final = 1.5
# A mutation opens a window for a second writer; that both write in it is not certain.
TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A cluster that runs from a copy, and how it is directed.

    ``settled`` holds the instant up to which the leader's patience lasts.
    """

    lab: Lab
    order: Path
    cue: Path
    settled: list[float] = field(default_factory=list)

    def holder(self) -> str:
        """Return the primary."""
        return self.lab.primary()

    def standby(self) -> str:
        """Return the other node with PostgreSQL."""
        return "n2" if self.holder() == "n1" else "n1"

    def order_leader(self, name: str) -> None:
        """Tell the leader to hand over, without waiting."""
        made = self.order.with_suffix(".new")
        made.write_text(name)
        made.rename(self.order)

    def let_lead(self, name: str) -> None:
        """Wait until ``name`` leads."""
        if not self._leads(name):
            self.order_leader(name)
            wait_for(f"{name} to lead", lambda: self._leads(name), LED_S)

    def wait_out_patience(self) -> None:
        """Wait until the holder's assignment is older than the leader's patience."""
        time.sleep(max(self.settled[-1] - time.monotonic(), 0.0))

    def has_settled(self) -> None:
        """Note that an assignment was made up to now."""
        self.settled.append(time.monotonic() + PATIENCE_S)

    def _leads(self, name: str) -> bool:
        answer = self.lab.node(name).get("/raft/state")
        return answer is not None and answer["leader"] == name


@contextmanager
def daemon_killed_and_cut(stage: Stage) -> Iterator[None]:
    """The holder, which leads, loses its daemon and the other nodes."""
    holder = stage.holder()
    stage.let_lead(holder)
    stage.wait_out_patience()
    with daemon_killed(stage.lab, holder), cut_from_nodes(stage.lab, holder):
        yield


@contextmanager
def voter_restarted(stage: Stage) -> Iterator[None]:
    """A voter has just restarted when the holder, which leads, loses its daemon."""
    holder, voter = stage.holder(), stage.standby()
    stage.let_lead(holder)
    stage.wait_out_patience()
    stage.cue.touch()
    with daemon_killed(stage.lab, voter):
        pass
    back = stage.lab.node(voter)
    wait_for(f"{voter} to answer", lambda: back.get("/raft/state"), LED_S)
    with daemon_killed(stage.lab, holder):
        yield


@contextmanager
def leader_stepped_down(stage: Stage) -> Iterator[None]:
    """The leader, which has just renewed, hands over; the holder's daemon is dead."""
    holder, successor = stage.holder(), stage.standby()
    stage.let_lead(WITNESS)
    stage.wait_out_patience()
    time.sleep(GRANTED_S)
    stage.cue.touch()
    with daemon_killed(stage.lab, holder):
        stage.order_leader(successor)
        yield


Mutation = tuple[Replacement, ...]
Script = Callable[[Stage], AbstractContextManager[None]]
SCRIPTS: Final[tuple[Script, ...]] = (
    daemon_killed_and_cut,
    voter_restarted,
    leader_stepped_down,
)


@contextmanager
def staged(directory: Path, mutation: Mutation) -> Iterator[Stage]:
    """Run two servers and a witness from a copy of the source."""
    order, cue = directory / "order", directory / "cue"
    source = mutated_source(directory, (*mutation, *led_by(order)))
    plan = Plan(
        postgres_nodes=2,
        witnesses=1,
        profile=PROFILE,
        mode="async",
        environment={"PYTHONPATH": str(source)},
    )
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            lab.start()
            stage = Stage(lab=lab, order=order, cue=cue)
            stage.has_settled()
            yield stage
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def play(stage: Stage, script: Script) -> SamplerReport:
    """Play the script up to the take-over, and return what the sampler saw."""
    successor = stage.standby()
    others = [stage.lab.node(name) for name in (successor, WITNESS)]
    with stage.lab.sampler() as sampler:
        with script(stage):
            wait_for(
                f"{successor} to be the primary",
                lambda: stage.lab.reported_primary(others) == successor,
                WRITES_AGAIN_S[PROFILE],
            )
            stage.has_settled()
            time.sleep(BOTH_S)
            sampler.finish()
        return sampler.report()


def assert_noticed(
    directory: Path, mutation: Callable[[Path], Mutation], script: Script
) -> None:
    """Fail unless the old holder acknowledges in the time of its successor."""
    for number in range(TRIES):
        place = directory / str(number)
        place.mkdir()
        if both_acknowledged(place, mutation(place), script):
            return
    pytest.fail("the mutation was not noticed")


def both_acknowledged(directory: Path, mutation: Mutation, script: Script) -> bool:
    """Play the script on a new cluster; return whether the sampler saw two writers."""
    with staged(directory, mutation) as stage:
        holder, successor = stage.holder(), stage.standby()
        found = play(stage, script).violations
    for violation in found:
        assert (violation.older.node, violation.newer.node) == (holder, successor)
    sys.stdout.write(f"{len(found)} violations: {found[:1]}\n")
    return bool(found)


def test_without_the_wait_two_nodes_acknowledge(tmp_path: Path) -> None:
    assert_noticed(tmp_path, lambda _: NO_WAIT, daemon_killed_and_cut)


def test_without_the_guard_two_nodes_acknowledge(tmp_path: Path) -> None:
    assert_noticed(tmp_path, lambda _: GUARD_OFF, daemon_killed_and_cut)


@pytest.mark.parametrize("script", [voter_restarted, leader_stepped_down])
def test_without_the_ages_two_nodes_acknowledge(tmp_path: Path, script: Script) -> None:
    assert_noticed(tmp_path, lambda place: ages_skipped(place / "cue"), script)


def test_with_every_rule_no_two_nodes_acknowledge(tmp_path: Path) -> None:
    with staged(tmp_path, ()) as stage:
        for script in SCRIPTS:
            stage.lab.wait_steady()
            pair = {stage.holder(), stage.standby()}
            sampled = play(stage, script)
            one_writer(sampled)
            assert {write.node for write in sampled.writes} == pair
