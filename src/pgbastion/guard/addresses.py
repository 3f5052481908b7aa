"""The virtual addresses that go when the lease has run out."""

import socket

from pgbastion.platform.choice import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESSES_MAX = 64


class Removals:
    """What is to be removed.

    Some addresses go with the primary's lease; each of the others has an end of its
    own, which whoever keeps it puts off.

    Args:
        log: Writes a line.
    """

    __slots__ = ("_kept", "_log", "_packed", "names")

    def __init__(self, log: "Callable[[str], None]") -> None:
        self._log = log
        self.names: list[str] = []
        self._packed: frozenset[bytes] = frozenset()
        self._kept: dict[bytes, int] = {}

    def set(self, names: list[str]) -> None:
        """Take the addresses, in place of those named before.

        Raises:
            ValueError: One is not an address, or they are too many.
        """
        if len(names) > ADDRESSES_MAX:
            raise ValueError(f"more than {ADDRESSES_MAX} addresses")
        self._packed = frozenset(map(packed, names))
        self.names = list(names)

    def keep(self, name: str, until_ns: int) -> None:
        """Remove one address from ``until_ns`` on, CLOCK_BOOTTIME; 0: leave it alone.

        Raises:
            ValueError: It is not an address, or they are too many.
        """
        address = packed(name)
        if not until_ns:
            self._kept.pop(address, None)
            return
        if address not in self._kept and len(self._kept) >= ADDRESSES_MAX:
            raise ValueError(f"more than {ADDRESSES_MAX} addresses")
        self._kept[address] = until_ns

    def next_end_ns(self, now_ns: int) -> "int | None":
        """Return when the next address of its own end has to go."""
        return min((end for end in self._kept.values() if end > now_ns), default=None)

    def remove(self) -> int:
        """Remove those that go with the lease; return how many were there.

        What fails is logged, and tried again at the next look.
        """
        return self._try(self._packed)

    def remove_kept(self, now_ns: int) -> int:
        """Remove those whose own end has come; return how many were there."""
        return self._try(frozenset(a for a, end in self._kept.items() if end <= now_ns))

    def _try(self, wanted: "frozenset[bytes]") -> int:
        if not wanted:
            return 0
        try:
            return current().remove_addresses(wanted, self._log)
        except OSError as exc:
            self._log(f"addresses not removed: {exc}")
            return 0


def packed(name: str) -> bytes:
    """Return an address as the kernel has it.

    Raises:
        ValueError: It is none.
    """
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        return socket.inet_pton(family, name)
    except OSError as exc:
        raise ValueError(f"{name} is not an address") from exc
