"""Judges what switches nodes off by the facts of this machine. Pure."""

from collections.abc import Iterator
from typing import Final

from pgbastion.config.machine import Facts
from pgbastion.config.model import Config
from pgbastion.config.problems import Problem, Severity

OTHERS_MAY_WRITE: Final = 0o022


def check_fencing(config: Config, facts: Facts) -> Iterator[Problem]:
    """Yield what does not fit between ``failover.fence_command`` and the machine."""
    program, key = config.failover.fence_command, "failover.fence_command"
    if program is None:
        return
    if not facts.fence_runs:
        yield Problem(
            key=key,
            problem=f"{program} is not an executable program",
            remedy="make it executable, or remove the key",
        )
    if facts.fence_mode & OTHERS_MAY_WRITE:
        yield Problem(
            key=key,
            problem=f"{program} has mode {facts.fence_mode:04o}: others than its owner "
            "can change what this daemon runs",
            remedy=f"chmod go-w {program}",
            severity=Severity.WARNING,
        )
