"""The checker and the judge of samples find what they are there to find."""

import random

import pytest

from pgbastion.bench.lab.checker import compare, full_throughput_ms, longest_gap
from pgbastion.bench.lab.overlaps import Sample, double_claims, violations
from pgbastion.bench.lab.writers import Acknowledged

MS = 1_000_000


def row(number: int, received_ms: int) -> Acknowledged:
    return Acknowledged(
        id=number,
        sent_ns=(received_ms - 1) * MS,
        received_ns=received_ms * MS,
        via="127.36.0.1",
    )


def sample(node: str, timeline: int, sent_ms: int, received_ms: int) -> Sample:
    return Sample(
        node=node, timeline=timeline, sent_ns=sent_ms * MS, received_ns=received_ms * MS
    )


def test_a_server_that_has_every_acknowledged_row_once_is_clean() -> None:
    check = compare("n1", [1, 2, 3], acknowledged=[1, 3], attempted=range(1, 4))

    assert check.clean
    assert check.rows == 3


def test_an_acknowledged_row_that_is_missing_is_lost() -> None:
    check = compare("n1", [1, 3], acknowledged=[1, 2, 3], attempted=range(1, 4))

    assert check.lost == (2,)
    assert not check.clean


def test_a_row_that_is_there_twice_is_duplicated() -> None:
    check = compare("n1", [1, 2, 2], acknowledged=[1], attempted=range(1, 3))

    assert check.duplicated == (2,)
    assert not check.clean


def test_a_row_that_nobody_sent_is_reported() -> None:
    check = compare("n1", [1, 9], acknowledged=[1], attempted=range(1, 3))

    assert check.never_written == (9,)
    assert not check.clean


def test_the_longest_gap_lies_between_acknowledgements_of_all_writers() -> None:
    rows = [row(1, 100), row(2, 700), row(3, 350)]

    gap = longest_gap(rows, since_ns=0, until_ns=800 * MS)

    assert (gap.start_ns, gap.ms) == (350 * MS, 350)


def test_writes_that_never_come_back_are_a_gap_up_to_the_end() -> None:
    gap = longest_gap([row(1, 100)], since_ns=0, until_ns=5_000 * MS)

    assert gap.ms == 4_900


def test_writes_in_turn_by_one_primary_after_another_are_no_violation() -> None:
    writes = [sample("n1", 1, 0, 3), sample("n1", 1, 50, 52), sample("n2", 2, 100, 104)]

    assert violations(writes) == []


def test_overlapping_writes_of_two_nodes_are_a_violation() -> None:
    writes = [sample("n1", 1, 0, 5), sample("n2", 2, 4, 9)]

    (found,) = violations(writes)

    assert (found.older.node, found.newer.node) == ("n1", "n2")


def test_two_nodes_that_acknowledge_on_one_timeline_are_a_violation() -> None:
    assert len(violations([sample("n1", 2, 0, 5), sample("n2", 2, 10, 15)])) == 1


def test_an_old_primary_that_acknowledges_after_the_new_one_is_a_violation() -> None:
    writes = [
        sample("n1", 1, 0, 3),
        sample("n2", 2, 100, 103),
        sample("n1", 1, 150, 153),
    ]

    (found,) = violations(writes)

    assert (found.older.sent_ns, found.newer.node) == (150 * MS, "n2")


def test_a_long_interval_overlaps_more_than_the_next_one() -> None:
    writes = [
        sample("n1", 1, 0, 40),
        sample("n2", 2, 10, 12),
        sample("n2", 2, 20, 22),
        sample("n2", 2, 60, 62),
    ]

    assert len(violations(writes)) == 2


@pytest.mark.parametrize("seed", range(20))
def test_every_pair_that_overlaps_is_found_as_by_the_slow_comparison(seed: int) -> None:
    source = random.Random(seed)
    writes = []
    for _ in range(30):
        sent = source.randrange(500)
        writes.append(sample(source.choice("ab"), 1, sent, sent + source.randrange(40)))
    first = {name: [w for w in writes if w.node == name] for name in "ab"}
    obvious = any(
        a.sent_ns < b.received_ns and b.sent_ns < a.received_ns
        for a in first["a"]
        for b in first["b"]
    )

    assert bool(violations(writes)) >= obvious


def test_claims_of_two_nodes_at_one_time_are_measured() -> None:
    claims = [sample("n1", 0, at, at + 1) for at in range(0, 500, 50)]
    claims += [sample("n2", 0, at, at + 1) for at in range(400, 800, 50)]

    (found,) = double_claims(claims, broken_after_ns=150 * MS)

    assert found.ms == pytest.approx(51)


def test_a_node_that_was_frozen_claims_nothing_in_between() -> None:
    claims = [sample("n1", 0, 0, 1), sample("n1", 0, 5_000, 5_040)]
    claims += [sample("n2", 0, at, at + 1) for at in range(1_000, 6_000, 50)]

    (found,) = double_claims(claims, broken_after_ns=150 * MS)

    assert found.ms == pytest.approx(40)


def test_full_throughput_is_back_when_as_much_is_acknowledged_as_before() -> None:
    before = [row(n, at) for n, at in enumerate(range(0, 1_000, 10))]
    slow = [row(1_000 + n, at) for n, at in enumerate(range(2_000, 3_000, 100))]
    fast = [row(2_000 + n, at) for n, at in enumerate(range(3_000, 4_000, 10))]

    assert full_throughput_ms([*before, *slow, *fast], 1_000 * MS, 4_000 * MS) == 1_950
    assert full_throughput_ms([*before, *slow], 1_000 * MS, 4_000 * MS) is None
    assert full_throughput_ms(slow, 1_000 * MS, 4_000 * MS) is None
