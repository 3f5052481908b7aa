"""Shows the history of the primary role."""

from collections.abc import Mapping, Sequence
from typing import Any

from pgbastion.cli.tables import render_table


def render_history(changes: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each change of the primary, the oldest first."""
    return render_table(
        ("time", "epoch", "primary", "before", "timeline", "gap", "sessions", "why"),
        [
            (
                change["assigned_at"],
                change["epoch"],
                change["node"],
                change["former"],
                change["timeline"],
                _gap(change["gap_ms"]),
                change["sessions_closed"],
                _why(change),
            )
            for change in changes
        ],
        right=("epoch", "timeline", "gap", "sessions"),
    )


def _gap(gap_ms: int | None) -> str | None:
    return None if gap_ms is None else f"{gap_ms} ms"


def _why(change: Mapping[str, Any]) -> str:
    vouched = change["vouched_by"]
    return f"{change['sentence']}{f', vouched by {vouched}' if vouched else ''}"
