"""Scripted runs with a program that switches nodes off."""

from typing import TYPE_CHECKING

from pgbastion.testing.sim.world import ms

if TYPE_CHECKING:
    from pgbastion.testing.sim.stage import Stage


def fencing_fails(stage: "Stage") -> None:
    """The holder is cut off, and the program that switches nodes off fails."""
    n1 = stage.n[1]
    stage.renewed()
    stage.isolate(n1)
    stage.until(lambda: stage.epoch == 2, limit_ms=20_000)
    assert n1.off_ns < 0
    stage.mend()


def fencing_works(stage: "Stage") -> None:
    """The holder is cut off and switched off: its lease is not waited out."""
    n1 = stage.n[1]
    stage.renewed()
    cut_ns = stage.world.now_ns
    stage.isolate(n1)
    stage.until(lambda: stage.epoch == 2, limit_ms=20_000)
    took_ns = stage.world.now_ns - cut_ns
    assert n1.off_ns > cut_ns
    assert took_ns < ms(stage.cluster.timings.lease_ms)
    stage.mend()
