"""Scripted runs in which the profile, and with it the lease, is changed."""

from typing import TYPE_CHECKING

from pgbastion.model.profile import Profile

if TYPE_CHECKING:
    from pgbastion.testing.sim.stage import Stage


def _is_under_way(stage: "Stage", *, adopted: bool) -> bool:
    shortening = stage.cluster.judge.state.shortening
    return shortening is not None and shortening.adopted is adopted


def _is_settled(stage: "Stage") -> bool:
    policy = stage.cluster.judge.state.policy
    revised = policy is not None and policy.revision > 0
    return revised and stage.cluster.judge.state.shortening is None


def _lead_elsewhere(stage: "Stage") -> None:
    """Have another node than the holder's lead, so that its loss is no election."""
    if stage.leads(stage.n[1]):
        stage.transfer(stage.n[1], stage.n[2])
        stage.until(lambda: stage.leads(stage.n[2]), limit_ms=5_000)
    stage.renewed()


def cut_off_before_a_shorter_lease_counts(stage: "Stage") -> None:
    """The holder is cut off when a shorter lease is decided, its own being long."""
    _lead_elsewhere(stage)
    stage.cluster.people.change_profile(Profile.FAST)
    stage.until(lambda: _is_under_way(stage, adopted=False), limit_ms=5_000)
    stage.isolate(stage.n[1])
    stage.until(lambda: stage.opened(2), limit_ms=90_000)
    stage.mend()


def cut_off_while_a_longer_lease_runs_out(stage: "Stage") -> None:
    """The holder is cut off once shorter leases are granted, its last being long."""
    _lead_elsewhere(stage)
    stage.cluster.people.change_profile(Profile.FAST)
    stage.until(lambda: _is_under_way(stage, adopted=True), limit_ms=20_000)
    stage.wait(30)
    stage.isolate(stage.n[1])
    stage.until(lambda: stage.opened(2), limit_ms=90_000)
    stage.mend()


def restarted_with_the_file_of_before(stage: "Stage") -> None:
    """The holder's daemon starts anew: its file has the timings of a longer lease."""
    stage.cluster.people.change_profile(Profile.FAST)
    stage.until(lambda: _is_settled(stage), limit_ms=90_000, step_ms=20)
    for _ in range(3):
        stage.renewed()
        stage.n[1].kill_daemon()
        stage.wait(150)
        stage.n[1].start_daemon()
        stage.wait(5_000)
    assert stage.epoch == 1
    stage.mend()


def lengthened_and_shortened(stage: "Stage") -> None:
    """The lease gets longer, shorter and longer again: the primary stays."""
    for profile in (Profile.WIDE, Profile.FAST, Profile.WIDE, Profile.NORMAL):
        stage.cluster.people.change_profile(profile)
        stage.wait(3_000)
    stage.until(lambda: _is_settled(stage), limit_ms=90_000, step_ms=20)
    assert stage.epoch == 1
    stage.isolate(stage.n[1])
    stage.until(lambda: stage.opened(2), limit_ms=20_000)
    stage.mend()
