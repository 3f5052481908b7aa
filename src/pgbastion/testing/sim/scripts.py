"""Scripted runs: what random faults rarely reach, step by step.

Each script is played on the real decisions and must break no promise; each of the
deliberate mutations of the protocol breaks one in the script that is named for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pgbastion.model.actions import Propose
from pgbastion.model.commands import Assign
from pgbastion.model.profile import Profile
from pgbastion.testing.sim.address_scripts import (
    address_holder_hears_it_late,
    address_holder_is_cut_off,
)
from pgbastion.testing.sim.cluster import Cluster, Shape
from pgbastion.testing.sim.daemon_scripts import (
    daemon_of_an_old_standby,
    daemon_stands_still,
)
from pgbastion.testing.sim.fence_scripts import fencing_fails, fencing_works
from pgbastion.testing.sim.giving_up_scripts import (
    gives_up_as_a_standby,
    gives_up_while_its_server_starts,
)
from pgbastion.testing.sim.loop import node_time
from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.profile_scripts import (
    cut_off_before_a_shorter_lease_counts,
    cut_off_while_a_longer_lease_runs_out,
    lengthened_and_shortened,
    restarted_with_the_file_of_before,
)
from pgbastion.testing.sim.runs import counting, logging_to
from pgbastion.testing.sim.server import Directory
from pgbastion.testing.sim.stage import Stage
from pgbastion.testing.sim.stray_scripts import strayed_standby_is_surveyed
from pgbastion.testing.sim.sync_scripts import (
    first_set_in_a_checkpoint,
    set_fails_half_way,
)
from pgbastion.testing.sim.world import Tally, World

THREE: Final = Shape(write_ms=200, sync_count=1)
LONG_LEASES: Final = replace(THREE, profile=Profile.WIDE, write_ms=1_500)
WITNESSED: Final = Shape(write_ms=200, servers=2, witnesses=1)
ADDRESSED: Final = replace(THREE, addresses=("10.0.0.101",))
FIVE_VOTERS: Final = Shape(write_ms=200, sync_count=1, witnesses=2)
ONE_TO_CHOOSE: Final = replace(FIVE_VOTERS, nofailover=(2,))


def restarted_voter(stage: Stage) -> None:
    """A voter that confirmed the holder's last lease restarts before the election."""
    n1, n2, n3 = stage.n[1], stage.n[2], stage.n[3]
    _forget_the_holder(stage)
    n2.kill_daemon()
    stage.isolate(n1)
    stage.wait(30)
    n2.start_daemon()
    stage.until(lambda: stage.leads(n2) or stage.leads(n3), limit_ms=5_000)
    stage.until(lambda: stage.opened(2), limit_ms=20_000)
    stage.mend()


def _forget_the_holder(stage: Stage) -> None:
    """Let the witness hear nothing of the holder for longer than a lease."""
    stage.cut(1, 3)
    stage.wait(8_000)
    stage.renewed()


def slow_question(stage: Stage) -> None:
    """The question of ages takes long: the answer's age counts from its receipt."""
    n1, n2, n3 = stage.n[1], stage.n[2], stage.n[3]
    _forget_the_holder(stage)
    stage.isolate(n1)
    stage.until(lambda: stage.leads(n2) or stage.leads(n3), limit_ms=5_000, step_ms=0.1)
    # A voter that led itself for a moment would count its age from then on.
    assert stage.leads(n3)
    stage.cluster.links.slow[3, 2] = 400
    stage.until(lambda: _has_ages(n3), limit_ms=3_000)
    stage.cluster.links.slow.clear()
    stage.until(lambda: stage.epoch == 2, limit_ms=20_000)
    stage.mend()


def _has_ages(machine: Machine) -> bool:
    daemon = machine.daemon
    return daemon is not None and len(daemon.host._ages) > 1


def leader_that_stepped_down(stage: Stage) -> None:
    """A leader gives a lease, is told of a higher term and votes at once."""
    stage.renewed()
    n1 = stage.n[1]
    stage.transfer(n1, stage.n[2])
    stage.until(lambda: stage.leads(stage.n[2]), limit_ms=2_000)
    stage.isolate(n1)
    stage.until(lambda: stage.opened(2), limit_ms=20_000)
    stage.mend()


def late_answer(stage: Stage) -> None:
    """An answer takes long: the lease counts from the sending of the renewal."""
    n1, n3 = stage.n[1], stage.n[3]
    stage.renewed()
    stage.wait(stage.cluster.timings.renew_ms - 150)
    stage.transfer(n1, n3)
    stage.until(lambda: stage.leads(n3), limit_ms=2_000, step_ms=0.1)
    stage.cluster.links.slow[3, 1] = 300
    stage.renewed()
    stage.isolate(n1)
    stage.until(lambda: stage.epoch == 2, limit_ms=20_000)
    stage.cluster.links.slow.clear()
    stage.mend()


def holder_is_cut_off(stage: Stage) -> None:
    """The plain case: the primary's node is cut off from all others."""
    stage.renewed()
    stage.isolate(stage.n[1])
    stage.until(lambda: stage.opened(2), limit_ms=20_000)
    stage.mend()


def wakes_between_decision_and_assignment(stage: Stage) -> None:
    """A paused holder wakes when its successor is decided and not yet in the log."""
    n1, n2, n3 = stage.n[1], stage.n[2], stage.n[3]
    stage.renewed()
    # When it wakes, its next renewal is due almost at once.
    stage.wait(stage.cluster.timings.renew_ms - 30)
    n1.stall(clock_stands=True)
    stage.until(lambda: stage.leads(n2) or stage.leads(n3), limit_ms=5_000)
    stage.wait(1_000)
    leader, other = (2, 3) if stage.leads(n2) else (3, 2)
    # The entry gets into the log through the one that wakes, and its disk is slow.
    stage.cluster.links.slow[leader, other] = 400
    n1.raft_flush_ms = (150.0, 150.0)
    stage.until(lambda: _assigning(stage), limit_ms=20_000, step_ms=0.05)
    n1.thaw()
    stage.wait(1_000)
    stage.cluster.links.slow.clear()
    stage.mend()


def leader_dies_after_survey(stage: Stage) -> None:
    """The leader dies between survey and assignment, and a paused holder wakes."""
    n1 = stage.n[1]
    stage.renewed()
    n1.stall(clock_stands=True)
    stage.until(lambda: _surveyed(stage) == 2, limit_ms=20_000, step_ms=0.02)
    leader = stage.n[2] if stage.leads(stage.n[2]) else stage.n[3]
    leader.kill_daemon()
    n1.thaw()
    stage.wait(1_500)
    leader.start_daemon()
    stage.wait(3_000)
    stage.mend()


def _surveyed(stage: Stage) -> int:
    """Return how many standbys are cut off from the first epoch."""
    standbys = (m for m in stage.n.values() if m.number != 1)
    return sum(m.directory.cut_epoch >= 1 for m in standbys)


def _assigning(stage: Stage) -> bool:
    actions = [
        action
        for machine in stage.n.values()
        if machine.daemon is not None
        for action in machine.daemon.main.cluster_decision.actions
    ]
    return any(
        isinstance(a, Propose) and isinstance(a.command, Assign) for a in actions
    )


def commits_while_surveyed(stage: Stage) -> None:
    """A holder's server goes on committing with a standby that is cut slowly."""
    n1, n3 = stage.n[1], stage.n[3]
    n1.stop_guard()
    n1.stop_daemon()
    stage.cluster.links.slow[1, 3] = 15
    n3.fsync_ms = (150.0, 150.0)
    stage.until(lambda: stage.epoch == 2, limit_ms=30_000)
    stage.wait(3_000)
    stage.cluster.links.slow.clear()
    n3.fsync_ms = (0.2, 2.5)
    stage.mend()


def successors_die_in_turn(stage: Stage) -> None:
    """The new primary acknowledges, then all who have it are away for a while."""
    n1, n2, n3 = stage.n[1], stage.n[2], stage.n[3]
    n1.power_off()
    stage.until(lambda: stage.epoch == 2, limit_ms=20_000)
    stage.until(lambda: stage.opened(2), limit_ms=20_000)
    stage.wait(2_000)
    n2.power_off()
    n3.power_off()
    n1.power_on()
    stage.wait(20_000)
    stage.mend()


def standby_leaves_and_confirms(stage: Stage) -> None:
    """A standby comes back just when the set is about to lose it."""
    n1, n3 = stage.n[1], stage.n[3]
    stage.cut(1, 3)
    stage.until(lambda: len(stage.promised.names) == 1, limit_ms=20_000, step_ms=0.1)
    n1.stop_python()
    stage.cluster.links.heal()
    stage.cut(1, 2)
    stage.wait(1_200)
    n1.power_off()
    n3.power_off()
    stage.wait(15_000)
    stage.mend()


def replaced_disk(stage: Stage) -> None:
    """A degraded primary's disk is replaced by an older copy of its data."""
    n1, n2, n3 = stage.n[1], stage.n[2], stage.n[3]
    for machine in (n2, n3):
        machine.kill_daemon()
        machine.kill_guard()
    stage.wait(100)
    copy = replace(n2.directory, data_id="f" * 16, last_was_standby=True, clean=True)
    for machine in (n2, n3):
        machine.start_daemon()
        machine.stop_daemon()
    # The engine's threads go on: there is a majority, and nobody streams.
    for machine in (n2, n3):
        if machine.daemon is not None:
            machine.daemon.engine.continue_process()
    stage.until(lambda: not stage.promised.names, limit_ms=20_000)
    stage.wait(2_000)
    n1.power_off()
    n1.replace_directory(_restored(copy))
    for machine in (n2, n3):
        machine.continue_parts()
    n1.power_on()
    stage.wait(20_000)


def _restored(directory: Directory) -> Directory:
    return replace(directory, promoted_epoch=0, slots=set())


def rebooted_holder(stage: Stage) -> None:
    """A former holder whose latches are lost with its page answers a survey."""
    n1 = stage.n[1]
    n1.crash_server()
    stage.until(lambda: stage.opened(2), limit_ms=20_000)
    stage.until(stage.settled, limit_ms=60_000, step_ms=50)
    n1.power_off()
    n1.power_on()
    stage.until(stage.settled, limit_ms=60_000, step_ms=50)
    stage.holder.crash_server()
    stage.until(lambda: stage.opened(3), limit_ms=20_000)
    stage.mend()


def surveyed_holder(stage: Stage) -> None:
    """A holder's server crashes, and the stopped server is surveyed."""
    n1, n2, n3 = stage.n[1], stage.n[2], stage.n[3]
    for machine in (n2, n3):
        if machine.server is not None:
            machine.server.freeze()
    n1.crash_server()
    stage.wait(8_000)
    for machine in (n2, n3):
        if machine.server is not None:
            machine.server.thaw()
    n1.crash_server()
    stage.until(lambda: stage.epoch == 2, limit_ms=20_000)
    stage.mend()


def release_in_flight(stage: Stage) -> None:
    """The holder's daemon is killed while its release is on the way."""
    n1 = stage.n[1]
    n1.crash_server()
    stage.until(lambda: _released_here(n1) >= 1, limit_ms=5_000, step_ms=0.05)
    n1.kill_daemon()
    stage.wait(200)
    n1.start_daemon()
    stage.until(lambda: stage.opened(2), limit_ms=20_000)
    stage.mend()


def _released_here(machine: Machine) -> int:
    daemon = machine.daemon
    return int(daemon.page.read().released_epoch) if daemon is not None else 0


def dies_between_promotion_and_opening(stage: Stage) -> None:
    """Two new primaries in a row die before they acknowledge anything."""
    stage.n[1].power_off()
    for epoch in (2, 3):
        stage.until(lambda epoch=epoch: stage.epoch == epoch, limit_ms=30_000)  # type: ignore[misc]
        machine = stage.holder
        stage.until(
            lambda machine=machine: _is_primary(machine),  # type: ignore[misc]
            limit_ms=20_000,
            step_ms=0.5,
        )
        machine.power_off()
        stage.wait(500)
        machine.power_on()
    stage.n[1].power_on()
    stage.mend()


def _is_primary(machine: Machine) -> bool:
    server = machine.server
    return server is not None and not server.recovering


def late_promotion(stage: Stage) -> None:
    """A promotion is asked for and finishes long after its lease."""
    setting = stage.cluster.machines[2].setting
    for machine in stage.n.values():
        machine.setting = replace(setting, late_promotions=1.0)
    stage.n[1].power_off()
    stage.until(lambda: stage.epoch == 2, limit_ms=20_000)
    chosen = stage.holder
    stage.until(
        lambda: chosen.server is not None and chosen.server.promoting, limit_ms=20_000
    )
    chosen.kill_daemon()
    stage.n[1].power_on()
    stage.wait(15_000)
    for machine in stage.n.values():
        machine.setting = setting
    stage.mend()


def furthest_is_barred(stage: Stage) -> None:
    """What was acknowledged last is only on a standby that may not be promoted."""
    stage.cut(1, 3)
    stage.wait(400)
    stage.n[1].power_off()
    stage.cluster.links.heal()
    stage.until(lambda: stage.opened(2), limit_ms=30_000)
    assert stage.holder is stage.n[3]
    stage.mend()


def former_primary_is_barred(stage: Stage) -> None:
    """What was acknowledged last is only on the former primary, which is barred."""
    for number in (2, 3):
        stage.n[number].power_off()
    stage.until(lambda: not stage.promised.names, limit_ms=20_000)
    stage.wait(400)
    stage.n[1].power_off()
    for machine in stage.n.values():
        machine.power_on()
    stage.until(lambda: stage.opened(2), limit_ms=30_000)
    assert stage.holder is not stage.n[1]
    stage.mend()


def strict_waits(stage: Stage) -> None:
    """Strict: without a standby nothing is acknowledged, and it goes on after."""
    for number in (2, 3):
        stage.n[number].power_off()
    stage.n[2].power_on()
    stage.n[2].stop_daemon()
    stage.wait(10_000)
    stage.mend()


SCRIPTS: Final[Mapping[str, tuple[Callable[[Stage], None], Shape]]] = {
    "restarted_voter": (restarted_voter, WITNESSED),
    "slow_question": (slow_question, WITNESSED),
    "leader_that_stepped_down": (leader_that_stepped_down, THREE),
    "late_answer": (late_answer, THREE),
    "holder_is_cut_off": (holder_is_cut_off, THREE),
    "wakes_between_decision_and_assignment": (
        wakes_between_decision_and_assignment,
        THREE,
    ),
    "leader_dies_after_survey": (leader_dies_after_survey, THREE),
    "commits_while_surveyed": (
        commits_while_surveyed,
        replace(THREE, write_ms=40),
    ),
    "successors_die_in_turn": (successors_die_in_turn, FIVE_VOTERS),
    "standby_leaves_and_confirms": (
        standby_leaves_and_confirms,
        replace(FIVE_VOTERS, write_ms=20),
    ),
    "replaced_disk": (replaced_disk, FIVE_VOTERS),
    "rebooted_holder": (rebooted_holder, THREE),
    "surveyed_holder": (surveyed_holder, THREE),
    "release_in_flight": (release_in_flight, THREE),
    "dies_between_promotion_and_opening": (dies_between_promotion_and_opening, THREE),
    "late_promotion": (late_promotion, THREE),
    "fencing_fails": (fencing_fails, replace(THREE, fence_works=0.0)),
    "fencing_works": (fencing_works, replace(THREE, fence_works=1.0)),
    "furthest_is_barred": (
        furthest_is_barred,
        replace(THREE, write_ms=40, nofailover=(2,)),
    ),
    "former_primary_is_barred": (
        former_primary_is_barred,
        replace(FIVE_VOTERS, write_ms=40, nofailover=(1,)),
    ),
    "gives_up_as_a_standby": (gives_up_as_a_standby, ONE_TO_CHOOSE),
    "gives_up_while_its_server_starts": (
        gives_up_while_its_server_starts,
        ONE_TO_CHOOSE,
    ),
    "address_holder_is_cut_off": (address_holder_is_cut_off, ADDRESSED),
    "address_holder_hears_it_late": (address_holder_hears_it_late, ADDRESSED),
    "cut_off_before_a_shorter_lease_counts": (
        cut_off_before_a_shorter_lease_counts,
        LONG_LEASES,
    ),
    "cut_off_while_a_longer_lease_runs_out": (
        cut_off_while_a_longer_lease_runs_out,
        LONG_LEASES,
    ),
    "restarted_with_the_file_of_before": (
        restarted_with_the_file_of_before,
        LONG_LEASES,
    ),
    "lengthened_and_shortened": (lengthened_and_shortened, THREE),
    "daemon_stands_still": (daemon_stands_still, replace(THREE, profile=Profile.FAST)),
    "daemon_of_an_old_standby": (daemon_of_an_old_standby, THREE),
    "strict_waits": (strict_waits, replace(THREE, strict=True)),
    "strayed_standby_is_surveyed": (strayed_standby_is_surveyed, FIVE_VOTERS),
    "set_fails_half_way": (set_fails_half_way, replace(WITNESSED, write_ms=40)),
    "first_set_in_a_checkpoint": (
        first_set_in_a_checkpoint,
        replace(WITNESSED, write_ms=40),
    ),
}


SEEDS: Final[Mapping[str, int]] = {"slow_question": 16}
"""Seeds other than 1: there the witness wins the election."""


def run_script(
    name: str, *, seed: int | None = None, trace: Callable[[str], None] | None = None
) -> Tally:
    """Play one script.

    Raises:
        Violation: A promise was broken.
        AssertionError: Something that the script waits for did not come.
    """
    play, shape = SCRIPTS[name]
    world = World(SEEDS.get(name, 1) if seed is None else seed, trace)
    with node_time(), counting(world.tally), logging_to(world):
        cluster = Cluster(world, shape)
        try:
            stage = Stage(cluster)
            stage.until(stage.settled, limit_ms=60_000, step_ms=50)
            stage.wait(1_000)
            world.say("script", name)
            play(stage)
        finally:
            cluster.close()
    return world.tally
