"""A picture of the proxy's bench: for each work the ways as bars beside HAProxy."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_COLOURS: Final = {
    "direct": "#9aa5b1",
    "haproxy": "#e0a458",
    "userspace": "#5b8e7d",
    "kernel": "#2f5d8a",
}
_BAR: Final = 16
_LABEL_WIDTH: Final = 230
_SCALE_WIDTH: Final = 420
_WIDTH: Final = 800
_RATIO_MAX: Final = 2.0


def render_plot(
    title: str, rows: Sequence[tuple[str, Mapping[str, float]]], beside: str
) -> str:
    """Return an SVG document.

    Args:
        title: Its heading.
        rows: A work's name and its medians by way.
        beside: The way that is 1.00; the first one of a row where that is missing.
    """
    parts = [_text(12, 24, title, size=15)]
    top = 44
    for name, medians in rows:
        unit = medians.get(beside) or next(iter(medians.values()))
        parts.append(_text(12, top + 12, name))
        for way, value in medians.items():
            ratio = value / unit if unit else 0.0
            width = min(ratio, _RATIO_MAX) / _RATIO_MAX * _SCALE_WIDTH
            colour = _COLOURS.get(way, "#777777")
            parts.append(
                f'<rect x="{_LABEL_WIDTH}" y="{top}" width="{width:.1f}" '
                f'height="{_BAR - 3}" fill="{colour}"/>'
            )
            label = f"{way} {value:,.1f} ({ratio:.2f})"
            parts.append(_text(_LABEL_WIDTH + width + 6, top + 11, label, size=11))
            top += _BAR
        top += _BAR // 2
    one = _LABEL_WIDTH + _SCALE_WIDTH / _RATIO_MAX
    parts.append(
        f'<line x1="{one}" y1="36" x2="{one}" y2="{top}" stroke="#c0392b" '
        'stroke-dasharray="3 3"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top + 12}" '
        'font-family="sans-serif">\n'
        '<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(left: float, top: float, words: str, size: int = 12) -> str:
    return f'<text x="{left:.1f}" y="{top}" font-size="{size}">{escape(words)}</text>'
