"""What people change by a request: the primary, now or later, and who may become it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pgbastion.api.order_bodies import (
    Cancel,
    FailOver,
    Fence,
    MoveAddress,
    OfNode,
    Reinit,
    Restart,
    SwitchOver,
    Unfence,
)
from pgbastion.api.ports import Commands, Outcome
from pgbastion.api.problems import bad_request
from pgbastion.model.ids import NodeId


async def switch_over(commands: Commands, body: SwitchOver) -> Outcome:
    """Order a planned change of the primary; answers with an id."""
    if body.cancel:
        return await commands.cancel(body.id)
    if (refused := commands.not_primary(body.of)) is not None:
        return refused
    when = body.when
    if when is None:
        return await commands.switch_over(body.named, body.drain)
    return await commands.schedule(body.named, body.drain, when)


async def cancel(commands: Commands, body: Cancel) -> Outcome:
    """Drop what is scheduled, and an order that has not begun."""
    return await commands.cancel(body.id)


async def fail_over(commands: Commands, body: FailOver) -> Outcome:
    """Order a change of the primary that needs no living one; answers with an id."""
    if (refused := commands.not_primary(body.of)) is not None:
        return refused
    return await commands.fail_over(_named(body), force=body.force, drain_ms=body.drain)


async def fence(commands: Commands, body: Fence) -> Outcome:
    """Keep a node from the primary role until it is unfenced."""
    return await commands.fence(_named(body), force=body.force, drain_ms=body.drain)


async def unfence(commands: Commands, body: Unfence) -> Outcome:
    """Let a fenced node take part again."""
    return await commands.unfence(_named(body))


async def move_address(commands: Commands, body: MoveAddress) -> Outcome:
    """Have an address for replicas at another node; it stays there while it can."""
    return await commands.move_address(body.address, body.named)


async def restart(commands: Commands, body: Restart) -> Outcome:
    """Restart PostgreSQL of a node in the role that it has; answers with an id."""
    return await commands.restart(
        _named(body), pending=body.pending, drain_ms=body.drain
    )


async def reinit(commands: Commands, body: Reinit) -> Outcome:
    """Replace a standby's data by a copy of the primary's; answers with an id."""
    return await commands.reinit(_named(body))


def _named(body: OfNode) -> NodeId:
    if body.named is None:
        raise bad_request("the node is missing", body.usage())
    return body.named


Change = Callable[[Commands, Any], Awaitable[Outcome]]

# By method and path.
ORDERS: Final[
    Mapping[tuple[str, str], Callable[[Commands, Any], Awaitable[Outcome]]]
] = {
    ("POST", "/cluster/switchover"): switch_over,
    ("DELETE", "/cluster/switchover"): cancel,
    ("POST", "/cluster/failover"): fail_over,
    ("POST", "/cluster/fence"): fence,
    ("POST", "/cluster/unfence"): unfence,
    ("POST", "/vip/move"): move_address,
    ("POST", "/cluster/restart"): restart,
    ("POST", "/cluster/reinit"): reinit,
}
