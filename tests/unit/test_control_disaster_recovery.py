"""A cluster begins again: what is kept, what is given up, what is never given again."""

from dataclasses import replace
from typing import cast

from pgbastion.control.disaster_recovery import (
    EPOCHS_LEFT_OUT,
    IDS_LEFT_OUT,
    PAUSES_LEFT_OUT,
    TIMELINES_LEFT_OUT,
    begin_again,
    begin_from_data,
    fresh_id,
    replay,
)
from pgbastion.control.pause import stops_at_lease_end
from pgbastion.control.survey import hold_every_commit
from pgbastion.guard.page import Page
from pgbastion.model.cluster import (
    ClusterState,
    Policy,
    ReplicationMode,
)
from pgbastion.model.commands import Found, Leave, encode_command
from pgbastion.model.ids import DataId, Epoch, MemberId, Timeline
from pgbastion.node.page import SharedPage
from pgbastion.testing.views import answer, assignment, cluster_state, data_id, member

OWN = member(2, member_id=MemberId(5_000_000))


def began() -> ClusterState:
    return begin_again(cluster_state(next_member_id=MemberId(4)), OWN, index=90)


def test_the_survivor_is_the_only_member_with_its_data() -> None:
    state = began()

    [only] = state.members
    assert only == replace(OWN, joined=True, data_id=data_id(2))
    assert state.founder == only.member_id
    assert state.index == 90
    assert state.next_member_id > only.member_id


def test_after_a_new_beginning_nobody_proves_that_he_has_every_commit() -> None:
    """Newer sets and epochs may be lost with the majority."""
    former = cluster_state()
    everybody = tuple(answer(number, 100) for number in (1, 2, 3))
    assert hold_every_commit(former, everybody)

    assert not hold_every_commit(began(), everybody)


def test_epochs_go_on_above_every_one_that_was_given() -> None:
    held = began().assignment
    assert held is not None
    assert held.epoch == 3 + EPOCHS_LEFT_OUT
    assert not held.live


def test_without_an_epoch_there_is_nothing_to_end() -> None:
    state = begin_again(cluster_state(assignment=None, opened=None), OWN, index=9)

    assert state.assignment is None
    assert state.opened is None


def test_no_id_is_given_again_that_lost_entries_may_have_given() -> None:
    state = cluster_state(next_member_id=MemberId(4))

    assert fresh_id(state, (1, 9), now_s=0, chance=0) == 9 + IDS_LEFT_OUT
    assert fresh_id(state, (), now_s=0, chance=7) == 4 + IDS_LEFT_OUT + 7
    assert fresh_id(ClusterState(), (), now_s=0, chance=0) == 1 + IDS_LEFT_OUT


def test_a_later_beginning_from_an_older_state_has_the_higher_id() -> None:
    older, newer = cluster_state(), cluster_state(next_member_id=MemberId(10**6))
    first = fresh_id(newer, (), now_s=1_800_000_000, chance=0xFFFF)

    assert fresh_id(older, (), now_s=1_800_000_001, chance=0) > first


def test_epochs_go_on_above_those_that_the_data_took_part_in() -> None:
    """The state may be an old backup."""
    state = begin_again(cluster_state(), OWN, index=90, marked=Epoch(2_000))

    assert state.epoch == 2_000 + EPOCHS_LEFT_OUT


def test_timelines_go_on_above_those_that_lost_promotions_may_have_taken() -> None:
    """A lost primary that comes back must not share the new one's timeline."""
    assert began().highest_timeline == 4 + TIMELINES_LEFT_OUT


def test_a_pause_that_the_state_knows_nothing_of_is_over() -> None:
    """S1: a node that was told of it heeded no lease, and no resume ended that."""
    paused = SharedPage(page_after(revision=5, paused=True), generation=0)
    state = begin_again(cluster_state(pause_revision=2), OWN, index=90)

    paused.note_pause(state.pause_revision, paused=state.paused)

    assert not paused.read().paused


def test_whether_the_last_holder_heeds_its_lease_is_as_well_known_as_before() -> None:
    for running in (1, 2):
        former = cluster_state(pause_revision=2, assignment=assignment(running=running))
        state = begin_again(former, OWN, index=90)

        assert state.pause_revision == 2 + PAUSES_LEFT_OUT
        assert stops_at_lease_end(state) == stops_at_lease_end(former)


def page_after(*, revision: int, paused: bool) -> Page:
    """Return the page of a node that heard of a pause, or of its end."""
    page = cast("Page", [0] * 32)
    SharedPage(page, generation=0).note_pause(revision, paused=paused)
    return page


def test_a_log_is_replayed_as_it_was_applied() -> None:
    base = cluster_state(index=10)
    leave = encode_command(Leave(member_id=MemberId(3)))

    state = replay(base, [(11, "", b""), (12, "aa", leave), (13, "aa", leave)])

    assert [m.member_id for m in state.members] == [1, 2]
    assert state.index == 13


def test_a_data_directory_alone_gives_a_cluster_whose_data_it_is() -> None:
    found = Found(
        cluster_name="main",
        cluster_id="c1",
        member=OWN,
        policy=Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500),
        mode=ReplicationMode.QUORUM,
        sync_count=None,
        strict=False,
    )
    state = begin_from_data(
        found, data_id=data_id(2), epoch=Epoch(7), timeline=Timeline(8)
    )

    assert state.epoch == 7 + EPOCHS_LEFT_OUT
    assert state.assignment is not None
    assert not state.assignment.live
    assert state.highest_timeline == 8 + TIMELINES_LEFT_OUT
    assert state.pause_revision == PAUSES_LEFT_OUT
    assert stops_at_lease_end(state)
    assert hold_every_commit(state, (answer(2, 100),))
    assert not hold_every_commit(state, (answer(2, 100, data_id=DataId("other")),))
