"""Judges a history of appends to lists: what was lost, doubled, reordered, or vanished.

Each operation appends one value to the list of one key and is told the whole list. The
final lists are one order of all that happened; every answer has to be a beginning of
it, and time has to agree with it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What the client was told."""

    DONE = "done"
    REFUSED = "refused"
    """Surely not applied."""
    UNKNOWN = "unknown"
    """The connection broke: it may be applied or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One operation; instants of one clock."""

    key: int
    value: int
    sent_ns: int
    ended_ns: int
    outcome: Outcome
    seen: tuple[int, ...] = ()
    """The list after the append, as the client was told."""


class Kind(StrEnum):
    """What is wrong with a history."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "reordered"
    FORKED = "forked"
    """An answer is no beginning of the final list: it was told of another past."""
    REFUSED_BUT_THERE = "refused but there"
    FROM_NOWHERE = "from nowhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One broken promise."""

    kind: Kind
    key: int
    what: str

    def __str__(self) -> str:
        """Return it in one line."""
        return f"key {self.key}: {self.kind}: {self.what}"


def judge(
    history: Sequence[Append], final: Mapping[int, Sequence[int]]
) -> list[Anomaly]:
    """Return everything that is wrong with a history, given the lists at its end."""
    found: list[Anomaly] = []
    for key in sorted({op.key for op in history} | set(final)):
        ops = [op for op in history if op.key == key]
        found += _judge_key(key, ops, tuple(final.get(key, ())))
    return found


def _judge_key(
    key: int, ops: Sequence[Append], final: tuple[int, ...]
) -> Iterator[Anomaly]:
    def wrong(kind: Kind, what: str) -> Anomaly:
        return Anomaly(kind=kind, key=key, what=what)

    counts = Counter(final)
    known = {op.value for op in ops}
    for value, count in counts.items():
        if count > 1:
            yield wrong(Kind.DOUBLED, f"{value}, {count} times")
        if value not in known:
            yield wrong(Kind.FROM_NOWHERE, str(value))
    for op in ops:
        if op.outcome is Outcome.DONE and op.value not in counts:
            yield wrong(Kind.LOST, str(op.value))
        if op.outcome is Outcome.REFUSED and op.value in counts:
            yield wrong(Kind.REFUSED_BUT_THERE, str(op.value))
        if op.outcome is Outcome.DONE and op.seen != final[: len(op.seen)]:
            yield wrong(Kind.FORKED, f"the answer to {op.value}")
    yield from _reordered(key, ops, final)


def _reordered(
    key: int, ops: Sequence[Append], final: tuple[int, ...]
) -> Iterator[Anomaly]:
    """Yield who comes before one that had ended when it was sent.

    Seen from the end of the list: the earliest end of all that comes later. Whoever was
    sent after that and stands before it is out of order.
    """
    by_value = {op.value: op for op in ops}
    earliest: Append | None = None
    for value in reversed(final):
        op = by_value.get(value)
        if op is None:
            continue
        if earliest is not None and earliest.ended_ns < op.sent_ns:
            yield Anomaly(
                kind=Kind.REORDERED,
                key=key,
                what=f"{op.value} stands before {earliest.value}, which had ended",
            )
        if op.outcome is Outcome.DONE and (
            earliest is None or op.ended_ns < earliest.ended_ns
        ):
            earliest = op
