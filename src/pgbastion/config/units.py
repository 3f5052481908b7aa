"""Sizes and durations as people write them: always with a unit.

Pure. Sizes follow PostgreSQL's own files: kB, MB, GB and TB are powers of 1024, and so
are KiB, MiB, GiB and TiB.
"""

import re
from typing import Final

DURATION_UNITS: Final = {
    "ms": 1,
    "s": 1_000,
    "min": 60_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
}
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1 << 10,
    "KB": 1 << 10,
    "KiB": 1 << 10,
    "MB": 1 << 20,
    "MiB": 1 << 20,
    "GB": 1 << 30,
    "GiB": 1 << 30,
    "TB": 1 << 40,
    "TiB": 1 << 40,
}
# Room for everything that makes sense, and no overflow anywhere behind it.
DURATION_MS_MAX: Final = 366 * DURATION_UNITS["d"]
SIZE_BYTES_MAX: Final = 1 << 50

_PART: Final = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?([A-Za-z]+)", re.ASCII)


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds of ``text``: "250ms", "1.5s", "1m30s", "2h", "1d".

    Raises:
        ValueError: There is no unit, an unknown one, a fraction of a millisecond, or
            more than `DURATION_MS_MAX`; the message says how to write it.
    """
    total_ms = _parse(text, DURATION_UNITS, "a duration such as 250ms, 5s or 1m30s")
    if total_ms > DURATION_MS_MAX:
        raise ValueError("longer than a year")
    return total_ms


def parse_size_bytes(text: str) -> int:
    """Return the bytes of ``text``: "512B", "8kB", "1MiB", "16MB", "1.5GB".

    Raises:
        ValueError: There is no unit, an unknown one, a fraction of a byte, or more than
            `SIZE_BYTES_MAX`; the message says how to write it.
    """
    total_bytes = _parse(text, SIZE_UNITS, "a size such as 512kB, 1MiB or 16MB")
    if total_bytes > SIZE_BYTES_MAX:
        raise ValueError("larger than 1024 TiB")
    return total_bytes


def render_duration(duration_ms: int) -> str:
    """Return the shortest text that `parse_duration_ms` reads as ``duration_ms``."""
    for unit in ("d", "h", "m", "s"):
        if duration_ms and duration_ms % DURATION_UNITS[unit] == 0:
            return f"{duration_ms // DURATION_UNITS[unit]}{unit}"
    return f"{duration_ms}ms" if duration_ms else "0s"


def render_size(size_bytes: int) -> str:
    """Return the shortest text that `parse_size_bytes` reads as ``size_bytes``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % SIZE_UNITS[unit] == 0:
            return f"{size_bytes // SIZE_UNITS[unit]}{unit}"
    return f"{size_bytes}B"


def _parse(text: str, units: dict[str, int], form: str) -> int:
    rest = text.strip()
    total = 0
    last_scale: int | None = None
    while rest:
        part = _PART.match(rest)
        if part is None:
            raise ValueError(f"not {form}")
        whole, fraction, unit = part.groups()
        scale = units.get(unit)
        if scale is None:
            raise ValueError(f'unknown unit "{unit}", write {form}')
        if last_scale is not None and scale >= last_scale:
            raise ValueError(f"units have to fall from left to right, write {form}")
        total += int(whole) * scale + _fraction(fraction, scale)
        last_scale = scale
        rest = rest[part.end() :]
    if last_scale is None:
        raise ValueError(f"not {form}")
    return total


def _fraction(digits: str | None, scale: int) -> int:
    """Return the part of ``scale`` that the decimal ``digits`` make, exactly."""
    if digits is None:
        return 0
    denominator: int = 10 ** len(digits)
    value, remainder = divmod(int(digits) * scale, denominator)
    if remainder:
        raise ValueError("too fine: not a whole number of the smallest unit")
    return value
