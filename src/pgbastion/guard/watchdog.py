"""The hardware watchdog: resets the machine when nobody feeds it any more.

It is armed before anything may become a primary here, fed only after a renewal of the
lease, and disarmed when nothing that may be a primary is left. What it is set to fires
before the lease is over, so that a kernel that hangs, or a guard that cannot run, ends
what it can no longer stop.

Source: the kernel's Documentation/watchdog/watchdog-api.rst and linux/watchdog.h.
"""

import contextlib
import fcntl
import os

from pgbastion.guard.latches import Latches, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NS_PER_S = 1_000_000_000
# _IOWR('W', 6, int): asks for a time-out in seconds, and says what it has become.
WDIOC_SETTIMEOUT = 0xC0045706
FEED = b"\1"
# "Magic close": whoever says this before closing has ended cleanly.
DISARM = b"V"
# A device that could not be had is tried again this often while one is wanted.
AGAIN_NS = NS_PER_S


class Watchdog:
    """One device, and when it was fed.

    Args:
        latches: Says what the guard is armed for and until when its lease lasts.
        log: Writes a line.
        ioctl: The system's; another one in tests.
    """

    __slots__ = (
        "_device",
        "_fd",
        "_fed_for_ns",
        "_ioctl",
        "_is_missing",
        "_latches",
        "_least_s",
        "_log",
        "_required",
        "_set_s",
        "_timeout_s",
        "_tried_ns",
        "problem",
    )

    def __init__(
        self,
        latches: Latches,
        log: "Callable[[str], None]",
        ioctl: "Callable[[int, int, bytearray], int]" = fcntl.ioctl,
    ) -> None:
        self._latches = latches
        self._log = log
        self._ioctl = ioctl
        self._device = ""
        self._timeout_s = 0
        self._least_s = 0
        self._required = False
        self._fd = -1
        self._set_s = 0
        self._fed_for_ns = 0
        self._tried_ns = 0
        self._is_missing = False
        self.problem = ""

    @property
    def state(self) -> str:
        """Return ``off``, ``idle``, ``armed`` or ``unusable``."""
        if not self._device:
            return "off"
        if self._fd >= 0:
            return "armed"
        return "unusable" if self.problem else "idle"

    def configure(
        self, device: str, *, timeout_s: int, least_s: int, required: bool
    ) -> None:
        """Take the device, in place of an earlier one.

        Args:
            device: Its path; empty: none is used.
            timeout_s: How long it may stay unfed: it fires before the lease is over.
            least_s: A shorter time-out would reset a node that is healthy.
            required: Without it nothing becomes a primary here.
        """
        if device != self._device:
            self.close()
        elif timeout_s != self._timeout_s:
            # What it was fed for may be too short, or too long, until the next renewal.
            self._fed_for_ns = 0
        self._device = device
        self._timeout_s, self._least_s = timeout_s, least_s
        self._required = required
        self.problem = ""
        self._look_for_device()

    def start(self, now_ns: int) -> None:
        """Arm it: from now on it fires unless it is fed.

        Raises:
            Refused: It is required, and ``watchdog``: cannot be used, or ``no_lease``:
                would fire after the lease's end.
        """
        if not self._device or self._fd >= 0 or self._latches.is_paused:
            return
        self._tried_ns = now_ns
        # Not armed yet, perhaps: whoever arms checks whose lease that is.
        acts_ns = self._latches.lease_acts_at_ns()
        first_s = min(self._timeout_s, max(acts_ns - now_ns, 0) // NS_PER_S)
        if first_s < 1:
            if self._required:
                raise Refused("no_lease", "less than a second of the lease is left")
            return
        self._tell(self._open(first_s))
        if self._fd >= 0:
            self._fed_for_ns = acts_ns
        elif self._required:
            raise Refused("watchdog", self.problem)

    def look(self, now_ns: int, *, holds_primary: bool) -> None:
        """Feed it for a renewal, or disarm it where nothing is left to watch.

        Args:
            now_ns: CLOCK_BOOTTIME.
            holds_primary: Something runs, or is not proven dead, that may be one.
        """
        if not holds_primary or self._latches.is_paused:
            self.close()
        elif self._fd >= 0:
            self._feed(now_ns)
        elif self._latches.armed and now_ns - self._tried_ns >= AGAIN_NS:
            # After a pause, or in the place of a guard that has died.
            with contextlib.suppress(Refused):
                self.start(now_ns)
        if self._is_missing and now_ns - self._tried_ns >= AGAIN_NS:
            self._tried_ns = now_ns
            self._look_for_device()

    def close(self) -> None:
        """Disarm it cleanly: nothing is left that it would have to end."""
        if self._fd < 0:
            return
        try:
            os.write(self._fd, DISARM)
        except OSError as exc:
            self._log(f"watchdog not disarmed: {exc}")
        os.close(self._fd)
        self._fd = -1
        self._log("watchdog disarmed")

    def _look_for_device(self) -> None:
        if not self._device or self._fd >= 0:
            return
        self._is_missing = not os.access(self._device, os.W_OK)
        missing = f"{self._device} is missing, or not ours to write"
        self._tell(missing if self._is_missing else "")

    def _tell(self, problem: str) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        self._log(f"watchdog: {problem or 'it can be used'}")

    def _open(self, first_s: int) -> str:
        """Open and set it; return what is in the way."""
        try:
            self._fd = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as exc:
            return f"{self._device}: {exc.strerror}"
        problem = self._set(first_s)
        if problem:
            self.close()
            return problem
        self._is_missing = False
        self._log(f"watchdog armed: {self._device}, {self._set_s} s")
        return ""

    def _set(self, seconds: int) -> str:
        """Set the time-out, which feeds it too; return what is in the way."""
        answer = bytearray(seconds.to_bytes(4, "little"))
        try:
            self._ioctl(self._fd, WDIOC_SETTIMEOUT, answer)
        except OSError as exc:
            return f"{self._device} takes no time-out: {exc.strerror}"
        actual = int.from_bytes(answer, "little", signed=True)
        if actual > seconds:
            return f"{self._device} fires after {actual} s, not {seconds} s: too late"
        if actual < min(seconds, self._least_s):
            return (
                f"{self._device} fires after {actual} s: an election alone, which "
                f"takes up to {self._least_s} s, would reset this node"
            )
        self._set_s = seconds
        return ""

    def _feed(self, now_ns: int) -> None:
        latches = self._latches
        acts_ns = latches.acts_at_ns()
        if latches.armed <= latches.ended or acts_ns <= self._fed_for_ns:
            return
        if now_ns + self._timeout_s * NS_PER_S > acts_ns:
            # Fed now it could fire after the lease is over. The next renewal is near.
            return
        self._fed_for_ns = acts_ns
        if self._set_s != self._timeout_s:
            problem = self._set(self._timeout_s)
            if problem:
                self._log(f"watchdog: {problem}")
                return
        try:
            os.write(self._fd, FEED)
        except OSError as exc:
            self._log(f"watchdog not fed: {exc}")
