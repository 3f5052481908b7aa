"""The kernel data path: its maps and program, and the sessions that use it."""

import os
import socket
import struct
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from contextlib import suppress
from typing import Final

from pgbastion.clock import boottime_ns
from pgbastion.errors import ProxyError
from pgbastion.proxy.kernel.bpf import (
    Map,
    MapType,
    Ring,
    SharedWords,
    attach_verdict_program,
    load_verdict_program,
    may_cut_pieces,
)
from pgbastion.proxy.kernel.flow import KernelFlow
from pgbastion.proxy.kernel.program import WORDS_PER_SLOT, build_program
from pgbastion.proxy.poller import Poller
from pgbastion.proxy.relay import Relay

_SO_COOKIE: Final = 57  # asm-generic/socket.h
_COOKIE_BYTES: Final = 8
_SLOT: Final = struct.Struct("@I")
_FD: Final = struct.Struct("@Q")

# Slots that are no direction's: nothing, the primary's lease, the others' lease.
_PRIMARY_LEASE_SLOT: Final = 1
_OTHER_LEASE_SLOT: Final = 2
_FIRST_SLOT: Final = 3
# Sessions with standbys are bound to no epoch. They have a lease too, so that a
# process that is frozen for long does not go on relaying behind its own back.
_OTHER_LEASE_NS: Final = 30_000_000_000

_TICK_S: Final = 0.05
_SLOW_TICK_S: Final = 5.0
# Ticks without a byte after which a session is left alone until it runs out of credit.
_IDLE_TICKS_MAX: Final = 40
# A program that runs on another processor may still write to a slot just given up.
_QUARANTINE_NS: Final = 1_000_000_000


class KernelPath:
    """Moves the bytes of adopted sessions inside the kernel.

    A session that the kernel refuses, or for which there is no slot, stays with its
    relay in user space. A session that is not busy costs nothing here: the credit that
    it has left lasts until it runs out, and running out is an event.
    """

    def __init__(
        self, loop: AbstractEventLoop, poller: Poller, sessions_max: int
    ) -> None:
        """Create the maps and load the program.

        Raises:
            ProxyError: The kernel refused; the message says what and why.
        """
        self._loop = loop
        self._poller = poller
        entries = self._entries = 2 * sessions_max + _FIRST_SLOT
        self._program_fd = -1
        self._opened: list[Map | SharedWords | Ring] = []
        self._timer: TimerHandle | None = None
        try:
            self._create_maps(entries)
            self._load_program()
        except OSError as exc:
            self.close()
            raise ProxyError(f"the kernel data path cannot be set up: {exc}") from exc
        except ProxyError:
            self.close()
            raise
        self._words = self._shared.words
        at = _PRIMARY_LEASE_SLOT * WORDS_PER_SLOT
        # Where the program reads the expiry of sessions with the primary.
        self.primary_lease_word = self._words[at : at + 1]
        self._unused_slot = _FIRST_SLOT
        # Slots that were in use, with the instant from which they may be so again.
        self._free: deque[tuple[int, int]] = deque()
        self._adopted: dict[Relay, tuple[KernelFlow, KernelFlow]] = {}
        self._cookies: dict[Relay, tuple[tuple[bytes, int], tuple[bytes, int]]] = {}
        self._by_slot: dict[int, KernelFlow] = {}
        # Sessions that move bytes now, with the ticks since they last did.
        self._busy: dict[Relay, int] = {}
        self._ticks_fast = False
        self.refused_total = 0
        poller.add_reader(self._alarms.map.fd, self._on_alarms)
        self._tick()

    @property
    def adopted(self) -> int:
        """How many sessions use this path now."""
        return len(self._adopted)

    def has_adopted(self, relay: Relay) -> bool:
        """Tell whether the kernel moves the bytes of ``relay``."""
        return relay in self._adopted

    def on_warm(self, relay: Relay) -> None:
        """Take note that ``relay`` moves bytes through user space; adopt it."""
        if relay not in self._adopted and not self._adopt(relay):
            return
        self._busy[relay] = 0
        if not self._ticks_fast:
            self._arm(_TICK_S)

    def release(self, relay: Relay) -> None:
        """Forget ``relay``, whose sockets are closed or about to be."""
        self._busy.pop(relay, None)
        if self._adopted.pop(relay, None) is None:
            return
        for cookie, slot in self._cookies.pop(relay):
            with suppress(OSError):
                self._slots.delete(cookie)
            self._by_slot.pop(slot, None)
            self._free.append((slot, boottime_ns() + _QUARANTINE_NS))

    def close(self) -> None:
        """Give everything up; the sockets in the map go on as ordinary ones."""
        if self._timer is not None:
            self._timer.cancel()
            self._poller.remove_reader(self._alarms.map.fd)
            self.primary_lease_word.release()
        for opened in self._opened:
            opened.close()
        self._opened.clear()
        if self._program_fd >= 0:
            os.close(self._program_fd)
            self._program_fd = -1

    def _create_maps(self, entries: int) -> None:
        self._slots = Map(
            MapType.HASH,
            key_bytes=_COOKIE_BYTES,
            value_bytes=_SLOT.size,
            entries=entries,
        )
        self._opened.append(self._slots)
        self._sockets = Map(
            MapType.SOCKHASH,
            key_bytes=_COOKIE_BYTES,
            value_bytes=_FD.size,
            entries=entries,
        )
        self._opened.append(self._sockets)
        self._shared = SharedWords(entries, WORDS_PER_SLOT)
        self._opened.append(self._shared)
        # Each direction has at most one alarm of each kind between two grants.
        self._alarms = Ring(2 * entries)
        self._opened.append(self._alarms)

    def _load_program(self) -> None:
        self._program_fd = load_verdict_program(
            build_program(
                slots_fd=self._slots.fd,
                words_fd=self._shared.map.fd,
                sockets_fd=self._sockets.fd,
                alarms_fd=self._alarms.map.fd,
                may_cut=may_cut_pieces(),
            )
        )
        attach_verdict_program(self._program_fd, self._sockets)

    def _adopt(self, relay: Relay) -> bool:
        """Hand the session's sockets to the program; tell whether that worked."""
        up, down = relay.up, relay.down
        if relay.is_opaque or up.ended or down.ended or up.waiting or down.waiting:
            return False
        slots = self._take_slot(), self._take_slot()
        flows = None
        try:
            flows = self._file(relay, slots)
        except OSError:
            self.refused_total += 1
        if flows is None:
            self._free.extend((slot, 0) for slot in slots if slot)
            return False
        up.halt()
        down.halt()
        relay.up, relay.down = flows
        self._adopted[relay] = flows
        for flow in flows:
            # Where a socket is broken, its own event tells the relay.
            rest = b""
            with suppress(OSError):
                rest = flow.read_rest()
            flow.begin(rest)
        return True

    def _file(
        self, relay: Relay, slots: tuple[int, int]
    ) -> tuple[KernelFlow, KernelFlow] | None:
        """Put both sockets into the maps, each under the other's cookie."""
        if not all(slots):
            return None
        lease_slot = (
            _PRIMARY_LEASE_SLOT if relay.engagement.bound else _OTHER_LEASE_SLOT
        )
        up, down = (
            KernelFlow(relay, flow, words=self._words, slot=slot, lease_slot=lease_slot)
            for flow, slot in zip((relay.up, relay.down), slots, strict=True)
        )
        if not (up.has_read_all() and down.has_read_all()):
            return None
        cookies = _cookie(relay.client), _cookie(relay.server)
        try:
            for cookie, slot in zip(cookies, slots, strict=True):
                self._slots.update(cookie, _SLOT.pack(slot))
            self._sockets.update(cookies[0], _FD.pack(relay.server.fileno()))
            self._sockets.update(cookies[1], _FD.pack(relay.client.fileno()))
        except OSError:
            for cookie in cookies:
                for filed in (self._sockets, self._slots):
                    with suppress(OSError):
                        filed.delete(cookie)
            raise
        self._cookies[relay] = (cookies[0], slots[0]), (cookies[1], slots[1])
        self._by_slot[slots[0]], self._by_slot[slots[1]] = up, down
        return up, down

    def _on_alarms(self) -> None:
        for slot in self._alarms.read():
            flow = self._by_slot.get(slot)
            if flow is not None:
                # Where a socket is broken, its own event tells the relay.
                with suppress(OSError):
                    flow.on_alarm()

    def _take_slot(self) -> int:
        """Return a slot that nothing writes to; 0: there is none."""
        if self._free and self._free[0][1] <= boottime_ns():
            return self._free.popleft()[0]
        if self._unused_slot == self._entries:
            return 0
        self._unused_slot += 1
        return self._unused_slot - 1

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ticks_fast = delay_s == _TICK_S
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        at = _OTHER_LEASE_SLOT * WORDS_PER_SLOT
        self._words[at] = boottime_ns() + _OTHER_LEASE_NS
        for relay in tuple(self._busy):
            if relay in self._busy:
                self._tend(relay)
        self._arm(_TICK_S if self._busy else _SLOW_TICK_S)

    def _tend(self, relay: Relay) -> None:
        up, down = self._adopted[relay]
        try:
            # Both are tended, whatever the first one says.
            in_use = any((up.tend(), down.tend()))
        except OSError:
            in_use = False
        if relay not in self._busy:
            return
        idle = 0 if in_use else self._busy[relay] + 1
        if idle > _IDLE_TICKS_MAX:
            del self._busy[relay]
        else:
            self._busy[relay] = idle


def _cookie(connection: socket.socket) -> bytes:
    """Return what names a socket in the kernel for good; socket(7), SO_COOKIE."""
    return connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_BYTES)
