"""Keeps the node's virtual addresses: takes, announces, watches and removes them.

It judges nothing but what the kernel and the segment show: whether the node may have
its addresses is told by `want`, and `drop` ends that at once. Each step looks at what
is there and brings it to what is wanted, so that nothing rests on what was done before.

An address goes in with a lifetime that ends before the lease does. So the kernel itself
removes it where nobody is left who could: three walls, the daemon, its guard, the
kernel.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from pgbastion.clock import NS_PER_MS, boottime_ms, boottime_ns
from pgbastion.errors import PgBastionError, VipError
from pgbastion.model.addresses import (
    NOT_HELD,
    AddressCounts,
    AddressReport,
    AddressState,
    AddressStatus,
    Holding,
    VirtualAddress,
)
from pgbastion.model.ids import Epoch
from pgbastion.observe.logging import get_logger
from pgbastion.platform.choice import current
from pgbastion.vip.hooks import Hook
from pgbastion.vip.links import FoundAddress, LinkFacts
from pgbastion.vip.packets import hardware_text
from pgbastion.vip.segment import Segments
from pgbastion.vip.slot import NO_LINK, Slot, lifetime
from pgbastion.vip.watch import Watch

if TYPE_CHECKING:
    from pgbastion.vip.netlink import Netlink

PROBES: Final = 3
PROBE_EVERY_S: Final = 0.02
FAILURE_PAUSE_MS: Final = 500

CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}

log = get_logger("vip")

TellGuard = Callable[[tuple[str, ...], Holding], Awaitable[None]]
Leave = Callable[[frozenset[str]], Awaitable[None]]
"""Ends clients' sessions on these addresses, before they go."""


class VipManager:
    """All addresses of this node.

    Args:
        addresses: What comes and goes together.
        netlink: The kernel.
        renew_ms: How often a held address is announced.
        hook: The operator's program, or None.
        tell_guard: Has the guard remove these when the lease ends; before any is set
            or prolonged.
        permit: Whether the epoch's lease lasts long enough at this very moment.
        on_change: Called when something changed that others should know.
    """

    def __init__(
        self,
        addresses: tuple[VirtualAddress, ...],
        *,
        netlink: "Netlink",
        renew_ms: int,
        hook: Hook | None,
        tell_guard: TellGuard,
        permit: Callable[[Epoch], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._slots = tuple(Slot(address) for address in addresses)
        self._netlink = netlink
        self._renew_ms = renew_ms
        self._hook = hook
        self._tell_guard = tell_guard
        self._permit = permit
        self.leave: Leave | None = None
        self._on_change = on_change
        self._holding = NOT_HELD
        self._ended = Epoch(0)
        self._told = NOT_HELD
        # What an earlier life left behind may be there until it was looked for.
        self.may_be_set = True
        self._lacking: tuple[str, ...] = ()
        self._changed = asyncio.Event()
        self._withdrawn = asyncio.Event()
        self._turn = asyncio.Lock()
        names = frozenset(a.interface for a in addresses if a.interface)
        self._segments = Segments(names, self._on_claim)
        self._watch = Watch(self._changed.set)
        self._own_hardware: frozenset[str] = frozenset()
        self._taken = self._dropped = self._announced = 0
        self._conflicts = self._restored = 0

    # What the node tells

    def want(self, holding: Holding) -> None:
        """Have the addresses here, or not; what was dropped stays so for its epoch."""
        if holding.epoch <= self._ended:
            holding = Holding(epoch=Epoch(0), scouting=holding.scouting)
        if holding == self._holding:
            return
        if not holding.allowed:
            self._withdrawn.set()
        elif not self._holding.allowed:
            self._withdrawn.clear()
        self._holding = holding
        self._changed.set()

    async def drop(self) -> None:
        """Remove the addresses; when this returns they are gone, for this epoch.

        Raises:
            VipError: One could not be removed.
        """
        self._ended = max(self._ended, self._holding.epoch, self._told.epoch)
        self.want(NOT_HELD)
        if not self.may_be_set and not self._turn.locked():
            return
        async with self._turn:
            await self._clear()

    # What the node asks

    def statuses(self) -> tuple[AddressStatus, ...]:
        """Return how each address stands."""
        return tuple(slot.status() for slot in self._slots)

    def counts(self) -> AddressCounts:
        """Return what has happened so far."""
        return AddressCounts(
            taken_total=self._taken,
            dropped_total=self._dropped,
            announcements_total=self._announced,
            conflicts_total=self._conflicts,
            restored_total=self._restored,
            hook_failures_total=self._hook.failures_total if self._hook else 0,
        )

    def report(self) -> AddressReport:
        """Return what the other nodes are told."""
        problem = next((s for s in self._slots if s.problem), None)
        return AddressReport(
            held=tuple(
                str(s.address) for s in self._slots if s.state is AddressState.HELD
            ),
            problem=problem.problem if problem is not None else "",
            conflict=any(s.conflict_with for s in self._slots),
        )

    # The life of the part

    async def start(self) -> None:
        """Remove what an earlier life left behind, and begin to listen.

        Raises:
            VipError: The kernel does not let us.
        """
        self._lacking = tuple(
            name
            for name, number in CAPABILITIES.items()
            if not current().has_capability(number)
        )
        if self._lacking:
            log.error("vip_capability_missing", missing=", ".join(self._lacking))
        try:
            self._watch.start()
        except OSError as exc:
            raise VipError("cannot hear of changes to addresses") from exc
        async with self._turn:
            await self._clear()

    async def run(self) -> None:
        """Keep the addresses until cancelled."""
        while True:
            self._changed.clear()
            wake_ms = await self._pass()
            left_s = max(wake_ms - boottime_ms(), 0) / 1_000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()

    async def close(self) -> None:
        """Remove the addresses and close everything; what fails is logged."""
        try:
            await self.drop()
            async with self._turn:
                await self._clear()
        except VipError as exc:
            log.error("vip_not_removed", error=str(exc))
        if self._hook is not None:
            await self._hook.finish()
        self._watch.close()
        self._segments.close()
        with contextlib.suppress(VipError):
            await self._netlink.close()

    # One pass

    async def _pass(self) -> int:
        """Bring everything to what is wanted; return when to look again."""
        async with self._turn:
            try:
                await self._step()
            except Exception as exc:  # noqa: BLE001 - the top of a task
                # A bug in here must not cost a PostgreSQL that serves: it is told,
                # and the lifetime sees to it that no address outlives the lease.
                if not isinstance(exc, PgBastionError):
                    log.error("vip_failed", error=repr(exc))
                for slot in self._slots:
                    self._note(slot, AddressState.FAILED, str(exc))
                return boottime_ms() + FAILURE_PAUSE_MS
        return self._next_ms()

    async def _step(self) -> None:
        if not self._may_hold():
            await self._clear()
        links = {link.name: link for link in await self._netlink.links()}
        found = await self._netlink.addresses()
        self._own_hardware = frozenset(
            hardware_text(link.hardware) for link in links.values() if link.hardware
        )
        closed = self._segments.tend(links)
        for slot in self._slots:
            if slot.address.interface in closed:
                slot.link = NO_LINK
        if self._may_hold() and self._told != self._holding:
            holding = self._holding
            names = tuple(slot.address.address for slot in self._slots)
            await self._tell_guard(names, holding)
            self._told = holding
        await asyncio.gather(
            *(
                self._tend(slot, links.get(slot.address.interface), found)
                for slot in self._slots
            )
        )

    def _may_hold(self) -> bool:
        holding = self._holding
        if not holding.allowed:
            return False
        return holding.until_ns == 0 or boottime_ns() < holding.until_ns

    async def _tend(
        self, slot: Slot, link: LinkFacts | None, found: list[FoundAddress]
    ) -> None:
        try:
            if not slot.address.interface:
                self._tend_by_hook(slot)
                return
            fault = self._fault(slot, link)
            if fault or link is None:
                self._note(slot, AddressState.FAILED, fault)
                return
            if not self._may_hold():
                await self._stand_by(slot, link)
            else:
                await self._hold(slot, link, found)
        except VipError as exc:
            self._note(slot, AddressState.FAILED, str(exc))
            slot.probe_at_ms = boottime_ms() + FAILURE_PAUSE_MS

    def _fault(self, slot: Slot, link: LinkFacts | None) -> str:
        """Say why the interface cannot carry the address now; empty: it can."""
        name = slot.address.interface
        if self._lacking:
            return f"{' and '.join(self._lacking)} missing"
        if link is None:
            return f"there is no interface {name}"
        if not link.up:
            return f"the interface {name} is down"
        if not link.carrier:
            return f"the interface {name} has no carrier"
        if name not in self._segments:
            return f"no frames can be sent on {name}"
        return ""

    # Not held: is it free, could it be had

    async def _stand_by(self, slot: Slot, link: LinkFacts) -> None:
        if not self._holding.scouting:
            slot.conflict_with, slot.scouted = "", False
            self._note(slot, AddressState.ABSENT)
            return
        if slot.probe_at_ms > boottime_ms():
            return
        if not slot.scouted:
            self._note(slot, AddressState.PROBING, "it is being probed")
        claimed = await self._probe(slot, link)
        slot.scouted = True
        if not claimed:
            self._note(slot, AddressState.ABSENT)

    # Held

    async def _hold(
        self, slot: Slot, link: LinkFacts, found: list[FoundAddress]
    ) -> None:
        own = slot.address
        here = [f for f in found if f.address == own.address]
        misplaced = [f for f in here if (f.index, f.prefix) != (link.index, own.prefix)]
        for each in misplaced:
            await self._netlink.remove(each)
        is_set = len(here) > len(misplaced)
        epoch = self._holding.epoch
        if is_set and slot.conflict_with and slot.probe_at_ms <= boottime_ms():
            await self._probe(slot, link)
        if not is_set and slot.epoch != epoch and not await self._is_free(slot, link):
            return
        lifetime_s, lives_until_ns = lifetime(self._holding.until_ns)
        if is_set and slot.lives_long_enough(lives_until_ns):
            self._settle(slot, link)
            return
        # The last look before what the others must not see at two nodes.
        if lifetime_s < 1 or not self._permit(epoch) or not self._may_hold():
            return
        self.may_be_set = True
        await self._netlink.set_address(link, own, lifetime_s)
        slot.lives_until_ns = lives_until_ns
        if is_set:
            slot.epoch = epoch
            self._settle(slot, link)
            return
        self._note_taken(slot, restored=slot.epoch == epoch)
        slot.epoch = epoch
        self._settle(slot, link, anew=True)

    async def _is_free(self, slot: Slot, link: LinkFacts) -> bool:
        """Ask the segment before the address is taken; wait after an answer."""
        if slot.probe_at_ms > boottime_ms():
            return False
        if slot.state is not AddressState.CONFLICT:
            self._note(slot, AddressState.PROBING)
        return not await self._probe(slot, link)

    async def _probe(self, slot: Slot, link: LinkFacts) -> bool:
        """Ask the segment; tell whether somebody else answered.

        Source:
            RFC 5227, 2.1.1, with shorter waits: of the cluster's own nodes none has
            the address, the lease says so; a stranger answers as fast as any host.
        """
        before = slot.conflict_with
        slot.conflict_with = ""
        segment = self._segments[slot.address.interface]
        for _ in range(PROBES):
            segment.probe(slot.address.address, link.hardware)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_EVERY_S):
                    if self._holding.allowed:
                        await self._withdrawn.wait()
                    else:
                        await asyncio.sleep(PROBE_EVERY_S)
            if slot.conflict_with:
                break
        if not slot.conflict_with:
            if before:
                log.info("vip_conflict_over", address=str(slot.address), was=before)
            slot.plan_probe(again=not self._holding.allowed)
            return False
        slot.plan_probe(again=True)
        if slot.state is not AddressState.HELD:
            self._note(slot, AddressState.CONFLICT, slot.conflict_text)
        return True

    def _settle(self, slot: Slot, link: LinkFacts, *, anew: bool = False) -> None:
        """Note that it is held, and announce it when that is due."""
        slot.plan_announcements(link, anew=anew)
        self._note(slot, AddressState.HELD, slot.conflict_text)
        self._announce(slot, link, slot.due_announcements(self._renew_ms))

    def _announce(self, slot: Slot, link: LinkFacts, times: int) -> None:
        segment = self._segments[slot.address.interface]
        for _ in range(times):
            segment.announce(slot.address.address, link.hardware)
        self._announced += times

    def _note_taken(self, slot: Slot, *, restored: bool) -> None:
        fields = {"address": str(slot.address), "interface": slot.address.interface}
        if restored:
            self._restored += 1
            log.warning("vip_restored", **fields)
            return
        self._taken += 1
        log.info("vip_taken", epoch=self._holding.epoch, **fields)
        if self._hook is not None:
            self._hook.start("take", slot.address, self._holding.epoch)

    # By the operator's program alone

    def _tend_by_hook(self, slot: Slot) -> None:
        if self._hook is None:
            self._note(slot, AddressState.FAILED, "it has neither interface nor hook")
            return
        if not self._may_hold():
            self._note(slot, AddressState.ABSENT)
            return
        epoch = self._holding.epoch
        if slot.epoch != epoch:
            slot.epoch = epoch
            self.may_be_set = True
            self._note(slot, AddressState.PROBING)
            slot.hook = self._hook.start("take", slot.address, epoch)
            slot.hook.add_done_callback(lambda _: self._changed.set())
        elif slot.hook is not None and slot.hook.done():
            done = not slot.hook.cancelled() and slot.hook.result()
            slot.hook = None
            if done:
                self._taken += 1
                self._note(slot, AddressState.HELD)
            else:
                self._note(slot, AddressState.FAILED, "the hook failed")

    # Removal

    async def _clear(self) -> None:
        """Remove every address of ours that is set anywhere on this machine."""
        own = {slot.address.address for slot in self._slots}
        found = [f for f in await self._netlink.addresses() if f.address in own]
        if found and self.leave is not None:
            await self.leave(frozenset(f.address for f in found))
        for each in found:
            await self._netlink.remove(each)
            log.info("vip_removed", address=each.address, index=each.index)
        self.may_be_set = False
        for slot in self._slots:
            self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        """Note that it is not here."""
        if slot.epoch and slot.state is AddressState.HELD:
            self._dropped += 1
        if slot.epoch and self._hook is not None:
            self._hook.start("drop", slot.address, slot.epoch)
        slot.forget()
        if slot.state in (AddressState.HELD, AddressState.PROBING):
            self._note(slot, AddressState.ABSENT)

    # What is heard and noted

    def _on_claim(self, address: str, hardware: str) -> None:
        slot = next((s for s in self._slots if s.address.address == address), None)
        if slot is None or hardware in self._own_hardware:
            return
        # A daemon that was stopped past its lease hears its successor's announcements.
        if not (slot.watches and self._may_hold()) and not self._holding.scouting:
            return
        if slot.hear(hardware):
            self._conflicts += 1
            log.error("vip_conflict", address=address, with_hardware=hardware)
        self._changed.set()

    def _note(self, slot: Slot, state: AddressState, problem: str = "") -> None:
        if not slot.become(state, problem):
            return
        if state is AddressState.FAILED:
            log.warning("vip_not_held", address=str(slot.address), why=problem)
        self._on_change()

    def _next_ms(self) -> int:
        """Return when something is due by itself."""
        now_ms = boottime_ms()
        due = [now_ms + self._renew_ms]
        if self._holding.allowed and self._holding.until_ns:
            due.append(self._holding.until_ns // NS_PER_MS)
        for slot in self._slots:
            due += [at_ms for at_ms, _ in slot.announce_at[:1]]
            if slot.probe_at_ms:
                due.append(slot.probe_at_ms)
        return max(min(due), now_ms + 1)
