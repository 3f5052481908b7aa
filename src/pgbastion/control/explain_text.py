"""An explanation as text for people: at most forty lines, the gravest first."""

from collections.abc import Sequence
from typing import Final

from pgbastion.model.explanation import Explanation

LINES_MAX: Final = 40
MORE: Final = "... and {} more: --json has them"


def render_explanation(explanation: Explanation) -> tuple[str, ...]:
    """Return the lines; the first says state and next step."""
    lines = [
        f"{explanation.state}. Next: {explanation.next_step}.",
        f"(as seen by {explanation.node}; Raft leader: {explanation.leader or 'none'})",
    ]
    others = [f"{other.node} {other.sentence}" for other in explanation.others]
    foreseen = [f"{each.node}: {each.sentence}" for each in explanation.foreseen]
    lines += _section("primary", explanation.primary_lines, 4)
    lines += _section("the others", others, 7)
    lines += _section("if a node died now", foreseen, 7)
    lines += _section("what blocks a failover", explanation.blocking or ("nothing",), 4)
    lines += _section("warnings", explanation.warnings, 7)
    return tuple(lines)


def _section(title: str, rows: Sequence[str], most: int) -> list[str]:
    shown = list(rows) or ["none"]
    if len(shown) > most:
        shown = [*shown[: most - 1], MORE.format(len(shown) - most + 1)]
    return [f"{title}:", *(f"  {row}" for row in shown)]
