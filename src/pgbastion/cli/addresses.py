"""Shows where the virtual addresses are."""

from collections.abc import Mapping
from typing import Any

from pgbastion.cli.tables import render_table


def render_vip(found: Mapping[str, Any]) -> str:
    """Return the addresses of the asked node, and who holds them, as text."""
    lines = [f"{found['node']} has no virtual address configured"]
    if found["addresses"]:
        headings = ("address", "interface", "state", "problem")
        rows = [[each[name] for name in headings] for each in found["addresses"]]
        lines = [f"addresses at {found['node']}", render_table(headings, rows)]
    lines += [f"{n['node']}: {n['problem']}" for n in found["nodes"] if n["problem"]]
    return "\n".join([*lines, f"held by {found['holder'] or 'nobody'}"])
