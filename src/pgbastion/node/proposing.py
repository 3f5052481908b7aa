"""Puts what a person wants into the log, and says what became of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pgbastion.api.ports import Done, Outcome, Refused, Unknown
from pgbastion.control.apply import Outcome as Applied
from pgbastion.model.commands import Command

PROPOSE_TIMEOUT_S: Final = 2.0
CAUSE: Final = "an operator"


class Log(Protocol):
    """Where a command is put in."""

    async def propose(self, command: Command, *, timeout_s: float) -> Applied | None:
        """Return what became of it; None: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A command, and the words for each of its ends."""

    command: Command
    granted: str
    """What is so then, for instance "n2 was fenced"."""
    refused: str
    """What is so otherwise, for instance "n2 was not fenced"."""
    look: str
    """Where to look before it is repeated."""
    follow: str = ""
    """The id of the operation that goes on then; empty: all is done at once."""
    facts: Callable[[bool], Mapping[str, object]]
    """What is answered then; it is told whether that changed anything."""


async def grant(log: Log, wish: Wish) -> Outcome:
    """Put a wish into the log and return the answer for whoever asked."""
    outcome = await log.propose(wish.command, timeout_s=PROPOSE_TIMEOUT_S)
    if outcome is None:
        return Unknown(
            message=f"nobody can tell yet whether {wish.granted}",
            remedy=f"look at /operations/{wish.follow}" if wish.follow else wish.look,
        )
    if outcome not in (Applied.OK, Applied.NO_CHANGE):
        return Refused(
            code=str(outcome), message=f"{wish.refused}: {outcome}", remedy=wish.look
        )
    return Done(facts=wish.facts(outcome is Applied.OK), follow=wish.follow)
