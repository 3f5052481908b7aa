"""Scripted runs in which a node hears of its epoch when that is over."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine
    from pgbastion.testing.sim.stage import Stage


def gives_up_as_a_standby(stage: "Stage") -> None:
    """The chosen one hears of its epoch just before it is cut off, or never."""
    chosen = _chosen(stage)
    stage.isolate(chosen)
    stage.until(lambda: _is_revoked(stage), limit_ms=30_000)
    stage.cluster.links.heal()
    stage.mend()


def gives_up_while_its_server_starts(stage: "Stage") -> None:
    """The same, and its server has crashed and does not come to an end of its start."""
    chosen = _chosen(stage)
    crashed = chosen.server
    chosen.crash_server()
    stage.until(lambda: chosen.server not in {None, crashed}, limit_ms=5_000)
    starting = chosen.server
    assert starting is not None
    starting.freeze()
    stage.isolate(chosen)
    stage.until(lambda: _is_revoked(stage), limit_ms=30_000)
    stage.cluster.links.heal()
    stage.wait(1_000)
    starting.thaw()
    stage.mend()


def _chosen(stage: "Stage") -> "Machine":
    stage.n[1].power_off()
    stage.until(lambda: stage.epoch == 2, limit_ms=30_000, step_ms=0.05)
    return stage.holder


def _is_revoked(stage: "Stage") -> bool:
    held = stage.cluster.judge.state.assignment
    return held is not None and held.revoked
