"""A host's neighbour cache, asked of its kernel: rtnetlink(7), RTM_GETNEIGH."""

import socket
import struct
from typing import Final

_RTM_NEWNEIGH: Final = 28
_RTM_GETNEIGH: Final = 30
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
# struct ndmsg: family, padding, interface, state, flags, type.
_NEIGHBOUR: Final = struct.Struct("=BBHiHBB")
_READ_BYTES: Final = 65_536
_ANSWER_S: Final = 1.0


class Neighbours:
    """The cache of the namespace in which it is made."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(_ANSWER_S)

    def hardware(self, address: str) -> str:
        """Return the hardware address that is cached for ``address``; empty: none."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        wanted = socket.inet_pton(family, address)
        body = _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0, 0)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, _RTM_GETNEIGH, flags, 1, 0) + body)
        found = ""
        while True:
            for kind, message in _messages(self._socket.recv(_READ_BYTES)):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                if kind == _RTM_NEWNEIGH:
                    told = _attributes(message[_NEIGHBOUR.size :])
                    if told.get(_NDA_DST) == wanted and _NDA_LLADDR in told:
                        found = told[_NDA_LLADDR].hex(":")


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            break
        found.append((kind, data[_HEADER.size : length]))
        data = data[(length + 3) & ~3 :]
    return found


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            break
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found
