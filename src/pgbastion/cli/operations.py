"""Shows what was ordered, and how far it has come."""

from collections.abc import Mapping, Sequence
from typing import Any

from pgbastion.cli.tables import render_table


def render_operations(operations: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each operation, the oldest first."""
    return render_table(
        ("id", "operation", "node", "state", "since", "ended", "detail"),
        [
            (
                operation["id"],
                operation["order"],
                operation["to"],
                operation["state"],
                operation["at"],
                operation["settled_at"],
                operation["progress"] or operation["detail"] or operation.get("due_at"),
            )
            for operation in operations
        ],
    )
