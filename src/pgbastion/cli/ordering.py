"""Gives an operator's order, and waits for what comes of it."""

import json
from collections.abc import Mapping
from typing import Any, Final

import typer

from pgbastion.cli.client import Client
from pgbastion.cli.exits import Exit
from pgbastion.cli.problems import CommandError, RefusedError
from pgbastion.cli.progress import Progress, wait_for

DONE: Final = "done"


def carry_out(
    client: Client, path: str, body: Mapping[str, Any], *, what: str, wait_s: float
) -> Mapping[str, Any]:
    """Give an order and return it once it has an outcome.

    Args:
        client: Whom to give it.
        path: The endpoint, whose answer has the order's ``id``.
        body: The order.
        what: What is waited for, for people.
        wait_s: How long to wait for the outcome.

    Raises:
        CommandError: It was refused, or has no outcome in time.
    """
    given = client.order(path, body)
    return wait_settled(client, str(given.get("id")), what=what, wait_s=wait_s)


def tell_outcome(found: Mapping[str, Any], plain: str, *, as_json: bool) -> None:
    """Print what came of an order, for programs or in ``plain`` words.

    Raises:
        Exit: It was not done.
    """
    print(json.dumps(found) if as_json else f"{plain} {found['detail']}".rstrip())
    if found["outcome"] != DONE:
        raise typer.Exit(Exit.NO)


def wait_settled(
    client: Client, order_id: str, *, what: str, wait_s: float
) -> Mapping[str, Any]:
    """Wait until an order has an outcome and return it.

    Raises:
        UnfinishedError: It has none in time.
    """

    def look(progress: Progress) -> Mapping[str, Any] | None:
        found = _operation(client, order_id)
        if found is not None and not found.get("outcome"):
            progress.say(how_far(found))
            return None
        return found

    return wait_for(look, what=f"{what} ({order_id})", within_s=wait_s)


def to_restart(client: Client, *, pending: bool) -> list[str]:
    """Return whose PostgreSQL to restart, the primary last."""
    members = client.get("/cluster")["members"]
    servers = [m for m in members if m.get("port") is not None]
    if pending:
        servers = [m for m in servers if m.get("pending_restart")]
    servers.sort(key=lambda m: m["role"] == "leader")
    return [str(m["name"]) for m in servers]


def wait_moved(client: Client, node: str, *, wait_s: float) -> None:
    """Wait until a node is not the primary any more; the others may have none yet.

    Raises:
        UnfinishedError: It still is.
    """

    def look(progress: Progress) -> bool | None:
        try:
            cluster = client.get("/cluster")
        except CommandError:
            return None
        members = cluster.get("members", [])
        leads = any(m["name"] == node and m["role"] == "leader" for m in members)
        if leads:
            progress.say(f"{node} hands the role over")
        return None if leads else True

    wait_for(look, what=f"{node} to give the primary role up", within_s=wait_s)


def how_far(operation: Mapping[str, Any]) -> str:
    """Return in words how far an operation has come that has no outcome yet."""
    if operation.get("due_at"):
        return f"scheduled for {operation['due_at']}"
    doing = operation.get("progress")
    stands = "begun" if operation.get("begun") else "being prepared"
    return f"{stands}, {doing}" if doing else stands


def _operation(client: Client, order_id: str) -> Mapping[str, Any] | None:
    # A node that is busy for a moment is asked again.
    try:
        found = client.fetch(f"/operations/{order_id}")
    except RefusedError:
        return _directive(client, order_id)
    except CommandError:
        return None
    return found if isinstance(found, dict) else _directive(client, order_id)


def _directive(client: Client, order_id: str) -> Mapping[str, Any] | None:
    """Ask as releases before had it: not every node may run this one yet."""
    try:
        answer = client.get("/raft/directives")
    except CommandError:
        return None
    orders = answer.get("directives", [])
    return next((o for o in orders if o.get("id") == order_id), None)
