"""Whom the Raft leader assigns when the former holder is gone."""

from dataclasses import replace

import pytest

from pgbastion.control.cluster import decide_cluster
from pgbastion.control.succession import SURVEY_AGAIN_MS, SURVEY_PATIENCE_MS
from pgbastion.model.actions import (
    CatchUp,
    ChangeMember,
    CloseLease,
    Decision,
    Survey,
)
from pgbastion.model.cluster import NOBODY, Fence
from pgbastion.model.ids import Epoch, NodeId, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.views import ClusterView, SurveyAnswer, SurveyView
from pgbastion.testing.views import (
    NOW_MS,
    answer,
    any_of,
    assignment,
    cluster_state,
    cluster_view,
    end,
    in_async,
    member,
    node_name,
    opened,
    primary_report,
    raft_view,
    received,
    report,
)
from support.deciding import (
    ELECTED,
    LENGTH,
    assigned,
    reason,
    revoke,
)

# Succession

GIVEN_BACK = cluster_state(assignment=assignment(released=True))
REVOKED = cluster_state(assignment=assignment(revoked=True))
BOTH = cluster_state(assignment=assignment(released=True, revoked=True))
EVERYBODY = (node_name(1), node_name(2), node_name(3))
STANDBYS = (node_name(2), node_name(3))


def surveyed(*answers: SurveyAnswer, **changes: object) -> ClusterView:
    """Return the view of a leader whose survey has these answers."""
    made = cluster_view(
        state=BOTH,
        survey=SurveyView(
            epoch=Epoch(3),
            started_ms=NOW_MS - 200,
            asked_ms=NOW_MS - 200,
            answers=answers,
        ),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_revoked_holder_may_still_have_its_lease() -> None:
    view = surveyed(answer(2, 5), answer(3, 5), state=REVOKED, raft=raft_view())
    assert reason(view) is Reason.LEASE_MAY_RUN


def test_a_new_leader_asks_for_ages_of_a_revoked_epoch_too() -> None:
    view = surveyed(answer(2, 5), answer(3, 5), state=REVOKED, raft=ELECTED)
    assert reason(view) is Reason.AGES_UNKNOWN


def test_a_release_needs_no_wait_but_a_revocation_and_a_survey() -> None:
    """Without the former a frozen holder may wake up and renew or degrade."""
    decision = decide_cluster(cluster_view(state=GIVEN_BACK, raft=ELECTED))

    assert decision == Decision(
        Reason.HOLDER_RELEASED,
        (
            CloseLease(epoch=Epoch(3)),
            Survey(epoch=Epoch(3), nodes=STANDBYS),
            revoke(Reason.HOLDER_RELEASED),
        ),
        detail="n1",
    )


def test_the_standbys_are_surveyed_before_the_holder() -> None:
    state = replace(BOTH, members=(*BOTH.members, member(4, witness=True)))

    assert decide_cluster(cluster_view(state=state)) == Decision(
        Reason.SURVEYING,
        (Survey(epoch=Epoch(3), nodes=STANDBYS),),
        NOW_MS + SURVEY_AGAIN_MS,
    )


def test_every_server_is_surveyed_at_once_where_only_the_holder_has_everything() -> (
    None
):
    degraded = replace(BOTH, opened=opened(1, 3, NOBODY))

    assert decide_cluster(cluster_view(state=degraded)).actions == (
        Survey(epoch=Epoch(3), nodes=EVERYBODY),
    )


def test_the_holder_is_asked_too_when_the_standbys_answers_did_not_suffice() -> None:
    view = surveyed(answer(2, 5))
    assert view.survey is not None
    later = replace(view, now_ms=view.survey.asked_ms + SURVEY_AGAIN_MS)

    (asking,) = decide_cluster(later).actions

    assert isinstance(asking, Survey)
    assert node_name(1) in asking.nodes


def test_a_survey_of_another_epoch_does_not_count() -> None:
    view = surveyed(answer(2, 5), answer(3, 5))
    assert view.survey is not None
    old = replace(view.survey, epoch=Epoch(2))
    assert decide_cluster(replace(view, survey=old)).actions == (
        Survey(epoch=Epoch(3), nodes=STANDBYS),
    )


def test_the_furthest_is_assigned_on_a_new_timeline() -> None:
    decision = decide_cluster(surveyed(answer(2, 5), answer(3, 6)))
    command = assigned(decision)

    assert decision.actions[0] == CloseLease(epoch=Epoch(3))
    assert (command.epoch, command.node, command.data_id) == (4, "n3", "a3")
    assert (command.timeline, command.surveyed) == (5, end(6))
    assert command.revision == BOTH.revision
    assert command.cause == Reason.HOLDER_RELEASED


def test_the_cause_says_whether_the_lease_ran_out() -> None:
    view = surveyed(
        answer(2, 5),
        answer(3, 6),
        state=REVOKED,
        raft=raft_view(last_answer_ms=NOW_MS - LENGTH),
    )
    assert assigned(decide_cluster(view)).cause == Reason.LEASE_RAN_OUT


def test_the_new_timeline_is_above_every_one_surveyed() -> None:
    stray = answer(1, 5, 9, holder_stopped=False)
    command = assigned(decide_cluster(surveyed(stray, answer(2, 5), answer(3, 6))))
    assert command.timeline == 10


def test_the_new_timeline_is_above_every_history_file_that_was_left_behind() -> None:
    """PostgreSQL would step over its id and take another one than the assigned."""
    stray = answer(2, 5, newest_timeline=Timeline(11))
    assert assigned(decide_cluster(surveyed(stray, answer(3, 6)))).timeline == 12


def test_the_new_timeline_is_above_every_one_reported() -> None:
    reports = received(report(1, wal_end=end(5, 13)), report(2, wal_end=None))
    view = surveyed(answer(2, 5), answer(3, 6), reports=reports)
    assert assigned(decide_cluster(view)).timeline == 14


def test_nobody_is_assigned_while_commits_may_be_missing() -> None:
    view = surveyed(answer(2, 5))
    assert reason(view) is Reason.SURVEYING

    assert view.survey is not None
    later = replace(view.survey, started_ms=NOW_MS - SURVEY_AGAIN_MS)
    decision = decide_cluster(replace(view, survey=later))

    assert decision.reason is Reason.COMMITS_MAY_BE_MISSING
    assert decision.wake_at_ms == NOW_MS - 200 + SURVEY_AGAIN_MS
    assert decision.detail == "n2: 0/5 on timeline 4"


def test_the_silent_and_those_who_could_not_tell_are_asked_again() -> None:
    view = surveyed(answer(2, 5), answer(3, None))
    assert view.survey is not None
    late = replace(view.survey, asked_ms=NOW_MS - SURVEY_AGAIN_MS)

    decision = decide_cluster(replace(view, survey=late))

    assert decision.actions == (
        Survey(epoch=Epoch(3), nodes=(node_name(1), node_name(3))),
    )
    assert decision.wake_at_ms == NOW_MS + SURVEY_AGAIN_MS
    assert decide_cluster(view).actions == ()


def test_a_survey_that_suffices_waits_a_moment_for_the_living() -> None:
    """A node that is further may be about to answer."""
    state = replace(BOTH, opened=opened(1, 3, any_of(2, 2, 3)))
    view = surveyed(answer(2, 5), state=state)
    assert view.survey is not None
    young = replace(view.survey, started_ms=NOW_MS - SURVEY_PATIENCE_MS + 1)

    waiting = decide_cluster(replace(view, survey=young))

    assert (waiting.reason, waiting.wake_at_ms) == (Reason.SURVEYING, NOW_MS + 1)
    assert assigned(decide_cluster(view)).node == "n2"


@pytest.mark.parametrize(
    "reports",
    [
        {},
        received(primary_report()),
        received(report(3), at_ms=NOW_MS - 1_001),
        received(report(2)),
    ],
    ids=["nobody", "former_holder", "old_news", "who_answered"],
)
def test_a_survey_that_suffices_waits_for_no_other(
    reports: dict[str, object],
) -> None:
    state = replace(BOTH, opened=opened(1, 3, any_of(2, 2, 3)))
    view = surveyed(answer(2, 5), state=state, reports=reports)
    assert view.survey is not None
    young = replace(view.survey, started_ms=NOW_MS)

    assert reason(replace(view, survey=young)) is Reason.FURTHEST_CHOSEN


def with_members(
    view: ClusterView, *numbers_and_tags: tuple[int, dict[str, object]]
) -> ClusterView:
    members = tuple(member(n, **tags) for n, tags in numbers_and_tags)  # type: ignore[arg-type]
    ids = tuple(m.member_id for m in members)
    raft = replace(view.raft, member_id=ids[0], voters=ids)
    return replace(view, state=replace(view.state, members=members), raft=raft)


def test_a_higher_priority_wins_among_equals() -> None:
    view = with_members(
        surveyed(answer(2, 5), answer(3, 5)),
        (1, {}),
        (2, {"failover_priority": 9}),
        (3, {}),
    )
    assert assigned(decide_cluster(view)).node == "n2"


def test_the_former_holder_comes_last_among_equals() -> None:
    view = with_members(
        surveyed(answer(1, 5), answer(2, 5)), (1, {"failover_priority": 9}), (2, {})
    )
    assert assigned(decide_cluster(view)).node == "n2"
    assert assigned(decide_cluster(surveyed(answer(1, 5)))).node == "n1"


def test_who_may_not_be_promoted_is_not_assigned() -> None:
    view = with_members(surveyed(answer(1, 5)), (1, {"nofailover": True}), (2, {}))

    decision = decide_cluster(view)

    assert decision.reason is Reason.NO_CANDIDATE
    assert decision.detail == "n1: 0/5 on timeline 4"


def test_who_is_no_member_any_more_is_not_assigned() -> None:
    view = with_members(surveyed(answer(1, 5)), (2, {}), (3, {}))
    assert reason(view) is Reason.NO_CANDIDATE


# Without a survey


def asynchronous(**changes: object) -> ClusterView:
    state = in_async(GIVEN_BACK)
    made = cluster_view(
        state=state,
        reports=received(
            primary_report(wal_end=end(120)),
            report(2, wal_end=end(110)),
            report(3, wal_end=end(115)),
        ),
        lag_max_bytes=10,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_in_async_the_most_advanced_is_assigned_without_a_survey() -> None:
    command = assigned(decide_cluster(asynchronous()))
    assert (command.node, command.surveyed, command.timeline) == ("n3", end(115), 5)


def test_in_async_too_far_behind_is_not_assigned() -> None:
    view = asynchronous(lag_max_bytes=4)

    assert decide_cluster(view) == Decision(
        Reason.LAG_TOO_LARGE, (), NOW_MS + SURVEY_AGAIN_MS, detail="5 bytes"
    )


@pytest.mark.parametrize(
    "former", [primary_report(wal_end=end(999, 3)), primary_report(wal_end=None), None]
)
def test_in_async_lag_is_not_compared_across_timelines(former: object) -> None:
    reports = received(report(2, wal_end=end(110)))
    if former is not None:
        reports |= received(former)  # type: ignore[arg-type]
    assert reason(asynchronous(reports=reports)) is Reason.FURTHEST_CHOSEN


@pytest.mark.parametrize(
    "reports",
    [
        {},
        received(report(2), at_ms=NOW_MS - 1_001),
        received(report(2, state=PostgresState.COPYING)),
        received(report(2, wal_end=None)),
        received(report(2, data_id=None)),
    ],
    ids=["silent", "old_news", "copying", "unknown", "empty"],
)
def test_in_async_only_standbys_that_answer_are_assigned(
    reports: dict[str, object],
) -> None:
    assert decide_cluster(asynchronous(reports=reports)) == Decision(
        Reason.NO_CANDIDATE, (), NOW_MS + SURVEY_AGAIN_MS
    )


def test_in_async_a_stopped_former_primary_may_be_assigned() -> None:
    stopped = report(1, state=PostgresState.STOPPED, wal_end=end(120))
    view = asynchronous(reports=received(stopped))
    assert assigned(decide_cluster(view)).node == "n1"


def test_in_async_who_may_not_be_promoted_is_not_assigned() -> None:
    view = with_members(asynchronous(), (2, {"nofailover": True}))
    assert reason(view) is Reason.NO_CANDIDATE


def test_in_async_a_silent_holder_is_waited_out() -> None:
    state = in_async(REVOKED)
    assert reason(asynchronous(state=state, raft=raft_view())) is Reason.LEASE_MAY_RUN


def test_a_node_joins_also_while_nobody_can_be_promoted() -> None:
    """It may have the data or the vote that is missing; the questions go on."""
    view = surveyed(answer(2, 5), raft=raft_view(voters=(1, 2), last_answer_ms=0))
    assert view.survey is not None
    late = NOW_MS - SURVEY_AGAIN_MS
    survey = replace(view.survey, started_ms=late, asked_ms=late)

    decision = decide_cluster(replace(view, survey=survey))

    assert decision.reason is Reason.COMMITS_MAY_BE_MISSING
    asks, adds = decision.actions
    assert isinstance(asks, Survey)
    assert isinstance(adds, ChangeMember)


# The furthest may not be promoted


def barred(number: int, **changes: object) -> ClusterView:
    """Return a survey in which only ``number`` has what was acknowledged last."""
    members = tuple(member(n, nofailover=n == number) for n in (1, 2, 3))
    behind = 5 - number
    view = surveyed(
        answer(number, 9),
        answer(behind, 5),
        state=replace(BOTH, members=members, opened=opened(1, 3, any_of(1, 2, 3))),
        reports=received(report(number), report(behind)),
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def surveying(view: ClusterView, **changes: object) -> ClusterView:
    assert view.survey is not None
    return replace(view, survey=replace(view.survey, **changes))  # type: ignore[arg-type]


CATCH_UP = CatchUp(epoch=Epoch(3), node=node_name(3), source=node_name(2), upto=end(9))


def test_who_may_be_promoted_streams_first_from_the_furthest_that_may_not() -> None:
    decision = decide_cluster(barred(2))

    assert decision.reason is Reason.CATCHING_UP
    assert decision.actions == (CATCH_UP,)


def test_who_streams_already_is_not_asked_again() -> None:
    decision = decide_cluster(surveying(barred(2), catching_up=node_name(3)))

    assert decision.reason is Reason.CATCHING_UP
    assert decision.actions == ()
    assert decision.wake_at_ms == NOW_MS + SURVEY_AGAIN_MS


def test_who_has_caught_up_is_assigned() -> None:
    view = surveying(barred(2), answers=(answer(2, 9), answer(3, 9)))

    command = assigned(decide_cluster(view))

    assert (command.node, command.surveyed) == ("n3", end(9))


@pytest.mark.parametrize("state", [PostgresState.STOPPED, PostgresState.STARTING])
def test_nobody_streams_from_a_server_that_does_not_run(state: PostgresState) -> None:
    reports = received(report(2, state=state), report(3))

    assert reason(barred(2, reports=reports)) is Reason.NO_CANDIDATE


def test_nobody_streams_from_a_node_that_is_silent() -> None:
    reports = received(report(2), at_ms=NOW_MS - 10_000)

    assert reason(barred(2, reports=reports)) is Reason.NO_CANDIDATE


def test_a_fence_bars_like_a_tag() -> None:
    fence = Fence(node=node_name(2), force=False, drain_ms=0, cause="", at="")
    view = barred(2)
    state = replace(
        view.state, members=tuple(member(n) for n in (1, 2, 3)), fences=(fence,)
    )

    assert decide_cluster(replace(view, state=state)).actions == (CATCH_UP,)


def test_where_nobody_may_be_promoted_nobody_streams() -> None:
    view = barred(2)
    members = tuple(member(n, nofailover=True) for n in (1, 2, 3))

    decision = decide_cluster(replace(view, state=replace(view.state, members=members)))

    assert decision.reason is Reason.NO_CANDIDATE


def test_of_two_that_lag_the_nearer_streams_and_the_other_if_that_leads_nowhere() -> (
    None
):
    """Who is on another history comes no closer; then it is somebody else's turn."""
    view = barred(2)
    state = replace(
        view.state,
        members=tuple(member(n, nofailover=n == 2) for n in (1, 2, 3, 4)),
        opened=opened(1, 3, any_of(1, 2, 3, 4)),
    )
    answers = (answer(2, 9), answer(3, 5), answer(4, 4))
    view = surveying(replace(view, state=state), answers=answers)

    def chosen(stuck: dict[NodeId, int]) -> NodeId:
        (action,) = decide_cluster(surveying(view, stuck=stuck)).actions
        assert isinstance(action, CatchUp)
        return action.node

    assert chosen({}) == "n3"
    assert chosen({node_name(3): 1}) == "n4"
    assert chosen({node_name(3): 1, node_name(4): 1}) == "n3"
