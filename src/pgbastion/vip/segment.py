"""The network segment of one interface: announcements out, claims of others in.

Frames go past the kernel's own ARP and neighbour code, by packet sockets: packet(7).
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from pgbastion.errors import VipError
from pgbastion.vip import packets
from pgbastion.vip.links import LinkFacts

Claim = Callable[[str, str], None]
"""Told an address and the hardware address of whoever says that it has it."""

_SO_ATTACH_FILTER: Final = 26
_PACKET_OUTGOING: Final = 4
_FRAME_BYTES: Final = 1_514
_AT_ONCE: Final = 64
# Classic BPF: load a byte, jump if equal, return; linux/bpf_common.h. A host with much
# IPv6 traffic must not wake the daemon for each packet: ICMPv6 advertisements only.
_ADVERTISEMENTS: Final = (
    (0x30, 0, 0, 20),
    (0x15, 0, 3, packets.NEXT_ICMPV6),
    (0x30, 0, 0, 54),
    (0x15, 0, 1, packets.ADVERTISEMENT),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)


class Segment:
    """Packet sockets of one interface.

    Args:
        index: The interface.
        on_claim: Called in the event loop for each frame of somebody else's that says
            that it has an address.
    """

    def __init__(self, index: int, name: str, on_claim: Claim) -> None:
        self.index = index
        self._name = name
        self._on_claim = on_claim
        self._sockets: dict[int, socket.socket] = {}

    def open(self) -> None:
        """Open the sockets.

        Raises:
            VipError: The kernel refused; the message names what is missing.
        """
        try:
            for kind in (packets.ETHER_ARP, packets.ETHER_IPV6):
                self._sockets[kind] = self._listen(kind)
        except PermissionError as exc:
            self.close()
            why = "CAP_NET_RAW is missing"
            raise VipError(f"no frames on {self._name}: {why}") from exc
        except OSError as exc:
            self.close()
            raise VipError(f"no frames on {self._name}: {exc.strerror}") from exc

    def _listen(self, kind: int) -> socket.socket:
        flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        # Bound first to no protocol: nothing comes before the filter is there.
        listener = socket.socket(socket.AF_PACKET, flags, 0)
        try:
            if kind == packets.ETHER_IPV6:
                _attach(listener, _ADVERTISEMENTS)
            listener.bind((self._name, kind))
        except OSError:
            listener.close()
            raise
        asyncio.get_running_loop().add_reader(listener, self._hear, listener)
        return listener

    def announce(self, address: str, hardware: bytes) -> None:
        """Tell every host on the segment once who has ``address``.

        Raises:
            VipError: The kernel refused the frame.
        """
        value = ip_address(address)
        if isinstance(value, IPv4Address):
            self._send(packets.gratuitous_request(hardware, value))
            self._send(packets.gratuitous_reply(hardware, value))
        else:
            self._send(packets.unsolicited_advertisement(hardware, value))

    def probe(self, address: str, hardware: bytes) -> None:
        """Ask once who has ``address``; answers come as claims.

        Raises:
            VipError: The kernel refused the frame.
        """
        value = ip_address(address)
        if isinstance(value, IPv4Address):
            self._send(packets.arp_probe(hardware, value))
        else:
            self._send(packets.duplicate_solicitation(hardware, value))

    def close(self) -> None:
        """Close the sockets; idempotent."""
        for listener in self._sockets.values():
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._sockets.clear()

    def _send(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        try:
            self._sockets[kind].send(frame)
        except BlockingIOError:
            # The interface's queue is full: the next announcement repeats it.
            return
        except OSError as exc:
            raise VipError(f"no frame leaves {self._name}: {exc.strerror}") from exc

    def _hear(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                frame, sender = listener.recvfrom(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # ENETDOWN: the interface went down; the watch hears of that too.
                return
            if sender[2] != _PACKET_OUTGOING:
                self._judge(frame)

    def _judge(self, frame: bytes) -> None:
        arp = packets.parse_arp(frame)
        if arp is not None:
            # A probe of somebody else's says nothing: its sender is nobody.
            if arp.sender != IPv4Address(0):
                hardware = packets.hardware_text(arp.sender_hardware)
                self._on_claim(str(arp.sender), hardware)
            return
        told = packets.parse_advertisement(frame)
        if told is not None:
            hardware = packets.hardware_text(told.target_hardware)
            self._on_claim(str(IPv6Address(told.target)), hardware)


class Segments:
    """The packet sockets of several interfaces, as far as those are there and up.

    Args:
        names: The interfaces.
        on_claim: Called for each claim that is heard on any of them.
    """

    def __init__(self, names: frozenset[str], on_claim: Claim) -> None:
        self._names = names
        self._on_claim = on_claim
        self._open: dict[str, Segment] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def __getitem__(self, name: str) -> Segment:
        return self._open[name]

    def tend(self, links: Mapping[str, LinkFacts]) -> list[str]:
        """Open and close what the links ask for; return those that were closed."""
        closed = []
        for name in self._names:
            link = links.get(name)
            index = link.index if link is not None and link.up else 0
            segment = self._open.get(name)
            if segment is not None and segment.index != index:
                segment.close()
                del self._open[name]
                closed.append(name)
            if index and name not in self._open:
                self._try(index, name)
        return closed

    def _try(self, index: int, name: str) -> None:
        segment = Segment(index, name, self._on_claim)
        with contextlib.suppress(VipError):
            segment.open()
            self._open[name] = segment

    def close(self) -> None:
        """Close all of them."""
        for segment in self._open.values():
            segment.close()
        self._open.clear()


def _attach(listener: socket.socket, program: tuple[tuple[int, ...], ...]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    # struct sock_fprog: the number of instructions and where they are.
    pointer = ctypes.addressof(buffer)
    described = struct.pack("HP", len(program), pointer)
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
