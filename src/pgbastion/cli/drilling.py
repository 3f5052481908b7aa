"""Rehearses a change of the primary on the real cluster, and tells what it cost."""

from collections.abc import Mapping
from typing import Any

from pgbastion.cli.client import Client
from pgbastion.cli.ordering import DONE, carry_out
from pgbastion.cli.problems import CommandError
from pgbastion.cli.progress import Progress, wait_for


def foretell(client: Client, what: str) -> Mapping[str, Any]:
    """Return what a node says of the order that a rehearsal would give now.

    Raises:
        CommandError: It would be refused.
    """
    if what == "switchover":
        return client.order("/cluster/switchover", {}, dry_run=True)
    primary = _primary_that_may_fail(client)
    body = {"node": primary, "force": True}
    return client.order("/cluster/fence", body, dry_run=True)


def render_prospect(answer: Mapping[str, Any]) -> str:
    """Return what a rehearsal would do, for people."""
    if "node" in answer:
        return f"{answer['node']} would stop, and a standby take its role over"
    return f"the role would go to {answer['to']}"


def rehearse_switchover(client: Client, *, wait_s: float) -> Mapping[str, Any]:
    """Move the role to the best standby, and return the history's record of it.

    Raises:
        CommandError: It was refused, failed, or was not finished in time.
    """
    before = client.get("/cluster")
    what = "switchover to the best standby"
    found = carry_out(client, "/cluster/switchover", {}, what=what, wait_s=wait_s)
    if found["outcome"] != DONE:
        raise CommandError(f"{what}: {found['outcome']} {found['detail']}".rstrip())
    return _measured(client, int(before["epoch"]), wait_s)


def rehearse_failover(client: Client, *, wait_s: float) -> Mapping[str, Any]:
    """Stop the primary without any preparation, and return the record of what follows.

    The former primary is fenced for as long as that takes, and freed in any case.

    Raises:
        CommandError: It was refused, or was not finished in time.
    """
    before = client.get("/cluster")
    primary = _primary_that_may_fail(client)
    try:
        # Whether it was fenced may be unknown: it is freed then as well.
        client.order("/cluster/fence", {"node": primary, "force": True})
        return _measured(client, int(before["epoch"]), wait_s)
    finally:
        client.order("/cluster/unfence", {"node": primary})


def _primary_that_may_fail(client: Client) -> str:
    cluster = client.get("/cluster")
    primary = cluster["primary"]
    if primary is None:
        raise CommandError("there is no primary that could fail")
    if not any(_could_follow(m) for m in cluster["members"]):
        raise CommandError("no standby could take the role over: nothing was done")
    return str(primary)


def _could_follow(member: Mapping[str, Any]) -> bool:
    synchronous = member["role"] in ("sync_standby", "quorum_standby")
    return synchronous and member["state"] == "streaming" and not member.get("fenced")


def _measured(client: Client, epoch: int, wait_s: float) -> Mapping[str, Any]:
    """Wait until the cluster has noted for how long a later epoch stopped writes."""

    def look(progress: Progress) -> Mapping[str, Any] | None:
        # A node that is busy for a moment is asked again.
        try:
            changes = client.get("/cluster/history")["changes"]
        except CommandError:
            return None
        newest = changes[-1] if changes else None
        if newest is None or newest["epoch"] <= epoch:
            progress.say("no new primary yet")
            return None
        progress.say(f"{newest['node']} is the new primary")
        return newest if newest["gap_ms"] is not None else None

    return wait_for(look, what="the measured gap", within_s=wait_s)


def render_drill(change: Mapping[str, Any]) -> str:
    """Return what a rehearsal has shown, for people."""
    return (
        f"{change['former']} -> {change['node']}, epoch {change['epoch']}: writes "
        f"stopped for {change['gap_ms']} ms, {change['sessions_closed']} sessions ended"
    )
