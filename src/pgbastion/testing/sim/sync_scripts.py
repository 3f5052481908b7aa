"""Scripted runs in which the synchronous set changes at a bad moment."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine
    from pgbastion.testing.sim.stage import Stage


def set_fails_half_way(stage: "Stage") -> None:
    """The server takes the empty set, nobody hears of it, and the standby is back."""
    n1, n2 = stage.n[1], stage.n[2]
    n1.loses_answers = True
    n2.power_off()
    stage.until(lambda: _waits_for_nobody(stage), limit_ms=20_000, step_ms=0.1)
    n2.power_on()
    stage.until(lambda: _streams(n2), limit_ms=20_000)
    stage.wait(stage.cluster.timings.probe_ms)
    n1.loses_answers = False
    stage.until(lambda: _promised(stage) == 1, limit_ms=20_000)
    stage.cut(1, 2)
    stage.wait(500)
    n1.power_off()
    stage.until(lambda: stage.opened(2), limit_ms=30_000)
    stage.mend()


def _waits_for_nobody(stage: "Stage") -> bool:
    server = stage.n[1].server
    sync = server.sync if server is not None else None
    return sync is not None and sync.num_sync == 0


def _streams(standby: "Machine") -> bool:
    return standby.server is not None and standby.server.link is not None


def _promised(stage: "Stage") -> int:
    opened = stage.cluster.judge.state.opened
    return opened.sync.num_sync if opened is not None else 0
