"""Waits for something and shows that it does, on a terminal only."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Self, TextIO, TypeVar

from pgbastion.cli.problems import UnfinishedError

ASK_EVERY_S: Final = 0.2
SHOW_EVERY: Final = 5_000
"""A step of what is watched takes far less than a line on a terminal."""
_CLEAR: Final = "\r\x1b[K"

T = TypeVar("T")


class Progress:
    """One line that says what is waited for and for how long; erased at the end.

    Args:
        what: What is waited for.
        out: Where it is shown if that is a terminal.
    """

    def __init__(self, what: str, out: TextIO | None = None) -> None:
        self._what = what
        self._out = out or sys.stderr
        self._shown = self._out.isatty()
        self._since_s = time.monotonic()
        self.detail = ""
        """The newest word on how far it has come."""

    def __enter__(self) -> Self:
        self.show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            self._out.write(_CLEAR)
            self._out.flush()

    def say(self, detail: str) -> None:
        """Show a word on how far it has come."""
        self.detail = detail
        self.show()

    def show(self) -> None:
        """Show how long it has taken by now."""
        if self._shown:
            took_s = time.monotonic() - self._since_s
            more = f": {self.detail}" if self.detail else ""
            self._out.write(f"{_CLEAR}{self._what}{more} ({took_s:.0f} s)")
            self._out.flush()


def wait_for(
    look: Callable[[Progress], T | None],
    *,
    what: str,
    within_s: float,
    every_s: float = ASK_EVERY_S,
) -> T:
    """Look until there is something to return.

    Args:
        look: Returns what is waited for, or None; it may say how far it has come.
        what: What is waited for, for people.
        within_s: How long to wait.
        every_s: How long to pause between two looks.

    Raises:
        UnfinishedError: It did not come in time.
    """
    until_s = time.monotonic() + within_s
    with Progress(what) as progress:
        while True:
            found = look(progress)
            if found is not None:
                return found
            if time.monotonic() >= until_s:
                far = f": {progress.detail}" if progress.detail else ""
                raise UnfinishedError(f"{what}: not finished after {within_s:g} s{far}")
            time.sleep(every_s)
            progress.show()


def watched(
    steps: Iterable[T],
    *,
    what: str,
    total: int,
    size: Callable[[T], int],
    out: TextIO | None = None,
) -> Iterator[T]:
    """Yield the steps of a long piece of work, and show how much of it is done.

    Args:
        steps: What is done, one at a time.
        what: What is counted, for people.
        total: How much there is to do.
        size: How much of it a step is.
        out: As in :class:`Progress`.
    """
    done = 0
    with Progress(what, out) as progress:
        for number, step in enumerate(steps):
            if number % SHOW_EVERY == 0:
                progress.say(f"{100 * done // total}%")
            done += size(step)
            yield step
