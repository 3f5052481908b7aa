"""Puts what a person wants into the log, and says what became of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeGuard

from pgbastion.api.ports import Done, Outcome, Refused, Unknown
from pgbastion.control.apply import Outcome as LogOutcome
from pgbastion.control.apply import apply
from pgbastion.control.outcomes import SENTENCES
from pgbastion.model.cluster import ClusterState, Order
from pgbastion.model.commands import Command, GiveOrder, encode_command
from pgbastion.model.ids import NodeId
from pgbastion.model.views import RaftView, Received
from pgbastion.observe.logging import get_logger

PROPOSE_TIMEOUT_S: Final = 2.0
CAUSE: Final = "an operator"

log = get_logger("orders")


class Log(Protocol):
    """Where a command is put in, and what came of all those before."""

    @property
    def state(self) -> ClusterState:
        """The replicated state."""

    @property
    def reports(self) -> Mapping[NodeId, Received]:
        """What the nodes say of themselves."""

    def raft(self) -> RaftView:
        """Return what the engine says about itself."""

    async def propose(self, command: Command, *, timeout_s: float) -> LogOutcome | None:
        """Return what became of it; None: nobody knows."""

    def compact(self) -> int:
        """Let the log before the state go; return up to which index."""


class Rehearsal:
    """A log in which commands have their outcome, and nothing happens.

    Args:
        host: The log that is really there; it is looked at only.
    """

    def __init__(self, host: Log) -> None:
        self._host = host
        self.state = host.state

    @property
    def reports(self) -> Mapping[NodeId, Received]:
        """What the nodes say of themselves."""
        return self._host.reports

    def raft(self) -> RaftView:
        """Return what the engine says about itself."""
        return self._host.raft()

    async def propose(self, command: Command, *, timeout_s: float) -> LogOutcome | None:
        """Return what would become of it; None: there is no Raft leader to take it."""
        del timeout_s
        if not self._host.raft().leader:
            return None
        applied = apply(self.state, self.state.index + 1, "", encode_command(command))
        self.state = applied.state
        return applied.outcome

    def compact(self) -> int:
        """Return up to which index the log would go."""
        return self._host.state.index


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCommand:
    """A command, and the words for each of its ends."""

    command: Command
    done: str
    """What is so then, for instance "n2 was fenced"."""
    refused: str
    """What is so otherwise, for instance "n2 was not fenced"."""
    look: str
    """Where to look before it is repeated."""
    follow: str = ""
    """The id of the operation that goes on then; empty: all is done at once."""
    facts: Callable[[bool], Mapping[str, object]]
    """What is answered then; it is told whether that changed anything."""


def happened(outcome: Outcome, host: Log) -> TypeGuard[Done]:
    """Tell whether something was done, not only rehearsed."""
    return isinstance(outcome, Done) and not isinstance(host, Rehearsal)


async def give_order(host: Log, order: Order, *, said: str, look: str) -> Outcome:
    """Put an order into the log and return the answer for whoever gave it.

    Args:
        host: The log.
        order: What is to be carried out.
        said: It in words, for instance "the switchover to n2".
        look: Where to look before it is repeated.
    """
    asked = OperatorCommand(
        command=GiveOrder(order=order),
        done=f"{said} was ordered",
        refused=f"{said} was not taken",
        look=look,
        follow=order.order_id,
        facts=lambda _: {"id": order.order_id, "to": order.target},
    )
    answer = await submit(host, asked)
    if happened(answer, host):
        log.info("ordered", order=order.order_id, kind=order.order, to=order.target)
    return answer


def outside(host: Log) -> Refused | None:
    """Refuse what only a member can do; None: this node is one."""
    if host.state.cluster_id:
        return None
    return Refused(
        code="no_cluster_yet",
        message="this node is in no cluster yet",
        remedy="ask a member, or look at /cluster/explain for what it waits for",
    )


async def submit(host: Log, asked: OperatorCommand) -> Outcome:
    """Put a command into the log and return the answer for whoever asked."""
    if (refused := outside(host)) is not None:
        return refused
    outcome = await host.propose(asked.command, timeout_s=PROPOSE_TIMEOUT_S)
    if outcome is None:
        why = "" if host.raft().leader else ", for want of a Raft leader"
        return Unknown(
            message=f"nobody can tell yet whether {asked.done}{why}",
            remedy=f"look at /operations/{asked.follow}"
            if asked.follow
            else asked.look,
        )
    if outcome not in (LogOutcome.OK, LogOutcome.NO_CHANGE):
        return Refused(
            code=str(outcome),
            message=f"{asked.refused}: {SENTENCES[outcome]}",
            remedy=asked.look,
        )
    return Done(facts=asked.facts(outcome is LogOutcome.OK), follow=asked.follow)
