"""The checker of appends finds what a history made unsafe on purpose hides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.bench.lab.appends import Append, Kind, Outcome, judge


def run_safe(
    seed: int, operations: int = 40
) -> tuple[list[Append], dict[int, list[int]]]:
    """Return a history of several clients on one true order, and its final lists."""
    random = Random(seed)
    lists: dict[int, list[int]] = {0: [], 1: []}
    history, now_ns = [], 0
    for value in range(operations):
        key = random.randrange(2)
        now_ns += random.randrange(1, 5)
        # It takes effect at now_ns, somewhere between sending and the answer.
        outcome = random.choices(list(Outcome), (8, 1, 1))[0]
        if outcome is Outcome.DONE or (
            outcome is Outcome.UNKNOWN and random.random() < 0.5
        ):
            lists[key].append(value)
        history.append(
            Append(
                key=key,
                value=value,
                sent_ns=now_ns - random.randrange(20),
                ended_ns=now_ns + random.randrange(20),
                outcome=outcome,
                seen=tuple(lists[key]) if outcome is Outcome.DONE else (),
            )
        )
    random.shuffle(history)
    return history, lists


def kinds(history: Sequence[Append], final: Mapping[int, Sequence[int]]) -> set[Kind]:
    return {anomaly.kind for anomaly in judge(history, final)}


@given(st.integers(0, 10_000))
def test_a_safe_history_has_no_fault(seed: int) -> None:
    history, final = run_safe(seed)

    assert judge(history, final) == []


@given(st.integers(0, 10_000))
def test_an_acknowledged_append_that_vanished_is_lost(seed: int) -> None:
    history, final = run_safe(seed)
    last = max(
        (op for op in history if op.outcome is Outcome.DONE), key=lambda o: o.value
    )
    # A failover to a standby that lacked the last commit.
    final[last.key] = [v for v in final[last.key] if v != last.value]

    assert Kind.LOST in kinds(history, final)


@given(st.integers(0, 10_000))
def test_an_append_that_was_repeated_is_doubled(seed: int) -> None:
    history, final = run_safe(seed)
    key = 0 if final[0] else 1
    final[key].append(final[key][0])

    assert Kind.DOUBLED in kinds(history, final)


@given(st.integers(0, 10_000))
def test_two_primaries_fork_the_past(seed: int) -> None:
    """Each acknowledges on its own: one of the pasts is not the final one."""
    history, final = run_safe(seed)
    done = [op for op in history if op.outcome is Outcome.DONE and len(op.seen) > 2]
    chosen = done[0]
    forked = replace(chosen, seen=(*chosen.seen[:-2], 777, chosen.value))
    history[history.index(chosen)] = forked

    assert Kind.FORKED in kinds(history, final)


def op(value: int, sent: int, ended: int, **fields: object) -> Append:
    made = Append(
        key=0, value=value, sent_ns=sent, ended_ns=ended, outcome=Outcome.DONE, seen=()
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def test_one_that_had_ended_comes_first() -> None:
    """A stale primary took it: it stands before what was acknowledged earlier."""
    history = [op(1, 0, 10), op(2, 20, 30), op(3, 5, 40)]

    assert kinds(history, {0: [2, 1, 3]}) == {Kind.REORDERED}
    assert kinds(history, {0: [3, 1, 2]}) == set()
    assert kinds(history, {0: [1, 3, 2]}) == set()


def test_an_unknown_one_may_be_anywhere_after_it_was_sent() -> None:
    late = op(2, 20, 30, outcome=Outcome.UNKNOWN)

    assert kinds([op(1, 0, 10), late], {0: [1]}) == set()
    assert kinds([op(1, 0, 10), late], {0: [2, 1]}) == {Kind.REORDERED}
    assert kinds([op(1, 25, 40), late], {0: [2, 1]}) == set()


@pytest.mark.parametrize(
    ("history", "final", "kind"),
    [
        ([op(1, 0, 1, outcome=Outcome.REFUSED)], [1], Kind.REFUSED_BUT_THERE),
        ([], [9], Kind.FROM_NOWHERE),
    ],
)
def test_what_nobody_wrote_is_found(
    history: list[Append], final: list[int], kind: Kind
) -> None:
    found = judge(history, {0: final})

    assert [anomaly.kind for anomaly in found] == [kind]
    assert str(kind) in str(found[0])
