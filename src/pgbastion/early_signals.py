"""Signals that come while the daemon is still getting ready.

Reading its modules takes a second. By default a signal would end the process meanwhile:
a reload would stop it, and a stop would leave a PostgreSQL that an earlier daemon
started as it is.
"""

import signal
from typing import Final

MEANT_FOR_THE_DAEMON: Final = (
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR2,
)


class EarlySignals:
    """Remembers what comes until somebody has handlers for it."""

    def __init__(self) -> None:
        self._come: list[int] = []

    def begin(self) -> None:
        """Remember what comes from now on."""
        for number in MEANT_FOR_THE_DAEMON:
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        self._come.append(number)

    def send_again(self) -> None:
        """Give the handlers that are there by now what came before them."""
        for number in self._come:
            signal.raise_signal(number)
        self._come.clear()
