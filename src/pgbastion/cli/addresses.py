"""Shows where the virtual addresses are, and moves one that is for replicas."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from pgbastion.cli.client import Client
from pgbastion.cli.progress import Progress, wait_for
from pgbastion.cli.tables import render_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an address for replicas has come to."""

    is_wanted: bool
    """It is where it was sent."""
    text: str
    facts: Mapping[str, Any]
    """As a node tells it."""


def is_of_primary(client: Client, address: str) -> bool:
    """Tell whether an address follows the primary role, as the asked node has it."""
    known = client.get("/vip")["addresses"]
    own = {a["address"] for a in known if a["role"] == "primary"}
    return _bare(address) in map(_bare, own)


def move_replica(client: Client, body: Mapping[str, str], *, wait_s: float) -> Place:
    """Send an address for replicas to another standby, and wait until one has it.

    Args:
        client: Whom to tell.
        body: Its ``address``, and ``to`` which node; to the best where that is missing.
        wait_s: How long to wait.

    Raises:
        CommandError: It was refused, or no node has it in time.
    """
    answer = client.order("/vip/move", body)
    name = answer["address"]

    def look(progress: Progress) -> Mapping[str, Any] | None:
        found: list[Mapping[str, Any]] = client.get("/vip")["replicas"]
        here = next((each for each in found if each["address"] == name), None)
        if here is None or here["state"] != "held":
            progress.say(here["state"] if here is not None else "nowhere")
            return None
        return here

    found = wait_for(look, what=f"{name} to be at {answer['to']}", within_s=wait_s)
    wanted = found["node"] == answer["to"]
    return Place(is_wanted=wanted, text=_replica(found), facts=found)


def _bare(address: str) -> str:
    """Return an address in its usual form and without its prefix length."""
    try:
        return str(ip_interface(address).ip)
    except ValueError:
        return address


def render_vip(found: Mapping[str, Any]) -> str:
    """Return the addresses of the asked node, and who holds them, as text."""
    lines = [f"{found['node']} has no virtual address configured"]
    if found["addresses"]:
        headings = ("address", "role", "interface", "state", "problem")
        rows = [[each[name] for name in headings] for each in found["addresses"]]
        lines = [f"addresses at {found['node']}", render_table(headings, rows)]
    lines += [f"{n['node']}: {n['problem']}" for n in found["nodes"] if n["problem"]]
    lines.append(f"held by {found['holder'] or 'nobody'}")
    lines += [_replica(each) for each in found["replicas"]]
    return "\n".join(lines)


def _replica(found: Mapping[str, Any]) -> str:
    line = f"{found['address']} for replicas: {found['state']}"
    if found["node"] is not None:
        line += f" at {found['node']} ({found['cause']})"
    return line
