"""The program that switches nodes off: when it is called, what its word is worth."""

from dataclasses import replace

import pytest

from pgbastion.control.cluster import decide_cluster
from pgbastion.control.fencing import FENCE_AGAIN_MS, WHO
from pgbastion.model.actions import CallFence, CloseLease, Decision, Propose
from pgbastion.model.cluster import ClusterState, Order, OrderKind, ReplicationMode
from pgbastion.model.commands import Assign, Revoke, Vouched
from pgbastion.model.ids import Epoch, MemberId
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.views import ClusterView, FenceCall, FencingView, SurveyView
from pgbastion.testing.views import (
    NOW_MS,
    answer,
    any_of,
    assignment,
    cluster_state,
    cluster_view,
    in_async,
    node_name,
    opened,
    raft_view,
    received,
    report,
)
from support.deciding import ages
from support.orders import applied, outcome

LEAD_MS = 2_200
LEASE_MS = 5_005
"""With the bound of two clocks' drift."""
AT = "2026-01-01T00:00:00.000+00:00"
STATE = cluster_state(opened=opened(1, 3, any_of(1, 2, 3)))
LATER = "2026-01-01T00:05:00.000+00:00"
CALL = FenceCall(epoch=Epoch(3), term=5, started_ms=NOW_MS - 200)


def silent(
    silent_ms: int,
    call: FenceCall | None = None,
    state: ClusterState = STATE,
    **changes: object,
) -> ClusterView:
    """Return what ``n2``, the leader, sees: ``n1`` has not renewed for so long."""
    raft = raft_view(
        member_id=MemberId(2), leader=MemberId(2), last_answer_ms=NOW_MS - silent_ms
    )
    view = cluster_view(
        state=state,
        raft=raft,
        reports=received(report(2), report(3)),
        fencing=FencingView(lead_ms=LEAD_MS, call=call),
        at=AT,
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def failover_order(*, force: bool) -> Order:
    return Order(
        order_id="o1",
        order=OrderKind.FAILOVER,
        target=node_name(2),
        epoch=Epoch(3),
        drain_ms=0,
        force=force,
        cause="an operator",
        at=AT,
        expires_at=LATER,
    )


def calls(view: ClusterView) -> list[CallFence]:
    return [a for a in decide_cluster(view).actions if isinstance(a, CallFence)]


# When it is called


def test_nobody_is_switched_off_before_he_would_have_begun_to_stop() -> None:
    view = silent(LEASE_MS - LEAD_MS - 1)

    assert decide_cluster(view) == Decision(
        Reason.LEASE_MAY_RUN, (), NOW_MS + 1, detail="n1"
    )


def test_a_holder_that_must_have_begun_to_stop_is_switched_off() -> None:
    view = silent(LEASE_MS - LEAD_MS)

    assert decide_cluster(view) == Decision(
        Reason.FENCING_HOLDER,
        (CallFence(epoch=Epoch(3), node=node_name(1), host="127.0.0.1", term=5),),
        NOW_MS + LEAD_MS,
        detail="n1",
    )


def test_a_new_leader_lets_the_holder_find_it_first() -> None:
    view = silent(3_000, ages=ages(2, 3, age_ms=3_000))
    early = replace(view.raft, last_answer_ms=0, elected_ms=NOW_MS - 2_499)
    heard = replace(early, elected_ms=NOW_MS - 2_500)

    assert calls(replace(view, raft=early)) == []
    assert len(calls(replace(view, raft=heard))) == 1


def test_without_a_program_the_lease_is_waited_out() -> None:
    view = silent(3_000, fencing=None)

    assert decide_cluster(view).reason is Reason.LEASE_MAY_RUN


def test_under_pause_nobody_is_switched_off() -> None:
    order = failover_order(force=False)
    state = replace(STATE, paused=True, pause_revision=1, orders=(order,))

    assert calls(silent(3_000, state=state)) == []
    assert len(calls(silent(3_000, state=replace(STATE, orders=(order,))))) == 1


def test_a_leader_does_not_switch_itself_off() -> None:
    view = silent(3_000)
    raft = replace(view.raft, member_id=MemberId(1), leader=MemberId(1))

    assert calls(replace(view, raft=raft)) == []


@pytest.mark.parametrize(
    "reports",
    [
        received(),
        received(report(2, state=PostgresState.EMPTY, data_id=None)),
        received(report(2), report(3), at_ms=NOW_MS - 1_001),
    ],
)
def test_whom_nobody_can_replace_is_not_switched_off(reports: object) -> None:
    assert calls(silent(3_000, reports=reports)) == []


def test_too_few_for_every_commit_switch_nobody_off() -> None:
    five = cluster_state(servers=5, opened=opened(1, 3, any_of(2, 2, 3, 4, 5)))

    assert calls(silent(3_000, state=five)) == []
    three = received(report(2), report(3), report(4))
    assert len(calls(silent(3_000, state=five, reports=three))) == 1


def test_in_async_one_living_standby_is_enough() -> None:
    state = in_async(STATE)
    assert state.mode is ReplicationMode.ASYNC

    assert len(calls(silent(3_000, state=state, reports=received(report(3))))) == 1
    assert calls(silent(3_000, state=state, reports=received())) == []


def test_while_it_runs_it_is_not_called_again_and_the_lease_counts() -> None:
    decision = decide_cluster(silent(3_000, CALL))

    assert decision.reason is Reason.FENCING_HOLDER
    assert decision.actions == ()
    assert decision.wake_at_ms == NOW_MS - 3_000 + LEASE_MS


def test_one_run_at_a_time_whomever_it_is_for() -> None:
    other = replace(CALL, epoch=Epoch(2))

    assert calls(silent(3_000, other)) == []


def test_a_silent_holder_of_a_resumed_pause_is_switched_off() -> None:
    """It may not know of the pause's end: then no wait bounds its lease."""
    state = replace(STATE, pause_revision=2)

    decision = decide_cluster(silent(60_000, state=in_async(state)))

    assert decision.reason is Reason.FENCING_HOLDER
    assert len(calls(silent(60_000, state=in_async(state)))) == 1


def test_nobody_is_switched_off_once_its_lease_is_over() -> None:
    decision = decide_cluster(silent(LEASE_MS))

    assert decision.reason is Reason.LEASE_RAN_OUT


# What its word is worth


def test_a_confirmed_run_vouches() -> None:
    view = silent(3_000, replace(CALL, ended_ms=NOW_MS, confirmed=True))

    assert decide_cluster(view) == Decision(
        Reason.VOUCHED_FOR,
        (
            CloseLease(epoch=Epoch(3)),
            Propose(command=Vouched(epoch=Epoch(3), who=WHO, at=AT, term=5)),
        ),
        detail="n1",
    )


def test_a_run_that_failed_vouches_for_nothing() -> None:
    failed = replace(CALL, ended_ms=NOW_MS, confirmed=False)

    decision = decide_cluster(silent(3_000, failed))

    assert decision.reason is Reason.LEASE_MAY_RUN
    assert decision.actions == ()
    over = decide_cluster(silent(LEASE_MS, failed))
    assert over.actions[-1] == Propose(
        command=Revoke(epoch=Epoch(3), cause=Reason.LEASE_RAN_OUT, at=AT)
    )


def test_a_run_that_failed_is_repeated_later() -> None:
    state = in_async(replace(STATE, pause_revision=2))
    ended_ms = NOW_MS - FENCE_AGAIN_MS
    failed = replace(CALL, started_ms=ended_ms - 1, ended_ms=ended_ms)

    assert len(calls(silent(60_000, failed, state))) == 1
    just = replace(failed, ended_ms=ended_ms + 1)
    assert calls(silent(60_000, just, state)) == []


@pytest.mark.parametrize(
    "stale",
    [
        replace(CALL, term=4, confirmed=True, ended_ms=NOW_MS),
        replace(CALL, epoch=Epoch(2), confirmed=True, ended_ms=NOW_MS),
        # A renewal was answered since: it has come back.
        replace(CALL, started_ms=NOW_MS - 3_000, confirmed=True, ended_ms=NOW_MS),
    ],
)
def test_an_old_word_counts_no_more(stale: FenceCall) -> None:
    decision = decide_cluster(silent(3_000, stale))

    # It is called once more.
    assert decision.reason is Reason.FENCING_HOLDER
    assert len(decision.actions) == 1


def test_a_word_counts_in_the_term_that_took_it_only() -> None:
    """Another leader may have granted since what was on its way to the log."""
    taken = assignment(vouched=True, vouched_term=4, revoked=True)
    state = in_async(replace(STATE, assignment=taken))
    view = silent(3_000, state=state, fencing=None)

    assert decide_cluster(view).reason is Reason.LEASE_MAY_RUN
    here = replace(state, assignment=replace(taken, vouched_term=5))
    decision = decide_cluster(replace(view, state=here))
    [_, propose] = decision.actions
    assert isinstance(propose, Propose)
    assert isinstance(propose.command, Assign)
    assert propose.command.cause == Reason.VOUCHED_FOR


def test_a_later_leader_takes_the_word_once_more() -> None:
    state = applied(STATE, Vouched(epoch=Epoch(3), who="me", at=AT, term=4))
    again = Vouched(epoch=Epoch(3), who="me", at=AT, term=5)

    later = applied(state, again)

    assert later.assignment is not None
    assert later.assignment.vouched_term == 5
    assert (later.revision, later.history) == (state.revision, state.history)
    assert outcome(later, again) == "no_change"


def test_a_vouched_holder_of_this_term_is_not_switched_off_again() -> None:
    taken = assignment(vouched=True, vouched_term=5, revoked=True)
    survey = SurveyView(
        epoch=Epoch(3), started_ms=NOW_MS, answers=(answer(2, 200),), asked_ms=NOW_MS
    )
    view = silent(3_000, state=replace(STATE, assignment=taken), survey=survey)

    assert calls(view) == []
    assert decide_cluster(view).reason is not Reason.LEASE_MAY_RUN


def test_a_member_that_has_left_cannot_be_switched_off() -> None:
    held = assignment(1, revoked=True)
    members = tuple(m for m in STATE.members if m.member_id != 1)
    view = silent(3_000, state=replace(STATE, assignment=held, members=members))

    assert calls(view) == []
