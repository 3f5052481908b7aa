"""Scripted runs in which somebody promotes a server past its daemon."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgbastion.testing.sim.stage import Stage


def strayed_standby_is_surveyed(stage: "Stage") -> None:
    """It took the timeline id that the cluster gave to another, who never opened."""
    n1, n2, n3 = stage.n[1], stage.n[2], stage.n[3]
    stage.isolate(n3)
    stage.until(lambda: len(stage.promised.names) == 1, limit_ms=20_000)
    assert n3.server is not None
    n3.server.promote(50)
    stage.until(lambda: n3.server is None, limit_ms=5_000)
    # What is acknowledged from now on is not on the one that strayed.
    stage.wait(1_000)
    n1.power_off()
    stage.until(
        lambda: n2.server is not None and not n2.server.recovering,
        limit_ms=30_000,
        step_ms=0.5,
    )
    assert n2.directory.branch.timeline == n3.directory.branch.timeline
    n2.power_off()
    stage.cluster.links.heal()
    stage.wait(20_000)
    stage.mend()
