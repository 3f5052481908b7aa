"""The PROXY protocol, version 2: who the client of a balancer is. Pure.

Source: "The PROXY protocol", Willy Tarreau, section 2.2.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_HEADER: Final = struct.Struct("!12sBBH")
_PORTS: Final = struct.Struct("!HH")
# Addresses and whatever a balancer may add to them.
_BODY_BYTES_MAX: Final = 1_024
_VERSION: Final = 2
_LOCAL, _PROXIED = 0, 1
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_BYTES: Final = {_TCP4: 4, _TCP6: 16}


# What a connection begins with that is made for nobody else.
LOCAL_HEADER: Final = _HEADER.pack(SIGNATURE, _VERSION << 4 | _LOCAL, 0, 0)


@dataclass(frozen=True, slots=True)
class Header:
    """What a balancer says of a connection."""

    length: int
    address: str
    """The client's; empty: the balancer speaks for itself, as in a health check."""


def parse_header(received: bytes | bytearray) -> Header | str | None:
    """Read the header that a connection begins with.

    Returns:
        The header, or what is wrong with it in words; None: more has to come.
    """
    if not SIGNATURE.startswith(received[:12]):
        return "The connection does not begin with a header of PROXY protocol 2."
    if len(received) < _HEADER.size:
        return None
    _, version, family, length = _HEADER.unpack_from(received)
    if version >> 4 != _VERSION or version & 15 > _PROXIED or length > _BODY_BYTES_MAX:
        return "The header of the PROXY protocol makes no sense."
    end = _HEADER.size + length
    if len(received) < end:
        return None
    size = _ADDRESS_BYTES.get(family, 0)
    if version & 15 == _LOCAL or not size:
        return Header(end, "")
    if length < 2 * size + _PORTS.size:
        return "The header of the PROXY protocol is too short."
    raw = bytes(received[_HEADER.size : _HEADER.size + size])
    return Header(end, str(_unmapped(ip_address(raw))))


def missing_bytes(received: bytes | bytearray) -> int:
    """Return how much has to come at least until a header is whole; 0: it is.

    What follows it may be a handshake, which somebody else reads.
    """
    if len(received) < _HEADER.size:
        return _HEADER.size - len(received)
    return max(_HEADER.size + int(_HEADER.unpack_from(received)[3]) - len(received), 0)


def render_header(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """Build the header that tells a server whom it serves."""
    ends = [ip_address(host.partition("%")[0]) for host, _ in (source, destination)]
    plain = [_unmapped(end) for end in ends]
    family = _TCP4
    if any(end.version == 6 for end in plain):
        family = _TCP6
        plain = [_mapped(end) for end in plain]
    body = b"".join(end.packed for end in plain)
    body += _PORTS.pack(source[1], destination[1])
    command = _VERSION << 4 | _PROXIED
    return _HEADER.pack(SIGNATURE, command, family, len(body)) + body


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    if isinstance(address, IPv6Address):
        return address
    return IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
