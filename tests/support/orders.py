"""Applies commands to a state of the tests."""

from pgbastion.control.apply import Applied, Outcome, apply
from pgbastion.model.cluster import ClusterState
from pgbastion.model.commands import Command, encode_command


def _apply(state: ClusterState, command: Command) -> Applied:
    return apply(state, state.index + 1, "", encode_command(command))


def applied(state: ClusterState, command: Command) -> ClusterState:
    """Return the state after a command that has to succeed."""
    done = _apply(state, command)
    assert done.outcome is Outcome.OK, done.outcome
    return done.state


def outcome(state: ClusterState, command: Command) -> Outcome:
    """Return what becomes of a command."""
    return _apply(state, command).outcome
