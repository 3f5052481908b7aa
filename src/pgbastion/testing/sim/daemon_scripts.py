"""Scripted runs of daemons that are away, or stand still; their servers are well."""

from pgbastion.model.views import START_MAX_MS
from pgbastion.testing.sim.stage import Stage


def daemon_stands_still(stage: Stage) -> None:
    """The holder's daemon stands still for longer than an answer may be old."""
    for _ in range(5):
        stage.renewed()
        stage.n[1].stop_python()
        stage.wait(1_000)
        stage.n[1].continue_parts()
        stage.wait(3_000)
    assert stage.epoch == 1, "a server that was well was ended"
    stage.mend()


def daemon_of_an_old_standby(stage: Stage) -> None:
    """A standby that has run for long has not said anything to its new daemon yet."""
    machine = stage.n[2]
    stage.wait(START_MAX_MS + 1_000)
    server = machine.server
    for _ in range(5):
        machine.kill_daemon()
        stage.wait(10_000)
        machine.start_daemon()
        stage.wait(5_000)
    assert machine.server is server, "a server that was well was ended"
    stage.mend()
