"""Tables for people: columns of plain text, wide as their widest value."""

from collections.abc import Collection, Sequence
from typing import Final

GAP: Final = "  "
NOTHING: Final = "-"


def render_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Collection[str] = (),
) -> str:
    """Return a table as lines; None is shown as a dash.

    Args:
        headings: One a column.
        rows: The values of each line, as many as there are headings.
        right: Headings of the columns that are set to the right: numbers.
    """
    cells = [[_text(value) for value in row] for row in rows]
    widths = [
        max(len(heading), *(len(row[at]) for row in cells)) if cells else len(heading)
        for at, heading in enumerate(headings)
    ]
    shown = [h.upper() for h in headings]
    lines = []
    for row in (shown, *cells):
        padded = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        lines.append(GAP.join(padded).rstrip())
    return "\n".join(lines)


def _text(value: object) -> str:
    if value is None or value == "":
        return NOTHING
    # A name that a node reports must not move the cursor of whoever looks.
    return "".join(c if c.isprintable() else "?" for c in str(value))
