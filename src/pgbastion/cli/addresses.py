"""Shows where the virtual addresses are."""

from collections.abc import Mapping
from typing import Any

from pgbastion.cli.tables import render_table


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
