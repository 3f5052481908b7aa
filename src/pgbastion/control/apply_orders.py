"""How the state takes an operator's orders.

Source: docs/explanation/lease.md, "Pause".
"""

from dataclasses import replace

from pgbastion.control.outcomes import Outcome
from pgbastion.model.cluster import ClusterState
from pgbastion.model.commands import Pause, Running
from pgbastion.model.ids import Revision


def apply_pause(state: ClusterState, command: Pause) -> ClusterState | Outcome:
    """Pause or resume; an assignment that was decided before is refused after it."""
    if command.pause_revision != state.pause_revision + 1:
        return Outcome.STALE_REVISION
    if command.paused == state.paused:
        return Outcome.NO_CHANGE
    return replace(
        state,
        revision=Revision(state.revision + 1),
        paused=command.paused,
        pause_revision=command.pause_revision,
    )


def apply_running(state: ClusterState, command: Running) -> ClusterState | Outcome:
    """Note that the holder heeds its lease again, as of this pause revision."""
    held = state.assignment
    if held is None or held.epoch != command.epoch:
        return Outcome.WRONG_EPOCH
    if held.incarnation != command.incarnation:
        return Outcome.WRONG_INCARNATION
    if state.paused or command.pause_revision != state.pause_revision:
        return Outcome.STALE_REVISION
    if held.running == command.pause_revision:
        return Outcome.NO_CHANGE
    running = replace(held, running=command.pause_revision)
    return replace(state, assignment=running)
