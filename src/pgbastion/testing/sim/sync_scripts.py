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
    _lose_the_primary_once_it_is_promised(stage)


def first_set_in_a_checkpoint(stage: "Stage") -> None:
    """A standby is back while the checkpointer is busy: it has nobody wait as yet."""
    n1, n2 = stage.n[1], stage.n[2]
    n2.power_off()
    stage.until(lambda: not _commits_wait(stage), limit_ms=20_000)
    n1.checkpointer_busy = 1.0
    n2.power_on()
    _lose_the_primary_once_it_is_promised(stage)


def _lose_the_primary_once_it_is_promised(stage: "Stage") -> None:
    """What the primary acknowledges without its standby would be lost."""
    stage.until(lambda: stage.promised.num_sync == 1, limit_ms=60_000)
    stage.cut(1, 2)
    stage.wait(500)
    stage.n[1].power_off()
    stage.until(lambda: stage.opened(2), limit_ms=30_000)
    stage.mend()


def _waits_for_nobody(stage: "Stage") -> bool:
    server = stage.n[1].server
    sync = server.sync if server is not None else None
    return sync is not None and sync.num_sync == 0


def _commits_wait(stage: "Stage") -> bool:
    server = stage.n[1].server
    return server is None or server.commits_wait


def _streams(standby: "Machine") -> bool:
    return standby.server is not None and standby.server.link is not None
