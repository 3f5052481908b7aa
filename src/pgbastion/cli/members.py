"""Takes nodes into the cluster and out of it, and waits for what comes of it."""

from typing import Any, Final

from pgbastion.cli.client import Client
from pgbastion.cli.ordering import carry_out
from pgbastion.cli.problems import CommandError
from pgbastion.cli.progress import Progress, wait_for

HAND_OVER: Final = "/cluster/switchover"


def add_node(client: Client, name: str, address: str, *, dry_run: bool = False) -> str:
    """Announce a node; return what to do next."""
    body = {"id": name, "address": address}
    added = client.order("/raft/add-peer", body, dry_run=dry_run)
    if dry_run:
        member_id = added.get("member_id")
        return f"{name} at {address} would be expected as member {member_id}"
    return (
        f"{name} at {address} is expected as member {added.get('member_id')}: start "
        "its daemon, it joins as a learner and votes once it has caught up"
    )


def foretell_removal(client: Client, name: str) -> str:
    """Return what taking a node out would do.

    Raises:
        CommandError: It would be refused.
    """
    if client.get("/cluster").get("primary") == name:
        # As the primary it cannot be removed: what follows is known only then.
        told = client.order(HAND_OVER, {}, dry_run=True)
        return f"{told['to']} would be the primary, then {name} would leave"
    told = client.order("/raft/remove-peer", {"id": name}, dry_run=True)
    return f"{name} (member {told.get('member_id')}) would leave the cluster"


def remove_node(client: Client, name: str, wait_s: float) -> str:
    """Take a node out; a primary hands its role on first. Return what was done.

    Raises:
        CommandError: It was refused, or is not finished in time.
    """
    done = []
    cluster = client.get("/cluster")
    if cluster.get("primary") == name:
        found = carry_out(
            client, HAND_OVER, {}, what=f"switchover from {name}", wait_s=wait_s
        )
        if found["outcome"] not in ("done", "other_chosen"):
            raise CommandError(
                f"{name} is the primary and could not hand its role on "
                f"({found['outcome']} {found['detail']}); nothing was removed"
            )
        done.append(f"{found['to']} is the primary")
    removed = client.order("/raft/remove-peer", {"id": name})
    member_id = removed.get("member_id")
    wait_for(
        lambda progress: _has_left(client, member_id, progress),
        what=f"{name} to leave the Raft group",
        within_s=wait_s,
    )
    done.append(f"{name} (member {member_id}) has left the cluster")
    return "; ".join(done)


def replace_node(client: Client, name: str, address: str, wait_s: float) -> str:
    """Take a node out and expect another of its name at ``address``."""
    return f"{remove_node(client, name, wait_s)}; {add_node(client, name, address)}"


def _has_left(client: Client, member_id: object, progress: Progress) -> bool | None:
    # The node that is leaving may be the one that was asked: then the next answers.
    try:
        state: Any = client.get("/raft/state")
    except CommandError:
        return None
    progress.say(f"voters {state.get('voters')}, learners {state.get('learners')}")
    here = state.get("member_id") == member_id
    gone = member_id not in [*state.get("voters", ()), *state.get("learners", ())]
    return True if gone and not here else None
