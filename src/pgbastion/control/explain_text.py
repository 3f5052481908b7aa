"""An explanation as text for people: at most forty lines, the gravest first."""

from collections.abc import Sequence
from typing import Final

from pgbastion.model.explanation import Explanation

LINES_MAX: Final = 40
MORE: Final = "... and {} more: --json has them"


def render_explanation(told: Explanation) -> tuple[str, ...]:
    """Return the lines; the first says state and next step."""
    lines = [
        f"{told.state}. Next: {told.next_step}.",
        f"(told by {told.node}; Raft leader: {told.leader or 'none'})",
    ]
    lines += _section("primary", told.primary_lines, 4)
    lines += _section("the others", [f"{s.node} {s.sentence}" for s in told.others], 7)
    lines += _section(
        "if a node died now", [f"{f.node}: {f.sentence}" for f in told.foreseen], 7
    )
    lines += _section("what blocks a failover", told.blocking or ("nothing",), 4)
    lines += _section("warnings", told.warnings, 7)
    return tuple(lines)


def _section(title: str, rows: Sequence[str], most: int) -> list[str]:
    shown = list(rows) or ["none"]
    if len(shown) > most:
        shown = [*shown[: most - 1], MORE.format(len(shown) - most + 1)]
    return [f"{title}:", *(f"  {row}" for row in shown)]
