"""What a node's decisions become in a trace of a change of the primary."""

import pytest

from pgbastion.model.reasons import Reason
from pgbastion.observe.phases import DETECTION, LEAD_NS, SPANS_MAX, Change, Phases

MS = 1_000_000
TOLD: list[tuple[int, str, Reason]] = [
    (0, "cluster", Reason.PRIMARY_HAS_LEASE),
    (1_000, "cluster", Reason.LEASE_MAY_RUN),
    (4_000, "cluster", Reason.LEASE_RAN_OUT),
    (4_010, "cluster", Reason.SURVEYING),
    (4_050, "cluster", Reason.FURTHEST_CHOSEN),
    (4_060, "cluster", Reason.PRIMARY_HAS_LEASE),
    (4_070, "node", Reason.WAITING_FOR_LEASE),
    (4_080, "node", Reason.ARMING),
    (4_090, "node", Reason.PROMOTING),
    (4_150, "node", Reason.OPENING),
]


def change(told: list[tuple[int, str, Reason]], *, gap_ms: int, now_ms: int) -> Change:
    phases = Phases()
    for at_ms, who, reason in told:
        phases.decided(who, reason, at_ms * MS)
    return phases.complete(7, gap_ms * MS, now_ms * MS)


def spans(found: Change) -> list[tuple[str, int, int]]:
    return [(s.name, s.begun_ns // MS, s.ended_ns // MS) for s in found.phases]


def test_what_follows_one_another_within_a_phase_is_one_span() -> None:
    found = change(TOLD, gap_ms=3_700, now_ms=4_200)

    assert spans(found) == [
        (DETECTION, 500, 1_000),
        ("lease wait", 1_000, 4_000),
        ("decision", 4_000, 4_010),
        ("survey", 4_010, 4_050),
        ("decision", 4_050, 4_060),
        ("lease grant", 4_070, 4_080),
        ("promotion", 4_080, 4_150),
        ("opening", 4_150, 4_200),
    ]
    promotion = found.phases[-2].attributes
    assert promotion == {"decided_by": "node", "reasons": "arming,promoting"}


def test_the_whole_lasts_from_the_loss_to_the_first_primary_that_takes_clients() -> (
    None
):
    whole = change(TOLD, gap_ms=3_700, now_ms=4_200).whole

    assert (whole.begun_ns // MS, whole.ended_ns // MS) == (500, 4_200)
    assert whole.attributes == {"epoch": 7, "gap_ms": 3_700}


def test_a_planned_change_begins_with_its_preparation() -> None:
    told = [
        (0, "node", Reason.PREPARING_HANDOVER),
        (900, "node", Reason.HOLDING_CLIENTS),
        (1_000, "node", Reason.HANDING_OVER),
        (1_100, "node", Reason.RELEASING),
    ]
    found = change(told, gap_ms=150, now_ms=1_200)

    assert spans(found) == [
        ("preparation", 0, 1_000),
        ("stop", 1_000, 1_100),
        ("release", 1_100, 1_200),
    ]
    assert found.whole.begun_ns == 0


def test_a_node_that_decides_nothing_tells_how_long_it_took_to_see_it() -> None:
    assert spans(change([], gap_ms=700, now_ms=1_000)) == [(DETECTION, 300, 1_000)]


def test_what_was_long_ago_belongs_to_something_else() -> None:
    late_ms = LEAD_NS // MS + 2_000
    told = [
        (0, "node", Reason.PROMOTING),
        (1, "node", Reason.PRIMARY_RUNNING),
        (late_ms - 900, "node", Reason.PREPARING_HANDOVER),
        (late_ms - 500, "node", Reason.PRIMARY_RUNNING),
    ]

    assert spans(change(told, gap_ms=1_000, now_ms=late_ms + 1_000)) == [
        ("preparation", late_ms - 900, late_ms - 500),
        (DETECTION, late_ms, late_ms + 1_000),
    ]


def test_a_change_is_told_once_and_what_is_kept_is_bounded() -> None:
    phases = Phases()
    for number in range(SPANS_MAX):
        phases.decided("node", Reason.PROMOTING, 2 * number * MS)
        phases.decided("node", Reason.OPENING, (2 * number + 1) * MS)

    first = phases.complete(1, 0, 1_000 * MS)
    second = phases.complete(2, 0, 1_001 * MS)

    assert len(first.phases) == SPANS_MAX + 1
    assert spans(second) == [("opening", 2 * SPANS_MAX - 1, 1_001)]


@pytest.mark.parametrize("reason", [Reason.PRIMARY_RUNNING, Reason.FOLLOWING])
def test_steady_work_is_no_phase(reason: Reason) -> None:
    assert change([(0, "node", reason)], gap_ms=0, now_ms=1).phases == ()
