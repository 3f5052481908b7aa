"""A failover by hand: what it needs, what it could lose, and what force changes."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import Outcome
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.loss import possible_loss, primary_lives, why_ineligible
from pgbastion.control.succession import SURVEY_AGAIN_MS
from pgbastion.model.actions import CloseLease, Propose
from pgbastion.model.cluster import (
    ClusterState,
    Order,
    OrderKind,
)
from pgbastion.model.commands import Assign, Command, Revoke, Vouched
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
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
    known_reports,
    member,
    node_name,
    opened,
    primary_report,
    raft_view,
    received,
    report,
)
from support.orders import applied, outcome

N2, N3 = node_name(2), node_name(3)
AT = "2026-01-01T00:00:00.000+00:00"
LATER = "2026-01-01T00:05:00.000+00:00"
SILENT = raft_view(last_answer_ms=NOW_MS - 3_000)
"""The holder has been silent for more than half a lease, and not for a whole one."""


def order(*, force: bool, **changes: object) -> Order:
    made = Order(
        order_id="o1",
        order=OrderKind.FAILOVER,
        target=N2,
        epoch=Epoch(3),
        drain_ms=0,
        force=force,
        cause="an operator",
        at=AT,
        expires_at=LATER,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def ordered(*, force: bool, **changes: object) -> ClusterState:
    return replace(cluster_state(orders=(order(force=force),)), **changes)  # type: ignore[arg-type]


def silent(state: ClusterState, **changes: object) -> ClusterView:
    reports = received(report(2), report(3))
    view = cluster_view(state=state, raft=SILENT, reports=reports, at=AT)
    return replace(view, **changes)  # type: ignore[arg-type]


def commands(view: ClusterView) -> list[Command]:
    actions = decide_cluster(view).actions
    return [action.command for action in actions if isinstance(action, Propose)]


def surveyed(state: ClusterState, *answers: SurveyAnswer) -> ClusterView:
    survey = SurveyView(
        epoch=Epoch(3),
        started_ms=NOW_MS - SURVEY_AGAIN_MS,
        answers=answers,
        asked_ms=NOW_MS - 10,
    )
    return silent(state, survey=survey)


def chosen(view: ClusterView) -> NodeId | None:
    return next((c.node for c in commands(view) if isinstance(c, Assign)), None)


VOUCHED = assignment(vouched=True, vouched_term=5, revoked=True)


# The word of an operator


def test_without_force_a_silent_holders_lease_is_waited_out() -> None:
    decision = decide_cluster(silent(ordered(force=False)))

    assert decision.reason is Reason.LEASE_MAY_RUN


def test_force_vouches_that_a_silent_holder_is_off() -> None:
    decision = decide_cluster(silent(ordered(force=True)))

    assert decision.reason is Reason.VOUCHED_FOR
    assert decision.actions == (
        # Nobody answers it while that is on its way to the log.
        CloseLease(epoch=Epoch(3)),
        Propose(command=Vouched(epoch=Epoch(3), who="an operator", at=AT, term=5)),
    )


def test_nobody_vouches_for_the_death_of_a_holder_that_renews() -> None:
    view = cluster_view(state=ordered(force=True), at=AT)

    assert decide_cluster(view).reason is Reason.PRIMARY_HAS_LEASE


@pytest.mark.parametrize(
    "changes",
    [
        {"raft": raft_view(last_answer_ms=0, elected_ms=NOW_MS - 100)},
        {"assigned_seen_ms": NOW_MS - 100},
    ],
)
def test_a_leader_or_holder_that_is_new_is_given_a_moment(
    changes: dict[str, object],
) -> None:
    view = silent(ordered(force=True), **changes)

    assert Vouched not in [type(command) for command in commands(view)]


def test_the_word_also_shortens_a_wait_that_goes_on() -> None:
    state = ordered(force=True, assignment=assignment(revoked=True))

    assert [type(command) for command in commands(silent(state))] == [Vouched]


def test_whoever_is_vouched_for_is_answered_no_more() -> None:
    state = applied(cluster_state(), Vouched(epoch=Epoch(3), who="me", at=AT))

    held = state.assignment
    assert held is not None
    assert (held.vouched, held.live) == (True, False)
    assert (state.history[-1].what, state.history[-1].cause) == ("vouched", "me")
    assert state.revision > cluster_state().revision
    again = Vouched(epoch=Epoch(3), who="me", at=AT)
    assert outcome(state, again) is Outcome.NO_CHANGE


def test_nobody_vouches_in_another_epoch() -> None:
    command = Vouched(epoch=Epoch(2), who="me", at=AT)

    assert outcome(cluster_state(), command) is Outcome.WRONG_EPOCH


# The choice


def test_a_vouched_role_is_given_without_a_wait() -> None:
    state = ordered(force=True, assignment=VOUCHED)

    assert chosen(surveyed(state, answer(2, 200), answer(3, 200))) == N2


def test_force_takes_the_named_node_where_commits_may_be_missing() -> None:
    state = ordered(
        force=True, assignment=VOUCHED, opened=opened(1, 3, any_of(1, 2, 3))
    )

    view = surveyed(state, answer(2, 150))
    assert chosen(view) == N2
    assert decide_cluster(view).reason is Reason.FORCED


def test_without_force_nobody_is_taken_who_may_lack_commits() -> None:
    state = ordered(force=False, assignment=VOUCHED)
    view = surveyed(state, answer(2, 150))

    assert chosen(view) is None
    assert decide_cluster(view).reason is Reason.COMMITS_MAY_BE_MISSING


def test_force_takes_nobody_who_was_not_cut() -> None:
    state = ordered(force=True, assignment=VOUCHED)

    assert chosen(surveyed(state, answer(3, 150))) is None


def test_force_waits_for_those_who_may_have_more() -> None:
    state = ordered(force=True, assignment=VOUCHED)
    view = surveyed(state, answer(2, 150))
    survey = replace(view.survey, started_ms=NOW_MS)  # type: ignore[type-var]

    assert chosen(replace(view, survey=survey)) is None


def test_force_loses_nothing_where_somebody_has_everything() -> None:
    state = ordered(force=True, assignment=VOUCHED)

    assert chosen(surveyed(state, answer(2, 150), answer(3, 200))) == N3


def test_in_async_force_accepts_a_lag_that_is_too_large() -> None:
    reports = received(primary_report(wal_end=end(1 << 30)), report(2), report(3))
    released = assignment(released=True)
    forced = in_async(ordered(force=True, assignment=released))
    asked = in_async(ordered(force=False, assignment=released))

    assert chosen(silent(forced, reports=reports)) == N2
    assert decide_cluster(silent(asked, reports=reports)).reason is Reason.LAG_TOO_LARGE


def test_a_failover_by_hand_is_carried_out_under_pause() -> None:
    state = ordered(force=True, assignment=VOUCHED, paused=True, pause_revision=1)

    assert chosen(surveyed(state, answer(2, 200), answer(3, 200))) == N2


def test_under_pause_a_silent_holder_is_revoked_for_an_order_only() -> None:
    gone = raft_view(last_answer_ms=NOW_MS - 20_000)
    paused = ordered(force=False, paused=True, pause_revision=1)

    assert [type(c) for c in commands(silent(paused, raft=gone))] == [Revoke]
    assert not commands(silent(replace(paused, orders=()), raft=gone))


# What is told beforehand


def lives(state: ClusterState, *reports: NodeReport) -> bool:
    return primary_lives(state, known_reports(*reports))


def test_a_primary_lives_that_says_so_and_holds_its_epoch() -> None:
    state = cluster_state()

    assert lives(state, primary_report())
    assert not lives(state, report(2))
    assert not lives(state, primary_report(promoted=False))
    assert not lives(state, primary_report(epoch=Epoch(2)))
    assert not lives(replace(state, assignment=VOUCHED), primary_report())
    old = known_reports(primary_report(), fresh_since_ms=NOW_MS + 1)
    assert not primary_lives(state, old)


@pytest.mark.parametrize(
    ("state", "reports", "said"),
    [
        (cluster_state(members=(member(1),)), (report(2),), "not a member"),
        (
            cluster_state(members=(member(1), member(2, nofailover=True))),
            (report(2),),
            "nofailover",
        ),
        (cluster_state(), (), "silent"),
        (cluster_state(), (report(2, state=PostgresState.FAILED),), "failed"),
    ],
)
def test_who_cannot_be_surveyed_gets_the_role_by_no_means(
    state: ClusterState, reports: tuple[NodeReport, ...], said: str
) -> None:
    assert said in (why_ineligible(state, known_reports(*reports), N2) or "")


def loss(state: ClusterState, *reports: NodeReport) -> str | None:
    return possible_loss(state, known_reports(*reports), N2)


def test_nothing_is_lost_where_the_living_surely_have_every_commit() -> None:
    assert loss(cluster_state(), primary_report(), report(2), report(3)) is None
    assert why_ineligible(cluster_state(), known_reports(report(2)), N2) is None


def test_the_estimate_is_what_the_primary_was_known_to_have_written() -> None:
    told = loss(cluster_state(), primary_report(wal_end=end(350)), report(2))

    assert told is not None
    assert told.startswith("250 bytes")


def test_a_standby_that_is_as_far_may_still_lack_the_newest_commits() -> None:
    assert "last report" in (loss(cluster_state(), primary_report(), report(2)) or "")


def test_an_estimate_needs_both_ends() -> None:
    assert "unknown" in (loss(cluster_state(), report(2)) or "")
    other = report(2, wal_end=end(100, 3))
    assert "unknown" in (loss(cluster_state(), primary_report(), other) or "")


def test_in_async_what_counts_is_the_distance() -> None:
    state = in_async(cluster_state())

    assert loss(state, primary_report(), report(2)) is None
    assert loss(state, primary_report(wal_end=end(101)), report(2)) is not None
