"""ARP and neighbour discovery, as bytes. Pure.

Every frame is built field by field as its document says: RFC 826 (ARP), RFC 5227
(probes and announcements), RFC 4861 (neighbour advertisement), RFC 4862 (duplicate
address detection).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

BROADCAST: Final = b"\xff" * 6
NOBODY: Final = b"\x00" * 6
ETHERNET_BYTES: Final = 14
ARP_BYTES: Final = 28
ETHER_ARP: Final = 0x0806
ETHER_IPV6: Final = 0x86DD
HARDWARE_ETHERNET: Final = 1
PROTOCOL_IPV4: Final = 0x0800
NEXT_ICMPV6: Final = 58
# RFC 4861, 7.1: a receiver drops what may have been forwarded.
HOP_LIMIT: Final = 255
SOLICITATION: Final = 135
ADVERTISEMENT: Final = 136
FLAG_OVERRIDE: Final = 0x20000000
OPTION_TARGET_LINK_ADDRESS: Final = 2
IPV6_BYTES: Final = 40
ADVERTISEMENT_BYTES: Final = 24
ALL_NODES: Final = IPv6Address("ff02::1")
UNSPECIFIED: Final = IPv6Address("::")
_SOLICITED_PREFIX: Final = int(IPv6Address("ff02::1:ff00:0"))

_ETHERNET: Final = struct.Struct("!6s6sH")
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")


class Operation(IntEnum):
    """RFC 826's ``ar$op``."""

    REQUEST = 1
    REPLY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Arp:
    """An ARP packet for IPv4 over Ethernet."""

    operation: int
    sender_hardware: bytes
    sender: IPv4Address
    target_hardware: bytes
    target: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """A neighbour advertisement."""

    sender_hardware: bytes
    """The frame's source."""
    target: IPv6Address
    target_hardware: bytes
    """Of the option; the frame's source where there is none."""


def gratuitous_request(hardware: bytes, address: IPv4Address) -> bytes:
    """Return an ARP announcement in the form of a request.

    Source:
        RFC 5227, 2.3: as a probe, but sender and target are both the address.
    """
    return _arp(Operation.REQUEST, hardware, address, NOBODY, address)


def gratuitous_reply(hardware: bytes, address: IPv4Address) -> bytes:
    """Return a gratuitous ARP reply, for hosts that heed no other form.

    Source:
        RFC 5944, 4.6: the target's hardware address is the one to be cached.
    """
    return _arp(Operation.REPLY, hardware, address, hardware, address)


def arp_probe(hardware: bytes, address: IPv4Address) -> bytes:
    """Return an ARP probe: who has the address, asked by nobody.

    Source:
        RFC 5227, 2.1.1: the sender's address is all zeroes, so that no cache is
        polluted; the target's hardware address is ignored and zero.
    """
    return _arp(Operation.REQUEST, hardware, IPv4Address(0), NOBODY, address)


def unsolicited_advertisement(hardware: bytes, address: IPv6Address) -> bytes:
    """Return an unsolicited neighbour advertisement to all nodes.

    Source:
        RFC 4861, 4.4 and 7.2.6: Solicited 0, Override 1, the target's link-layer
        address as an option; from the address itself.
    """
    body = struct.pack("!I16s", FLAG_OVERRIDE, address.packed)
    option = struct.pack("!BB6s", OPTION_TARGET_LINK_ADDRESS, 1, hardware)
    return _icmpv6(hardware, address, ALL_NODES, ADVERTISEMENT, body + option)


def duplicate_solicitation(hardware: bytes, address: IPv6Address) -> bytes:
    """Return a neighbour solicitation of duplicate address detection.

    Source:
        RFC 4862, 5.4.2: from the unspecified address to the solicited-node group,
        without the option of the source's link-layer address.
    """
    body = struct.pack("!I16s", 0, address.packed)
    group = solicited_node(address)
    return _icmpv6(hardware, UNSPECIFIED, group, SOLICITATION, body)


def solicited_node(address: IPv6Address) -> IPv6Address:
    """Return the group that a holder of ``address`` listens on (RFC 4291, 2.7.1)."""
    return IPv6Address(_SOLICITED_PREFIX | int(address) & 0xFFFFFF)


def group_hardware(group: IPv6Address) -> bytes:
    """Return the Ethernet address of an IPv6 group (RFC 2464, 7)."""
    return b"\x33\x33" + group.packed[12:]


def parse_arp(frame: bytes) -> Arp | None:
    """Read an ARP packet for IPv4 over Ethernet; None: it is none, or cut short."""
    if len(frame) < ETHERNET_BYTES + ARP_BYTES:
        return None
    if _ETHERNET.unpack_from(frame)[2] != ETHER_ARP:
        return None
    fields = _ARP.unpack_from(frame, ETHERNET_BYTES)
    if fields[:4] != (HARDWARE_ETHERNET, PROTOCOL_IPV4, 6, 4):
        return None
    return Arp(
        operation=fields[4],
        sender_hardware=fields[5],
        sender=IPv4Address(fields[6]),
        target_hardware=fields[7],
        target=IPv4Address(fields[8]),
    )


def parse_advertisement(frame: bytes) -> Advertisement | None:
    """Read a neighbour advertisement; None: it is none, or not valid.

    Source:
        RFC 4861, 7.1.2: hop limit, code, checksum, length and target are checked.
    """
    least = ETHERNET_BYTES + IPV6_BYTES + ADVERTISEMENT_BYTES
    if len(frame) < least:
        return None
    _, source_hardware, kind = _ETHERNET.unpack_from(frame)
    _, length, following, hops, source, destination = _IPV6.unpack_from(
        frame, ETHERNET_BYTES
    )
    if (kind, following, hops) != (ETHER_IPV6, NEXT_ICMPV6, HOP_LIMIT):
        return None
    message = frame[ETHERNET_BYTES + IPV6_BYTES :][:length]
    if len(message) < max(length, ADVERTISEMENT_BYTES):
        return None
    target = IPv6Address(message[8:24])
    is_whole = message[:2] == bytes((ADVERTISEMENT, 0)) and not target.is_multicast
    if not is_whole or _checksum(source, destination, message) != 0:
        return None
    return Advertisement(
        sender_hardware=source_hardware,
        target=target,
        target_hardware=_target_option(message[24:]) or source_hardware,
    )


def hardware_text(hardware: bytes) -> str:
    """Return a hardware address as people write it."""
    return hardware.hex(":")


def _target_option(options: bytes) -> bytes | None:
    while len(options) >= 2:
        kind, length = options[0], 8 * options[1]
        if length == 0 or length > len(options):
            return None
        if kind == OPTION_TARGET_LINK_ADDRESS:
            return options[2:8]
        options = options[length:]
    return None


def _arp(
    operation: Operation,
    sender_hardware: bytes,
    sender: IPv4Address,
    target_hardware: bytes,
    target: IPv4Address,
) -> bytes:
    return _ETHERNET.pack(BROADCAST, sender_hardware, ETHER_ARP) + _ARP.pack(
        HARDWARE_ETHERNET,
        PROTOCOL_IPV4,
        6,
        4,
        operation,
        sender_hardware,
        sender.packed,
        target_hardware,
        target.packed,
    )


def _icmpv6(
    hardware: bytes, source: IPv6Address, group: IPv6Address, kind: int, body: bytes
) -> bytes:
    bare = struct.pack("!BBH", kind, 0, 0) + body
    checksum = _checksum(source.packed, group.packed, bare)
    message = struct.pack("!BBH", kind, 0, checksum) + body
    header = _IPV6.pack(
        6 << 28, len(message), NEXT_ICMPV6, HOP_LIMIT, source.packed, group.packed
    )
    frame = _ETHERNET.pack(group_hardware(group), hardware, ETHER_IPV6)
    return frame + header + message


def _checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """Return the checksum with the pseudo-header of RFC 8200, 8.1; 0 if it is right."""
    pseudo = struct.pack("!16s16sII", source, destination, len(message), NEXT_ICMPV6)
    data: bytes = pseudo + message + b"\0" * (len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
