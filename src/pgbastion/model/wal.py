"""Positions in the write-ahead log."""

import re
from dataclasses import dataclass
from typing import Final, NewType

from pgbastion.model.ids import Timeline

Lsn = NewType("Lsn", int)
"""A byte position in the write-ahead log of one timeline."""

_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """Return the position that PostgreSQL writes as ``16/B374D848``.

    Raises:
        ValueError: The text has another form.
    """
    match = _LSN.fullmatch(text)
    if match is None:
        raise ValueError(f"not an LSN: {text!r}")
    return Lsn((int(match[1], 16) << 32) | int(match[2], 16))


def format_lsn(lsn: Lsn) -> str:
    """Return the position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class WalEnd:
    """The end of valid WAL on a disk.

    Ordered by timeline first: timeline ids rise with every epoch and never
    repeat, so an LSN is only ever compared with one of the same timeline.
    """

    timeline: Timeline
    lsn: Lsn

    def __str__(self) -> str:
        return f"{format_lsn(self.lsn)} on timeline {self.timeline}"
