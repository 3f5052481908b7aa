"""What the guard promises about epochs, kept in the shared page.

*Armed* for an epoch: a primary of it may run here, so that something must be ended when
its lease ends. *Ended*: no primary of that epoch, or of an earlier one, is started here
any more. A postmaster is *tainted* once it may have become a primary: it was started
without ``standby.signal`` or a promotion was announced while it ran. Only its end, with
all its processes, disarms: a promotion may finish long after it was asked for.
LEASE.md, sections 2 and 3.
"""

from pgbastion.guard import page as words
from pgbastion.guard.page import Page


class Refused(Exception):  # noqa: N818 - an outcome that the rules expect
    """A rule forbids the command; ``reason`` is one word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Latches:
    """The guard's own words of the page, and what follows from the daemon's.

    Args:
        page: The shared page, with what an earlier guard left there.
    """

    __slots__ = ("_asked_epoch", "_first_asked_ns", "_page")

    def __init__(self, page: Page) -> None:
        self._page = page
        self._asked_epoch = 0
        self._first_asked_ns = 0
        page[words.ASKED_NS] = 0

    @property
    def armed(self) -> int:
        """The epoch for which the guard is armed, 0: none."""
        return self._page[words.ARMED_EPOCH]

    @property
    def ended(self) -> int:
        """The highest epoch that has ended here."""
        return self._page[words.ENDED_EPOCH]

    @property
    def is_paused(self) -> bool:
        """Whether neither daemon nor guard may stop PostgreSQL."""
        return self._page[words.PAUSED] != 0

    def acts_at_ns(self) -> int:
        """Return when the lease ends for the guard, CLOCK_BOOTTIME.

        It is the past when the page's lease is another epoch's: a newer one means
        that ours has ended, and an older one proves nothing.
        """
        if self._page[words.EPOCH] != self.armed:
            return 0
        return self.lease_acts_at_ns()

    def lease_acts_at_ns(self) -> int:
        """Return the same of the page's lease, whatever is armed."""
        return self._page[words.EXPIRY_NS] - max(self._page[words.LEAD_NS], 0)

    def has_expired(self, now_ns: int) -> bool:
        """Tell whether the guard is armed for a lease that has run out."""
        return self.armed != 0 and not self.is_paused and self.acts_at_ns() <= now_ns

    def forbids_addresses(self, now_ns: int) -> bool:
        """Tell whether the virtual addresses have no business on this node."""
        return not self.is_paused and (
            self.armed == 0 or self.armed <= self.ended or self.acts_at_ns() <= now_ns
        )

    def arm(self, epoch: int, now_ns: int) -> None:
        """Arm for ``epoch``. The caller disarms an earlier one first.

        Raises:
            Refused: ``ended``, ``armed`` (for another epoch) or ``no_lease``.
        """
        self._check_epoch(epoch)
        if self.armed not in (0, epoch):
            raise Refused("armed", f"armed for epoch {self.armed}")
        page = self._page
        if page[words.EPOCH] != epoch:
            raise Refused(
                "no_lease", f"the page's lease is of epoch {page[words.EPOCH]}"
            )
        lead_ns = max(page[words.LEAD_NS], 0)
        if not self.is_paused and page[words.EXPIRY_NS] - lead_ns <= now_ns:
            raise Refused("no_lease", f"the lease of epoch {epoch} has run out")
        page[words.ARMED_EPOCH] = epoch

    def check_primary(self, epoch: int, now_ns: int) -> None:
        """Check that a primary of ``epoch`` may be made here now.

        Raises:
            Refused: ``ended``, ``not_armed`` or ``no_lease``.
        """
        self._check_epoch(epoch)
        if self.armed != epoch:
            raise Refused("not_armed", f"not armed for epoch {epoch}")
        if self.has_expired(now_ns):
            raise Refused("no_lease", f"the lease of epoch {epoch} has run out")

    def disarm(self) -> None:
        """Disarm. Whether that is allowed depends on what runs: the caller knows."""
        self._page[words.ARMED_EPOCH] = 0

    def end(self, epoch: int) -> None:
        """Latch that ``epoch`` and all before it have ended here."""
        self._page[words.ENDED_EPOCH] = max(self.ended, epoch)

    def ask(self, now_ns: int) -> None:
        """Write that a start or a promotion is under way since now.

        While PostgreSQL gave no evidence of life since the last time and the epoch is
        the same, that earlier instant stays: a server that dies in each of its starts
        must not hold the lease for ever.
        """
        page = self._page
        is_alive_since = page[words.EVIDENCE_NS] > self._first_asked_ns
        if is_alive_since or self._asked_epoch != self.armed:
            self._first_asked_ns = 0
        self._asked_epoch = self.armed
        self._first_asked_ns = self._first_asked_ns or now_ns
        page[words.ASKED_NS] = self._first_asked_ns

    def answer(self) -> None:
        """Write that no start or promotion is under way."""
        self._page[words.ASKED_NS] = 0

    def _check_epoch(self, epoch: int) -> None:
        if epoch <= 0:
            raise Refused("ended", f"epoch {epoch} is none")
        if epoch <= self.ended:
            raise Refused("ended", f"epoch {epoch} has ended here")
        released = self._page[words.RELEASED_EPOCH]
        if epoch <= released:
            raise Refused("ended", f"the release of epoch {epoch} is latched")
