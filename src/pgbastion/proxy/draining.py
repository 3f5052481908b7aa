"""Taking the proxy out of service: nobody new, and time for those who are there."""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Iterable
from typing import Final

from pgbastion.proxy.refusals import Refusal, render_refusal
from pgbastion.proxy.relay import Relay
from pgbastion.proxy.switchboard import UNKNOWN, Switchboard

# How often sessions are looked at that shall end as soon as they are idle.
_LOOK_S: Final = 0.1


class Draining:
    """Ends sessions after a while, or as soon as they are between transactions."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        board: Switchboard,
        relays: Callable[[], Iterable[Relay]],
    ) -> None:
        self._loop = loop
        self._board = board
        self._relays = relays
        self._timer: TimerHandle | None = None
        self._looking: TimerHandle | None = None
        self._end_s = 0.0
        # The idle ones of the last look, with the bytes that each had moved.
        self._idle: dict[Relay, tuple[int, int]] = {}
        self.is_on = False

    @property
    def left_s(self) -> float:
        """How long sessions may still go on; 0 when it is over, or was not begun."""
        return max(self._end_s - self._loop.time(), 0.0) if self.is_on else 0.0

    def begin(self, timeout_s: float, *, idle_first: bool) -> None:
        """Give sessions ``timeout_s``; a later call sets another time.

        Args:
            timeout_s: After this long all are ended.
            idle_first: Whether a session is ended as soon as it is known to be between
                two transactions. Of encrypted ones, and of those that the kernel
                moves, that is not known.
        """
        self.cancel()
        self.is_on = True
        self._end_s = self._loop.time() + timeout_s
        self._timer = self._loop.call_later(timeout_s, self._end)
        if idle_first:
            self._look()

    def cancel(self) -> None:
        """Take it back: new clients are welcome, sessions go on."""
        self.is_on = False
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        self._timer = self._looking = None
        self._idle.clear()

    def _look(self) -> None:
        """End those that were idle at the last look and have done nothing since.

        A client that sends one transaction after the other without waiting seems to be
        idle after each answer.
        """
        idle = {
            relay: (relay.bytes_to_server, relay.bytes_to_client)
            for relay in self._relays()
            if relay.is_idle
        }
        still = [
            relay for relay, moved in idle.items() if self._idle.get(relay) == moved
        ]
        self._idle = idle
        self._end_those(still)
        self._looking = self._loop.call_later(_LOOK_S, self._look)

    def _end(self) -> None:
        self._timer = None
        self._end_those(tuple(self._relays()))

    def _end_those(self, relays: Iterable[Relay]) -> None:
        sessions = tuple(relays)
        if sessions:
            self._board.end(sessions, render_refusal(Refusal.DRAINING, UNKNOWN))
