"""What happened, for those who follow it: a bounded list that can be read again.

An event has two numbers. Its place in this node's list (``seq``) is what a follower
asks again from. Its ``key`` is the same on every node for what the cluster decided, so
that whoever hears of it from several nodes can tell.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

KEPT_MAX: Final = 1_000


class EventKind(StrEnum):
    """What an event is about."""

    ROLE = "role"
    """Who has the primary role, and what this node is."""
    ORDER = "order"
    MEMBERSHIP = "membership"
    PAUSE = "pause"
    SETTINGS = "settings"
    SPLIT_BRAIN = "split_brain"
    WARNING = "warning"
    """Something in this node's log wants attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that happened, before it has its place in the list."""

    kind: EventKind
    what: str
    fields: Mapping[str, object] = field(default_factory=dict)
    key: str = ""
    """The same on every node; empty: it happened on this node alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the list."""

    seq: int
    key: str
    kind: EventKind
    what: str
    node: str
    at: str
    """Wall-clock time, for people only."""
    fields: Mapping[str, object]

    def as_json(self) -> dict[str, object]:
        """Return it as clients get it."""
        return {
            "id": self.key,
            "seq": self.seq,
            "kind": self.kind.value,
            "what": self.what,
            "node": self.node,
            "at": self.at,
            "data": dict(self.fields),
        }


class Events:
    """The newest events of one node.

    Args:
        node: This node's name.
        now: The wall-clock time, in words.
        first: The number of the first event; larger after each start, so that a
            follower of an earlier daemon is not sent back into the past.
    """

    def __init__(self, node: str, *, now: Callable[[], str], first: int) -> None:
        self._node = node
        self._now = now
        self._next = first
        self._first = first
        self._kept: deque[Event] = deque(maxlen=KEPT_MAX)
        self._more = asyncio.Event()
        self._takers: list[Callable[[Event], None]] = []
        self.closed = False

    def on_event(self, taker: Callable[[Event], None]) -> None:
        """Have every event from now on given to ``taker`` too; it must not wait."""
        self._takers.append(taker)

    def note(self, happenings: Iterable[Happening]) -> None:
        """Take what happened."""
        for happening in happenings:
            event = Event(
                seq=self._next,
                key=happening.key or f"{self._node}-{self._next}",
                kind=happening.kind,
                what=happening.what,
                node=self._node,
                at=self._now(),
                fields=happening.fields,
            )
            self._next += 1
            self._kept.append(event)
            for taker in self._takers:
                taker(event)
        self._wake()

    def close(self) -> None:
        """Let every follower go."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    @property
    def newest(self) -> int:
        """The number of the newest event; one before the first if there is none."""
        return self._next - 1

    def after(self, seq: int) -> tuple[list[Event], bool]:
        """Return what came after ``seq``, and whether some of that is gone."""
        if seq > self.newest:
            # A number of another node, or of nobody: all that is kept is new to it.
            return list(self._kept), True
        oldest = self._kept[0].seq if self._kept else self._next
        return [e for e in self._kept if e.seq > seq], seq < oldest - 1

    async def wait(self, seq: int, timeout_s: float) -> None:
        """Wait until there is something after ``seq``, at most so long."""
        more = self._more
        if self.newest > seq or self.closed:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await more.wait()
        except TimeoutError:
            return
