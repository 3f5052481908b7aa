"""Removes the virtual addresses when the lease has run out: rtnetlink(7), by hand.

Where an address is, the kernel is asked each time: an interface may have been renamed
or replaced since the daemon named it.
"""

import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
IFA_ADDRESS = 1
IFA_LOCAL = 2
# What the kernel answers by itself comes at once; this bounds what nobody expects.
ANSWER_S = 0.2
READ_BYTES = 65536
ADDRESSES_MAX = 64

# struct nlmsghdr: length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
# struct ifaddrmsg: family, prefix length, flags, scope, interface.
_ADDRESS = struct.Struct("=BBBBI")


class Removals:
    """What is to be removed, and the socket that does it.

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
            ValueError: One is no address, or they are too many.
        """
        if len(names) > ADDRESSES_MAX:
            raise ValueError(f"more than {ADDRESSES_MAX} addresses")
        self._packed = frozenset(map(packed, names))
        self.names = list(names)

    def keep(self, name: str, until_ns: int) -> None:
        """Remove one address from ``until_ns`` on, CLOCK_BOOTTIME; 0: leave it alone.

        Raises:
            ValueError: It is no address, or they are too many.
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
            return self._remove(wanted)
        except OSError as exc:
            self._log(f"addresses not removed: {exc}")
            return 0

    def _remove(self, wanted: "frozenset[bytes]") -> int:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            sock.settimeout(ANSWER_S)
            sock.bind((0, 0))
            found = [f for f in dump(sock) if f[0] in wanted]
            for address, described in found:
                _delete(sock, address, described)
                self._log(f"removed address {printable(address)}")
            return len(found)
        finally:
            sock.close()


def packed(name: str) -> bytes:
    """Return an address as the kernel has it.

    Raises:
        ValueError: It is none.
    """
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        return socket.inet_pton(family, name)
    except OSError as exc:
        raise ValueError(f"{name} is no address") from exc


def printable(address: bytes) -> str:
    """Return an address as people write it."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)


def dump(sock: socket.socket) -> "list[tuple[bytes, bytes]]":
    """Return every address of the machine, each with its ``ifaddrmsg``."""
    ask = _HEADER.pack(
        _HEADER.size + _ADDRESS.size, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0
    )
    sock.send(ask + _ADDRESS.pack(0, 0, 0, 0, 0))
    found: list[tuple[bytes, bytes]] = []
    while True:
        for kind, body in _messages(sock.recv(READ_BYTES)):
            if kind == NLMSG_DONE:
                return found
            if kind == NLMSG_ERROR:
                _check(body)
            if kind == RTM_NEWADDR:
                address = _own(body[_ADDRESS.size :])
                if address:
                    found.append((address, body[: _ADDRESS.size]))


def _delete(sock: socket.socket, address: bytes, described: bytes) -> None:
    attribute = struct.pack("=HH", 4 + len(address), IFA_LOCAL) + address
    body = described + attribute
    flags = NLM_F_REQUEST | NLM_F_ACK
    head = _HEADER.pack(_HEADER.size + len(body), RTM_DELADDR, flags, 2, 0)
    sock.send(head + body)
    for kind, answer in _messages(sock.recv(READ_BYTES)):
        if kind == NLMSG_ERROR:
            _check(answer)


def _check(body: bytes) -> None:
    """Raise what an error message says; 0 is an acknowledgement."""
    code = -struct.unpack_from("=i", body)[0]
    # EADDRNOTAVAIL, ENODEV: somebody else was faster.
    if code not in (0, 99, 19):
        raise OSError(code, "rtnetlink refused")


def _messages(data: bytes) -> "list[tuple[int, bytes]]":
    """Split what was received into messages: type and body."""
    found = []
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            break
        found.append((kind, data[_HEADER.size : length]))
        data = data[(length + 3) & ~3 :]
    return found


def _own(attributes: bytes) -> bytes:
    """Return the address of the machine itself: IFA_LOCAL, else IFA_ADDRESS."""
    found = b""
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if not 4 <= length <= len(attributes):
            break
        if kind == IFA_LOCAL or (kind == IFA_ADDRESS and not found):
            found = attributes[4:length]
        attributes = attributes[(length + 3) & ~3 :]
    return found
