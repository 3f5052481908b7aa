"""Who surely holds every acknowledged commit, against a slow twin that plays it out."""

from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pgbastion.control.survey import (
    answers_with_every_commit,
    hold_every_commit,
    usable_answers,
)
from pgbastion.model.cluster import NOBODY, ClusterState, SyncSet
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.testing.views import (
    answer,
    any_of,
    cluster_state,
    end,
    name,
    node_name,
    opened,
)

ALL = frozenset(map(node_name, range(1, 7)))


def state_of(sync: SyncSet, *, later: tuple[int, ...] = ()) -> ClusterState:
    return cluster_state(
        servers=6,
        opened=opened(1, 3, sync),
        later_timelines=tuple(map(Timeline, later)),
    )


def test_an_unknown_end_of_wal_does_not_count() -> None:
    assert usable_answers([answer(2, None), answer(3, 5)]) == (answer(3, 5),)


def test_a_holder_that_cannot_prove_its_end_does_not_count() -> None:
    assert usable_answers([answer(1, 5, holder_stopped=False)]) == ()


def test_the_holder_of_the_last_opened_epoch_has_everything() -> None:
    assert hold_every_commit(state_of(NOBODY), [answer(1, 5)])


def test_a_holder_whose_data_was_replaced_is_another_member() -> None:
    gone = answer(1, 5, data_id=DataId("fresh"))
    assert not hold_every_commit(state_of(NOBODY), [gone])
    # Standby names keep eight characters; the holder is known by all of its id.
    state = state_of(NOBODY)
    assert state.opened is not None
    state = replace(state, opened=replace(state.opened, data_id=DataId("12345678a")))
    assert not hold_every_commit(state, [answer(1, 5, data_id=DataId("12345678b"))])


def test_a_timeline_that_nobody_gave_says_nothing_about_its_place() -> None:
    """S2: a person promoted n4, and the cluster gave the id to another node later."""
    state = state_of(any_of(1, 2, 3))
    strayed = answer(4, 900, has_strayed=True)
    answers = [answer(2, 500), answer(3, 400), strayed]

    assert answers_with_every_commit(state, answers, ALL) == (answer(2, 500),)


def test_a_timeline_that_nobody_gave_is_not_beyond_the_last_opened_epoch() -> None:
    state = state_of(any_of(1, 2, 3), later=(5,))

    assert hold_every_commit(state, [answer(4, 900, 5)])
    assert not hold_every_commit(state, [answer(4, 900, 5, has_strayed=True)])


def test_a_timeline_that_nobody_gave_does_not_reach_a_holders_end() -> None:
    state = state_of(any_of(1, 2, 3))
    assert state.assignment is not None
    ended = replace(state.assignment, released=True, ended_at=end(500))
    state = replace(state, assignment=ended)

    assert hold_every_commit(state, [answer(4, 900)])
    assert not hold_every_commit(state, [answer(4, 900, has_strayed=True)])


def test_a_holder_that_strayed_still_has_what_it_acknowledged() -> None:
    strayed = answer(1, 900, 5, has_strayed=True)

    assert answers_with_every_commit(state_of(NOBODY), [strayed], ALL) == (strayed,)


def test_degraded_means_that_only_the_holder_has_everything() -> None:
    everybody_else = [answer(n, 5) for n in (2, 3, 4, 5, 6)]
    assert not hold_every_commit(state_of(any_of(0, 2, 3)), everybody_else)


def test_enough_members_of_the_set_have_everything() -> None:
    state = state_of(any_of(1, 2, 3))
    assert hold_every_commit(state, [answer(2, 5), answer(3, 5)])
    assert not hold_every_commit(state, [answer(2, 5), answer(4, 5)])


def test_a_member_whose_data_was_replaced_does_not_count_for_the_set() -> None:
    fresh = answer(3, 5, data_id=DataId("fresh"))
    assert not hold_every_commit(state_of(any_of(1, 2, 3)), [answer(2, 5), fresh])


def test_wal_of_a_later_epoch_proves_everything() -> None:
    state = state_of(any_of(1, 2, 3), later=(5, 6))
    assert hold_every_commit(state, [answer(4, 51, 5)])


def test_the_history_of_a_later_epoch_without_its_wal_proves_nothing() -> None:
    state = state_of(any_of(1, 2, 3), later=(5, 6))
    assert not hold_every_commit(state, [answer(4, 50, 5)])
    without = answer(4, 51, 5, timeline_begin=None)
    assert not hold_every_commit(state, [without])


def test_nothing_is_known_before_the_first_epoch() -> None:
    state = cluster_state(opened=None)
    assert not hold_every_commit(state, [answer(1, 5)])
    assert answers_with_every_commit(state, [answer(1, 5)], ALL) == ()


def test_the_furthest_are_complete() -> None:
    state = state_of(any_of(1, 2, 3, 4))
    answers = [answer(2, 9), answer(3, 9), answer(4, 7)]
    assert answers_with_every_commit(state, answers, ALL) == tuple(answers[:2])


def test_a_later_timeline_is_further_than_any_position_on_an_earlier_one() -> None:
    state = state_of(any_of(1, 2, 3), later=(5,))
    later = answer(3, 60, 5)
    assert answers_with_every_commit(state, [answer(2, 999, 4), later], ALL) == (later,)


def test_who_may_not_be_promoted_does_not_decide_who_is_furthest() -> None:
    state = state_of(any_of(2, 2, 3))
    answers = [answer(2, 9), answer(3, 7)]
    assert answers_with_every_commit(state, answers, ALL - {node_name(2)}) == (
        answers[1],
    )


def test_nobody_is_complete_when_only_a_node_that_may_not_be_promoted_is() -> None:
    state = state_of(any_of(1, 2, 3))
    answers = [answer(2, 9), answer(3, 7)]
    assert answers_with_every_commit(state, answers, ALL - {node_name(2)}) == ()


def test_a_timeline_that_nobody_assigned_says_nothing_about_its_place() -> None:
    state = state_of(any_of(1, 2, 3))
    stray, other, holder = answer(2, 99, 9), answer(3, 7), answer(1, 8)
    assert answers_with_every_commit(state, [stray, other, holder], ALL) == (holder,)


def test_a_server_on_a_stray_timeline_counts_when_it_suffices_alone() -> None:
    state = state_of(any_of(1, 2))
    stray = answer(2, 99, 9)
    assert answers_with_every_commit(state, [stray, answer(3, 7)], ALL) == (stray,)


@given(
    size=st.integers(1, 5),
    wanted=st.integers(1, 5),
    surveyed=st.sets(st.integers(2, 6)),
)
def test_a_survey_suffices_exactly_when_it_meets_every_acknowledging_set(
    size: int, wanted: int, surveyed: set[int]
) -> None:
    """Slow twin: try each choice of W members that may have flushed a commit."""
    numbers = tuple(range(2, 2 + size))
    sync = any_of(min(wanted, size), *numbers)
    always_met = all(
        set(flushed) & surveyed for flushed in combinations(numbers, sync.num_sync)
    )

    assert hold_every_commit(
        state_of(sync), [answer(n, 5) for n in sorted(surveyed)]
    ) == (bool(surveyed & set(numbers)) and always_met)


@given(
    flushed_by=st.sets(st.integers(2, 5)),
    wanted=st.integers(1, 4),
    ends=st.dictionaries(st.integers(1, 6), st.integers(1, 20)),
    able=st.sets(st.integers(1, 6)),
    acknowledged=st.integers(1, 20),
)
def test_who_is_complete_has_what_the_set_acknowledged(
    flushed_by: set[int],
    wanted: int,
    ends: dict[int, int],
    able: set[int],
    acknowledged: int,
) -> None:
    """Slow twin: a commit at an LSN that the holder and W of the set have flushed."""
    sync = any_of(wanted, 2, 3, 4, 5)
    holders = {n for n in (2, 3, 4, 5) if n in flushed_by}
    if len(holders) < wanted:
        return
    disks = {
        n: max(lsn, acknowledged) if n in holders or n == 1 else lsn
        for n, lsn in ends.items()
    }
    answers = [answer(n, lsn) for n, lsn in disks.items()]

    for chosen in answers_with_every_commit(
        state_of(sync), answers, set(map(node_name, able))
    ):
        assert chosen.wal_end is not None
        assert chosen.wal_end.lsn >= acknowledged
        assert chosen.node in map(node_name, able)


def test_names_of_the_builders_are_those_of_the_state() -> None:
    assert name(2) == "n2_a2"
    assert NodeId("n2") == node_name(2)
    assert cluster_state().epoch == Epoch(3)
