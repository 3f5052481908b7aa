"""How long clients had no primary."""

import pytest

from pgbastion.model.snapshot import GAP_BOUNDS_S
from pgbastion.observe.gaps import GapMeter


class Clock:
    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


def test_a_gap_lasts_from_the_loss_of_a_primary_to_the_next_one() -> None:
    clock = Clock()
    meter = GapMeter(clock)

    for at_ms, has_primary in ((0, True), (100, False), (900, False), (2_600, True)):
        clock.now_ms = at_ms
        meter.note(has_primary=has_primary)

    assert meter.gaps.newest_s == meter.gaps.sum_s == 2.5
    assert meter.gaps.counts[GAP_BOUNDS_S.index(3.0)] == 1
    assert sum(meter.gaps.counts) == 1


@pytest.mark.parametrize("seen", [[False, False, True], [True, True], [True, False]])
def test_what_has_not_begun_or_not_ended_is_no_gap(seen: list[bool]) -> None:
    meter = GapMeter(Clock())

    for has_primary in seen:
        meter.note(has_primary=has_primary)

    assert sum(meter.gaps.counts) == 0
