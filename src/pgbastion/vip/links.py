"""What the kernel tells of links and addresses, in words that need no netlink."""

from dataclasses import dataclass
from typing import Final

FOREVER: Final = 0xFFFFFFFF
"""A lifetime without an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """A network interface as the kernel has it now."""

    index: int
    name: str
    hardware: bytes
    up: bool
    carrier: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAddress:
    """An address that is set somewhere on this machine."""

    address: str
    prefix: int
    index: int
