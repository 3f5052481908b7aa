"""One virtual address on this node, and what is known of it."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from pgbastion.clock import NS_PER_MS, boottime_ms, boottime_ns
from pgbastion.model.addresses import AddressState, AddressStatus, VirtualAddress
from pgbastion.model.ids import Epoch
from pgbastion.vip.links import FOREVER, LinkFacts

ANNOUNCEMENTS: Final = 5
ANNOUNCE_AFTER_MS: Final = (0, 1_000, 5_000)
PROBE_AGAIN_MS: Final = 5_000
DEFEND_EVERY_MS: Final = 10_000
LIFETIME_STEP_NS: Final = 200 * NS_PER_MS
NEVER_NS: Final = 1 << 62
"""The end of an address without a lifetime."""
# The kernel looks at lifetimes on a coarse timer: measured, up to 0.25 s late.
KERNEL_LATE_NS: Final = 300 * NS_PER_MS
NS_PER_S: Final = 1_000_000_000
NO_LINK: Final = (0, b"")


@dataclass(slots=True)
class Slot:
    """One address and what is known of it."""

    address: VirtualAddress
    state: AddressState = AddressState.ABSENT
    problem: str = ""
    conflict_with: str = ""
    since_ms: int = field(default_factory=boottime_ms)
    epoch: Epoch = Epoch(0)
    """The epoch that it was taken for; it is put back without a probe in this one."""
    lives_until_ns: int = 0
    announce_at: list[tuple[int, int]] = field(default_factory=list)
    """When to announce it, and how many times then."""
    probe_at_ms: int = 0
    defended_ms: int = 0
    link: tuple[int, bytes] = NO_LINK
    hook: asyncio.Task[bool] | None = None
    scouted: bool = False

    def become(self, state: AddressState, problem: str = "") -> bool:
        """Note how it stands now; tell whether that is news."""
        if (state, problem) == (self.state, self.problem):
            return False
        if state is not self.state:
            self.since_ms = boottime_ms()
        self.state, self.problem = state, problem
        return True

    def status(self) -> AddressStatus:
        """Return how it stands, for those who ask."""
        return AddressStatus(
            address=self.address,
            state=self.state,
            problem=self.problem,
            conflict_with=self.conflict_with,
            since_ms=self.since_ms,
        )

    @property
    def conflict_text(self) -> str:
        """Who else answers for it, in words; empty: nobody."""
        if not self.conflict_with:
            return ""
        return f"{self.conflict_with} answers for {self.address.address}"

    @property
    def watches(self) -> bool:
        """Whether it matters here that somebody else has it."""
        return self.state in (
            AddressState.HELD,
            AddressState.PROBING,
            AddressState.CONFLICT,
        )

    def hear(self, hardware: str) -> bool:
        """Note that somebody else says to have it; tell whether that is news."""
        is_news = hardware != self.conflict_with
        self.conflict_with = hardware
        if self.state is AddressState.HELD:
            self._defend()
        return is_news

    def _defend(self) -> None:
        """Say once more whose it is: the lease is this node's (RFC 5227, 2.4 (b))."""
        now_ms = boottime_ms()
        self.probe_at_ms = now_ms + PROBE_AGAIN_MS
        if self.defended_ms and now_ms - self.defended_ms < DEFEND_EVERY_MS:
            return
        self.defended_ms = now_ms
        self.announce_at = [(now_ms, 1), *self.announce_at]

    def plan_probe(self, *, again: bool) -> None:
        """Have it probed once more after a while, or not by itself."""
        self.probe_at_ms = boottime_ms() + PROBE_AGAIN_MS if again else 0

    def lives_long_enough(self, until_ns: int) -> bool:
        """Tell whether its lifetime need not be changed for one up to ``until_ns``.

        Whole seconds make a new one a little shorter now and then; that of a pause,
        which never ends, has to be changed once the pause is over.
        """
        if NEVER_NS in (self.lives_until_ns, until_ns):
            return self.lives_until_ns == until_ns
        return until_ns < self.lives_until_ns + LIFETIME_STEP_NS

    def plan_announcements(self, link: LinkFacts, *, anew: bool) -> None:
        """Announce it at once and again soon where it is new, here or on this link."""
        seen = (link.index, link.hardware)
        if anew or seen != self.link or self.state is not AddressState.HELD:
            now_ms = boottime_ms()
            self.announce_at = [
                (now_ms + after, ANNOUNCEMENTS) for after in ANNOUNCE_AFTER_MS
            ]
        self.link = seen

    def due_announcements(self, renew_ms: int) -> int:
        """Return how often to announce it now; the next time is planned."""
        now_ms = boottime_ms()
        times = 0
        while self.announce_at and self.announce_at[0][0] <= now_ms:
            times += self.announce_at.pop(0)[1]
        if not self.announce_at:
            self.announce_at.append((now_ms + renew_ms, 1))
        return times

    def forget(self) -> None:
        """Note that it is not set here."""
        self.epoch = Epoch(0)
        self.lives_until_ns = 0
        self.announce_at.clear()
        self.link = NO_LINK


def lifetime(until_ns: int) -> tuple[int, int]:
    """Return for how long the kernel is to keep an address, and until when.

    Whole seconds that surely end by ``until_ns``; 0: for ever.
    """
    if until_ns == 0:
        return FOREVER, NEVER_NS
    now_ns = boottime_ns()
    lifetime_s = max(until_ns - KERNEL_LATE_NS - now_ns, 0) // NS_PER_S
    return lifetime_s, now_ns + lifetime_s * NS_PER_S
