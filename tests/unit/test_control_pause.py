"""Pause: PostgreSQL stays as it is, and a lease bounds nothing until it is over."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import Outcome
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node
from pgbastion.model import actions as act
from pgbastion.model.actions import Propose
from pgbastion.model.cluster import NOBODY, ClusterState, SyncSet
from pgbastion.model.commands import Assign, Command, Pause, Revoke, Running
from pgbastion.model.ids import Epoch, Incarnation
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, SurveyAnswer, SurveyView
from pgbastion.testing.views import (
    INCARNATION,
    NOW_MS,
    STOPPED,
    answer,
    any_of,
    assignment,
    cluster_state,
    cluster_view,
    holder_view,
    in_async,
    lease_view,
    opened,
    primary_server,
    raft_view,
    received,
    report,
    standby_view,
)
from support.orders import applied, outcome

PAUSED = cluster_state(paused=True, pause_revision=1)
RESUMED = cluster_state(pause_revision=2)
"""The pause is over, and the holder has not been heard of since."""
LONG_GONE = raft_view(last_answer_ms=NOW_MS - 20_000)
BOTH = (answer(2, 200), answer(3, 200))


def pause(revision: int, *, paused: bool = True) -> Pause:
    return Pause(pause_revision=revision, paused=paused, at=f"at {revision}")


def running(revision: int, incarnation: Incarnation = INCARNATION) -> Running:
    return Running(epoch=Epoch(3), incarnation=incarnation, pause_revision=revision)


# The state


def test_a_pause_and_its_end_raise_both_revisions() -> None:
    before = cluster_state()
    during = applied(before, pause(1))
    after = applied(during, pause(2, paused=False))

    assert (during.paused, during.pause_revision) == (True, 1)
    assert (after.paused, after.pause_revision) == (False, 2)
    assert before.revision < during.revision < after.revision
    assert (during.paused_at, after.paused_at) == ("at 1", "at 2")


@pytest.mark.parametrize("revision", [1, 3])
def test_a_pause_that_was_asked_for_before_another_is_refused(revision: int) -> None:
    assert outcome(PAUSED, pause(revision, paused=False)) is Outcome.STALE_REVISION


def test_a_paused_cluster_is_not_paused_twice() -> None:
    assert outcome(PAUSED, pause(2)) is Outcome.NO_CHANGE


def test_an_epoch_assigned_after_a_resume_heeds_its_lease() -> None:
    released = assignment(released=True, revoked=True)
    state = replace(RESUMED, assignment=released)

    after = applied(state, assign(state))

    assert after.assignment is not None
    assert after.assignment.running == 2


def assign(state: ClusterState) -> Command:
    [proposal] = [
        action.command
        for action in decide_cluster(surveyed(state, *BOTH)).actions
        if isinstance(action, Propose)
    ]
    assert isinstance(proposal, Assign)
    return proposal


def test_the_holder_says_once_that_it_heeds_its_lease() -> None:
    after = applied(RESUMED, running(2))

    assert after.assignment is not None
    assert after.assignment.running == 2
    assert after.revision == RESUMED.revision
    assert outcome(after, running(2)) is Outcome.NO_CHANGE


@pytest.mark.parametrize(
    ("state", "command", "expected"),
    [
        (PAUSED, running(1), Outcome.STALE_REVISION),
        (RESUMED, running(1), Outcome.STALE_REVISION),
        (RESUMED, running(2, Incarnation(5)), Outcome.WRONG_INCARNATION),
        (cluster_state(assignment=None), running(0), Outcome.WRONG_EPOCH),
        (
            cluster_state(assignment=assignment(epoch=4)),
            running(0),
            Outcome.WRONG_EPOCH,
        ),
    ],
)
def test_a_word_of_another_time_does_not_count(
    state: ClusterState, command: Running, expected: Outcome
) -> None:
    assert outcome(state, command) is expected


# A node


@pytest.mark.parametrize(
    "view",
    [
        holder_view(state=PAUSED, lease=lease_view(expiry_ms=NOW_MS - 1)),
        holder_view(
            state=cluster_state(
                paused=True, pause_revision=1, assignment=assignment(revoked=True)
            )
        ),
        standby_view(state=PAUSED, postgres=primary_server()),
        holder_view(state=PAUSED, postgres=primary_server(evidence_ms=NOW_MS - 60_000)),
    ],
    ids=["expired", "revoked", "by hand", "hung"],
)
def test_nothing_is_stopped_under_pause(view: act.Decision) -> None:
    decision = decide_node(view)  # type: ignore[arg-type]

    assert not any(isinstance(a, act.StopPostgres) for a in decision.actions)


def test_a_paused_primary_whose_lease_ran_out_goes_on() -> None:
    view = holder_view(state=PAUSED, lease=lease_view(expiry_ms=NOW_MS - 1))

    assert decide_node(view).reason is Reason.PRIMARY_RUNNING


def test_a_primary_that_ended_under_pause_is_neither_restarted_nor_given_up() -> None:
    view = holder_view(state=PAUSED, postgres=STOPPED)

    decision = decide_node(view)

    assert (decision.reason, decision.actions) == (Reason.PAUSED, ())


def test_a_standby_that_ended_under_pause_stays_stopped() -> None:
    decision = decide_node(standby_view(state=PAUSED, postgres=STOPPED))

    assert not any(isinstance(a, act.StartStandby) for a in decision.actions)


def test_a_daemon_that_is_behind_goes_by_what_its_guard_reads() -> None:
    """It started a moment ago, and the log is not read to its end yet."""
    lease = lease_view(expiry_ms=NOW_MS - 1, pause_revision=1, paused=True)

    decision = decide_node(holder_view(lease=lease))

    assert decision.reason is Reason.PRIMARY_RUNNING


def test_an_old_word_on_the_page_pauses_nothing() -> None:
    lease = lease_view(expiry_ms=NOW_MS - 1, pause_revision=1, paused=True)

    decision = decide_node(holder_view(state=RESUMED, lease=lease))

    assert decision.reason is Reason.LEASE_EXPIRING


def test_after_a_pause_the_holder_says_that_it_heeds_its_lease() -> None:
    decision = decide_node(
        holder_view(state=RESUMED, lease=lease_view(pause_revision=2))
    )

    assert decision.reason is Reason.SAYING_RUNNING
    assert decision.actions == (Propose(command=running(2)),)


@pytest.mark.parametrize(
    "lease",
    [lease_view(pause_revision=1, paused=True), lease_view(pause_revision=1)],
)
def test_a_holder_says_that_it_heeds_its_lease_once_its_guard_reads_so(
    lease: object,
) -> None:
    decision = decide_node(holder_view(state=RESUMED, lease=lease))

    assert decision.reason is Reason.PRIMARY_RUNNING


# The leader


def surveyed(state: ClusterState, *answers: SurveyAnswer) -> ClusterView:
    survey = SurveyView(
        epoch=Epoch(3),
        started_ms=NOW_MS - 10_000,
        answers=answers,
        asked_ms=NOW_MS - 100,
    )
    return cluster_view(
        state=state,
        raft=LONG_GONE,
        reports=received(report(2), report(3)),
        survey=survey,
    )


def revoked_after_resume(sync: SyncSet, **changes: object) -> ClusterState:
    """Return the state of a cluster whose holder was cut off during the pause."""
    held = assignment(revoked=True)
    return replace(RESUMED, assignment=held, opened=opened(1, 3, sync), **changes)  # type: ignore[arg-type]


def test_nothing_is_assigned_under_pause() -> None:
    state = replace(PAUSED, assignment=assignment(revoked=True, released=True))

    decision = decide_cluster(surveyed(state, answer(2, 200), answer(3, 200)))

    assert (decision.reason, decision.actions) == (Reason.PAUSED, ())


def test_after_a_pause_the_wait_alone_frees_no_role_in_async() -> None:
    state = in_async(RESUMED)
    silent = cluster_view(state=state, raft=LONG_GONE)
    revoked = replace(state, assignment=assignment(revoked=True))

    for view in (silent, surveyed(revoked, answer(2, 200))):
        decision = decide_cluster(view)
        assert decision.reason is Reason.PAUSE_MAY_LAST_THERE
        assert decision.actions == ()


def test_after_a_pause_a_silent_holder_is_revoked_where_standbys_confirm() -> None:
    decision = decide_cluster(cluster_view(state=RESUMED, raft=LONG_GONE))

    commands = [a.command for a in decision.actions if isinstance(a, Propose)]
    assert [type(c) for c in commands] == [Revoke]


def test_a_holder_that_finds_no_confirmation_is_replaced_after_a_pause() -> None:
    state = revoked_after_resume(any_of(1, 2, 3))

    decision = decide_cluster(surveyed(state, answer(2, 200), answer(3, 200)))

    assert decision.reason is Reason.FURTHEST_CHOSEN


def test_a_holder_that_may_still_confirm_is_not_replaced_after_a_pause() -> None:
    """Its set was of no one: it acknowledges alone, and nobody can cut it."""
    state = revoked_after_resume(NOBODY, later_timelines=(4,))
    beyond = answer(2, 200)

    decision = decide_cluster(surveyed(state, beyond, answer(3, 200)))

    assert decision.reason is Reason.PAUSE_MAY_LAST_THERE


def test_a_holder_whose_guard_answered_is_replaced_after_a_pause() -> None:
    state = revoked_after_resume(NOBODY)

    decision = decide_cluster(surveyed(state, answer(1, 200), answer(2, 100)))

    assert decision.reason is Reason.FURTHEST_CHOSEN


def test_a_holder_that_never_opened_is_replaced_after_a_pause() -> None:
    state = replace(
        revoked_after_resume(any_of(1, 1, 3)),
        assignment=assignment(epoch=3, revoked=True, opened=False),
        opened=opened(2, 2, any_of(1, 1, 3)),
    )

    decision = decide_cluster(surveyed(state, answer(2, 200, 3), answer(3, 200, 3)))

    assert decision.reason is Reason.FURTHEST_CHOSEN
