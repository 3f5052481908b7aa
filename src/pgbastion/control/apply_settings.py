"""How the state takes another version of the cluster's settings."""

from dataclasses import replace
from typing import Final

from pgbastion.control.outcomes import Outcome
from pgbastion.model.cluster import AT_MAX, CAUSE_MAX, ClusterState
from pgbastion.model.commands import SetParameters
from pgbastion.model.settings import SettingsVersion

VERSIONS_MAX: Final = 10
"""So many versions are kept, to look at and to go back to."""
PARAMETERS_MAX: Final = 200
NAME_LENGTH_MAX: Final = 127
LENGTH_MAX: Final = 16 * 1024
"""Of all names and values together, so that a snapshot stays small."""


def apply_parameters(
    state: ClusterState, command: SetParameters
) -> ClusterState | Outcome:
    """Take the settings whole, if nobody else has changed them meanwhile."""
    newest = state.settings
    if command.base != (newest.version if newest else 0):
        return Outcome.STALE_REVISION
    if not _sensible(command):
        return Outcome.SENSELESS
    if command.parameters == (newest.parameters if newest else ()):
        return Outcome.NO_CHANGE
    version = SettingsVersion(
        version=command.base + 1,
        parameters=command.parameters,
        by=command.by[:CAUSE_MAX],
        at=command.at[:AT_MAX],
    )
    # No decision about roles depends on them, so the revision stays.
    return replace(
        state, settings_versions=(*state.settings_versions, version)[-VERSIONS_MAX:]
    )


def _sensible(command: SetParameters) -> bool:
    names = [name for name, _ in command.parameters]
    if names != sorted(set(names)) or len(names) > PARAMETERS_MAX:
        return False
    if any(not 0 < len(name) <= NAME_LENGTH_MAX for name in names):
        return False
    return sum(len(n) + len(v) for n, v in command.parameters) <= LENGTH_MAX
