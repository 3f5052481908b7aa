"""The machine's addresses, listed and removed: rtnetlink(7), by hand.

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

# struct nlmsghdr: length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
# struct ifaddrmsg: family, prefix length, flags, scope, interface.
_ADDRESS = struct.Struct("=BBBBI")


def remove(wanted: "frozenset[bytes]", say: "Callable[[str], None]") -> int:
    """Remove these addresses wherever they are set; return how many were there.

    Raises:
        OSError: The kernel refused, or did not answer.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.settimeout(ANSWER_S)
        sock.bind((0, 0))
        found = [f for f in dump(sock) if f[0] in wanted]
        for address, described in found:
            _delete(sock, address, described)
            say(f"removed address {_printable(address)}")
        return len(found)
    finally:
        sock.close()


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


def _printable(address: bytes) -> str:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)


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
