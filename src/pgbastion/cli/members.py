"""Takes nodes into the cluster and out of it, and waits for what comes of it.

Each returns what a program is told; the words for people are made from that.
"""

from collections.abc import Mapping
from typing import Any, Final

from pgbastion.cli.client import Client
from pgbastion.cli.ordering import DONE, carry_out
from pgbastion.cli.problems import CommandError
from pgbastion.cli.progress import Progress, wait_for
from pgbastion.config.types import parse_peer
from pgbastion.model.cluster import join_host_port

HAND_OVER: Final = "/cluster/switchover"

Answer = Mapping[str, Any]


def add_node(
    client: Client, name: str, address: str, *, dry_run: bool = False
) -> Answer:
    """Announce a node."""
    body = {"id": name, "address": address}
    answer = client.order("/raft/add-peer", body, dry_run=dry_run)
    return {**answer, "address": address}


def foretell_removal(client: Client, name: str) -> Answer:
    """Return what taking a node out would do.

    Raises:
        CommandError: It would be refused.
    """
    if client.get("/cluster").get("primary") == name:
        # As the primary it cannot be removed: what follows is known only then.
        answer = client.order(HAND_OVER, {}, dry_run=True)
        return {"id": name, "switchover": answer, "dry_run": True}
    return client.order("/raft/remove-peer", {"id": name}, dry_run=True)


def remove_node(client: Client, name: str, wait_s: float) -> Answer:
    """Take a node out; a primary hands its role on first.

    Raises:
        CommandError: It was refused, or is not finished in time.
    """
    done = {}
    if client.get("/cluster").get("primary") == name:
        done["switchover"] = _hand_role_on(client, name, wait_s)
    removed = client.order("/raft/remove-peer", {"id": name})
    member_id = removed.get("member_id")
    wait_for(
        lambda progress: _has_left(client, member_id, progress),
        what=f"{name} to leave the Raft group",
        within_s=wait_s,
    )
    return {**removed, **done}


def foretell_replacement(client: Client, name: str, address: str) -> Answer:
    """Return what putting another machine in a node's place would do.

    Raises:
        CommandError: It would be refused.
    """
    _check_free(client, name, address)
    return {"removed": foretell_removal(client, name), "address": address}


def replace_node(client: Client, name: str, address: str, wait_s: float) -> Answer:
    """Take a node out and expect another of its name at ``address``.

    Raises:
        CommandError: It was refused, or is not finished in time.
    """
    # What would refuse the new one must not cost the old one.
    _check_free(client, name, address)
    removed = remove_node(client, name, wait_s)
    return {"removed": removed, "added": add_node(client, name, address)}


def _check_free(client: Client, name: str, address: str) -> None:
    try:
        wanted = join_host_port(*parse_peer(address))
    except ValueError as exc:
        raise CommandError(f"{address}: {exc}; nothing was changed") from exc
    for peer in client.get("/raft/peers")["peers"]:
        if peer["address"] == wanted and peer["id"] != name:
            raise CommandError(f"{wanted} is that of {peer['id']}; nothing was changed")


def _hand_role_on(client: Client, name: str, wait_s: float) -> Answer:
    what = f"switchover from {name}"
    found = carry_out(client, HAND_OVER, {}, what=what, wait_s=wait_s)
    if found["outcome"] not in (DONE, "other_chosen"):
        raise CommandError(
            f"{name} is the primary and could not hand its role on "
            f"({found['outcome']} {found['detail']}); nothing was removed"
        )
    return found


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


# Words


def describe_addition(answer: Answer) -> str:
    """Return what came of announcing a node, and what to do next."""
    who = f"{answer.get('id')} at {answer['address']}"
    member = f"expected as member {answer.get('member_id')}"
    if answer.get("dry_run"):
        return f"{who} would be {member}"
    return (
        f"{who} is {member}: start its daemon, it joins as a learner and votes once it "
        "has caught up"
    )


def describe_removal(answer: Answer) -> str:
    """Return what came of taking a node out, or would come of it."""
    name, moved = answer.get("id"), answer.get("switchover")
    if answer.get("dry_run"):
        if moved is not None:
            return f"{moved['to']} would be the primary, then {name} would leave"
        return f"{name} (member {answer.get('member_id')}) would leave the cluster"
    first = f"{moved['to']} is the primary; " if moved is not None else ""
    return f"{first}{name} (member {answer.get('member_id')}) has left the cluster"


def describe_replacement(answer: Answer) -> str:
    """Return what came of replacing a node, or would come of it."""
    removed = describe_removal(answer["removed"])
    if "added" in answer:
        return f"{removed}; {describe_addition(answer['added'])}"
    name = answer["removed"].get("id")
    return f"{removed}\nanother {name} at {answer['address']} would be expected"
