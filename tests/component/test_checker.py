"""The checker and the judge of samples find what they are there to find."""

import random
from pathlib import Path

import pytest

from pgbastion.bench.lab.checker import (
    compare,
    describe_full,
    full_throughput_ms,
    longest_gap,
)
from pgbastion.bench.lab.overlaps import Sample, double_claims, violations
from pgbastion.bench.lab.workload import Place, Writers
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


def every(step_ms: int, since_ms: int, until_ms: int) -> list[Acknowledged]:
    return [row(at, at) for at in range(since_ms, until_ms, step_ms)]


def test_full_throughput_is_back_when_as_much_is_acknowledged_as_before() -> None:
    before, slow = every(10, 0, 1_100), every(100, 2_000, 3_000)
    fast = every(10, 3_000, 4_500)

    def full_ms(rows: list[Acknowledged]) -> int | None:
        return full_throughput_ms(rows, 1_000 * MS, 4_500 * MS)

    # The last write before the gap is at 1,090, the gap ends at 2,000. Nine tenths of
    # 100 rows: up to 111 ms of the slow part with its 2 rows may be in that second.
    assert full_ms([*before, *slow, *fast]) == 2_900 - 1_090
    assert full_ms([*before, *fast]) == 3_000 - 1_090
    assert full_ms([*before, *slow]) is None
    assert full_ms(slow) is None


def test_what_was_not_seen_is_told_beside_the_rest() -> None:
    assert describe_full([1_000, None, 3_000]) == "2.00 / 3.00 s, 1 not seen"
    assert describe_full([500]) == "0.50 / 0.50 s"
    assert describe_full([None]) == "-"


def test_the_newest_rows_are_found_at_the_end_of_a_long_record(tmp_path: Path) -> None:
    writers = Writers(Place(password="", directory=tmp_path), ["127.36.0.1:5432"])
    assert_newest(writers, every(10, 0, 0), None)
    assert_newest(writers, every(10, 0, 10), 0)
    assert_newest(writers, every(10, 0, 100_000), 99_990)


def assert_newest(
    writers: Writers, rows: list[Acknowledged], newest_ms: int | None
) -> None:
    # The last line is still being written.
    text = "".join(each.line() for each in rows) + "9 9000000000000 90"
    writers.record.write_text(text)
    if newest_ms is not None:
        assert writers.written_after((newest_ms - 2) * MS)
    assert not writers.written_after((newest_ms or 0) * MS)
