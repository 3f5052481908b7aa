"""What an operator wants for later, or for as long as it stands."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import Outcome
from pgbastion.control.apply_schedules_and_fences import SCHEDULED_MAX
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.loss import why_ineligible
from pgbastion.control.node import decide_node, duty
from pgbastion.control.orders import why_unfit
from pgbastion.control.routing import RoutingView, decide_routing
from pgbastion.control.schedules_and_fences import AGAIN_MS, why_not_fence
from pgbastion.control.transitions import Duty
from pgbastion.control.wall_time import later
from pgbastion.model.actions import Decision, Propose, StopMode, StopPostgres
from pgbastion.model.cluster import (
    ClusterState,
    Fence,
    OrderKind,
    OrderOutcome,
    Schedule,
)
from pgbastion.model.commands import (
    Assign,
    GiveOrder,
    Leave,
    Release,
    ScheduleOrder,
    SetFence,
    SetSync,
    Unschedule,
)
from pgbastion.model.ids import DataId, Epoch, MemberId, NodeId, Revision, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, SurveyView
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    NOW_MS,
    STOPPED,
    answer,
    assignment,
    cluster_state,
    cluster_view,
    end,
    holder_view,
    known_reports,
    primary_report,
    received,
    report,
)
from support.ordering import AT, LATER, N1, N2, N3, order
from support.orders import applied, outcome

DUE = "2026-01-01T00:02:00.000+00:00"
UNTIL = "2026-01-01T00:02:30.000+00:00"
KNOWN = known_reports(
    primary_report(), report(2, replay_lsn=Lsn(90)), report(3, replay_lsn=Lsn(100))
)
REPORTS = KNOWN.received


def schedule(**changes: object) -> Schedule:
    made = Schedule(
        order_id="s1",
        target=None,
        drain_ms=500,
        cause="a test",
        at=AT,
        due_at=DUE,
        expires_at=UNTIL,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def fence(number: int = 1, **changes: object) -> Fence:
    made = Fence(
        node=NodeId(f"n{number}"), force=False, drain_ms=500, cause="a test", at=AT
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def set_fence(number: int = 2, *, fenced: bool = True, force: bool = False) -> SetFence:
    return SetFence(
        node=NodeId(f"n{number}"),
        fenced=fenced,
        force=force,
        drain_ms=0,
        cause="a test",
        at=AT,
    )


def view(state: ClusterState, at: str = AT, **changes: object) -> ClusterView:
    return cluster_view(state=state, at=at, reports=REPORTS, **changes)


def given(decision: Decision) -> GiveOrder:
    [action] = decision.actions
    assert isinstance(action, Propose)
    assert isinstance(action.command, GiveOrder)
    return action.command


# The state


def test_a_schedule_is_kept_until_its_order_is_given() -> None:
    state = applied(cluster_state(), ScheduleOrder(schedule=schedule()))
    assert state.scheduled == (schedule(),)

    after = applied(state, GiveOrder(order=order(order_id="s1")))

    assert after.scheduled == ()
    assert after.order is not None
    assert outcome(after, ScheduleOrder(schedule=schedule())) is Outcome.DUPLICATE


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"order_id": ""}, Outcome.SENSELESS),
        ({"drain_ms": -1}, Outcome.SENSELESS),
        ({"expires_at": DUE}, Outcome.SENSELESS),
        ({"target": NodeId("n9")}, Outcome.UNKNOWN_MEMBER),
    ],
)
def test_a_senseless_schedule_is_not_taken(
    changes: dict[str, object], why: Outcome
) -> None:
    command = ScheduleOrder(schedule=schedule(**changes))

    assert outcome(cluster_state(), command) is why


def test_schedules_are_bounded() -> None:
    full = tuple(schedule(order_id=f"s{n}") for n in range(SCHEDULED_MAX))
    command = ScheduleOrder(schedule=schedule(order_id="more"))

    assert outcome(cluster_state(scheduled=full), command) is Outcome.TOO_MANY_SCHEDULED


def drop(why: OrderOutcome = OrderOutcome.CANCELLED) -> Unschedule:
    return Unschedule(order_id="s1", outcome=why, detail="why", at=AT)


def test_what_is_cancelled_stays_in_the_list_and_leaves_the_open_order_open() -> None:
    state = cluster_state(scheduled=(schedule(target=N3),), orders=(order(),))

    after = applied(state, drop())

    assert after.scheduled == ()
    assert after.order is not None
    assert after.order.order_id == "o1"
    [dropped, _] = after.orders
    assert (dropped.order_id, dropped.target) == ("s1", N3)
    assert (dropped.outcome, dropped.detail) == (OrderOutcome.CANCELLED, "why")


def test_only_what_is_scheduled_can_be_dropped_and_only_undone() -> None:
    state = cluster_state(scheduled=(schedule(),))

    assert outcome(cluster_state(), drop()) is Outcome.NO_SUCH_ORDER
    assert outcome(state, drop(OrderOutcome.DONE)) is Outcome.SENSELESS


def test_a_fence_raises_the_revision_and_is_taken_back() -> None:
    before = cluster_state()
    fenced = applied(before, set_fence())
    forced = applied(fenced, set_fence(force=True))
    freed = applied(forced, set_fence(fenced=False))

    assert fenced.revision == before.revision + 1
    assert fenced.fence(N2) is not None
    assert outcome(fenced, set_fence()) is Outcome.NO_CHANGE
    assert [f.force for f in forced.fences] == [True]
    # A later word without force does not take the force back.
    assert outcome(forced, set_fence()) is Outcome.NO_CHANGE
    assert freed.fences == ()
    assert outcome(freed, set_fence(fenced=False)) is Outcome.NO_CHANGE


def test_only_a_server_can_be_fenced() -> None:
    senseless = replace(set_fence(), drain_ms=-1)

    assert outcome(cluster_state(), set_fence(9)) is Outcome.UNKNOWN_MEMBER
    assert outcome(cluster_state(), senseless) is Outcome.SENSELESS


def test_a_member_that_leaves_takes_its_fence_along() -> None:
    state = cluster_state(fences=(fence(3),))

    assert applied(state, Leave(member_id=MemberId(3))).fences == ()


def test_no_entry_of_the_log_gives_a_fenced_node_the_role() -> None:
    state = cluster_state(
        assignment=assignment(released=True, revoked=True), fences=(fence(2),)
    )
    assign = Assign(
        revision=Revision(7),
        epoch=Epoch(4),
        member_id=MemberId(2),
        node=N2,
        data_id=DataId("a2"),
        timeline=Timeline(9),
        surveyed=end(100),
        cause="",
        at="",
    )

    assert outcome(state, assign) is Outcome.FENCED


# A schedule


def test_nothing_happens_before_its_time() -> None:
    state = cluster_state(scheduled=(schedule(),))

    assert decide_cluster(view(state)).reason is Reason.PRIMARY_HAS_LEASE


@pytest.mark.parametrize("at", [DUE, UNTIL])
def test_when_it_is_due_the_order_is_given_to_the_best(at: str) -> None:
    decision = decide_cluster(view(cluster_state(scheduled=(schedule(),)), at))

    assert decision.reason is Reason.SCHEDULE_DUE
    made = given(decision).order
    assert (made.order_id, made.target, made.order) == ("s1", N3, OrderKind.SWITCHOVER)
    assert (made.drain_ms, made.epoch, made.cause) == (500, Epoch(3), "a test")
    assert made.expires_at > at


def test_a_node_that_is_named_is_the_one() -> None:
    state = cluster_state(scheduled=(schedule(target=N2),))

    assert given(decide_cluster(view(state, DUE))).order.target == N2


def test_who_cannot_take_the_role_now_may_be_ready_before_the_window_ends() -> None:
    state = cluster_state(scheduled=(schedule(target=N1),))

    assert decide_cluster(view(state, UNTIL)).reason is Reason.PRIMARY_HAS_LEASE


@pytest.mark.parametrize(
    ("target", "why"),
    [(N1, "n1 is the primary"), (None, "nobody could give it in time")],
)
def test_after_its_window_it_is_dropped_with_the_reason(
    target: NodeId | None, why: str
) -> None:
    state = cluster_state(scheduled=(schedule(target=target),))

    decision = decide_cluster(view(state, LATER))

    command = Unschedule(
        order_id="s1", outcome=OrderOutcome.EXPIRED, detail=why, at=LATER
    )
    assert decision == Decision(
        Reason.SCHEDULE_MISSED, (Propose(command=command),), detail=why
    )


def test_a_missed_schedule_says_that_nobody_could_take_the_role() -> None:
    state = cluster_state(scheduled=(schedule(),))
    lonely = cluster_view(state=state, at=LATER, reports=received(primary_report()))

    assert decide_cluster(lonely).detail == "no standby could take the role"


def test_a_schedule_waits_for_an_open_order_and_for_a_primary() -> None:
    busy = cluster_state(scheduled=(schedule(),), orders=(order(),))
    headless = cluster_state(
        scheduled=(schedule(),), assignment=assignment(released=True)
    )

    assert decide_cluster(view(busy, DUE)).reason is Reason.PRIMARY_HAS_LEASE
    assert decide_cluster(view(headless, DUE)).reason is Reason.HOLDER_RELEASED


def test_a_word_that_is_no_time_stays_as_it_is() -> None:
    assert later("soon", 1) == "soon"
    assert later("9999-12-31T23:59:59+00:00", 2_000) == "9999-12-31T23:59:59+00:00"


# A fence


@pytest.mark.parametrize("number", [2, 3])
def test_a_fenced_node_is_no_target_and_is_not_read_from(number: int) -> None:
    state = cluster_state(fences=(fence(number),))
    node = NodeId(f"n{number}")
    told = f"{node} is fenced"
    routing = decide_routing(
        RoutingView(
            now_ms=NOW_MS,
            state=state,
            reports=REPORTS,
            report_max_ms=1_000,
            lag_max_bytes=1 << 30,
            accepting_epoch=Epoch(3),
        )
    )

    assert why_unfit(state, KNOWN, node) == told
    assert why_ineligible(state, KNOWN, node) == told
    assert node not in {m.name for m in routing.replicas}
    assert routing.primary is not None


def test_a_fenced_standby_leaves_the_synchronous_set() -> None:
    decision = decide_node(holder_view(state=cluster_state(fences=(fence(2),))))

    assert decision.reason is Reason.CHANGING_SYNC_SET
    # The promise is weakened first: what n3 alone confirms keeps both.
    assert decision.detail == "any 1 of n3_a3"


def test_a_fenced_node_gets_no_role_however_far_it_is() -> None:
    state = cluster_state(
        assignment=assignment(released=True, revoked=True), fences=(fence(2),)
    )
    survey = SurveyView(
        epoch=Epoch(3),
        started_ms=NOW_MS - 300,
        asked_ms=NOW_MS - 300,
        answers=(answer(2, 200), answer(3, 200)),
    )

    decision = decide_cluster(view(state, survey=survey))

    assert decision.reason is Reason.FURTHEST_CHOSEN
    [_, propose] = decision.actions
    assert isinstance(propose, Propose)
    assert isinstance(propose.command, Assign)
    assert propose.command.node == N3


def test_force_does_not_give_a_fenced_node_the_role() -> None:
    state = cluster_state(
        assignment=assignment(revoked=True, vouched=True, vouched_term=5),
        orders=(order(2, order=OrderKind.FAILOVER, force=True),),
        fences=(fence(2),),
    )
    survey = SurveyView(
        epoch=Epoch(3),
        started_ms=NOW_MS - 3_000,
        asked_ms=NOW_MS - 10,
        answers=(answer(2, 200),),
    )

    decision = decide_cluster(view(state, survey=survey))

    assert decision.reason is Reason.COMMITS_MAY_BE_MISSING


def test_a_fenced_primary_hands_its_role_over_to_the_best() -> None:
    decision = decide_cluster(view(cluster_state(fences=(fence(),))))

    assert decision.reason is Reason.FENCED_HANDS_OVER
    made = given(decision).order
    assert (made.target, made.drain_ms) == (N3, 500)
    assert made.cause == "n1 is fenced: a test"


def test_a_fenced_primary_serves_until_somebody_can_take_the_role() -> None:
    state = cluster_state(fences=(fence(),))
    lonely = received(primary_report())

    leader = decide_cluster(cluster_view(state=state, at=AT, reports=lonely))
    holder = decide_node(holder_view(state=state))

    assert leader.reason is Reason.PRIMARY_HAS_LEASE
    assert holder.reason is Reason.FENCED_WAITS


@pytest.mark.parametrize(
    ("after_ms", "gives"), [(AGAIN_MS - 1, False), (AGAIN_MS, True)]
)
def test_a_hand_over_that_failed_is_repeated_after_a_while(
    after_ms: int, gives: bool
) -> None:
    failed = order(outcome=OrderOutcome.FAILED, settled_at=AT)
    state = cluster_state(fences=(fence(),), orders=(failed,))

    reason = decide_cluster(view(state, later(AT, after_ms))).reason

    assert (reason is Reason.FENCED_HANDS_OVER) is gives


def test_by_force_a_primary_stops_at_once_and_gives_its_epoch_back() -> None:
    state = cluster_state(fences=(fence(force=True),), paused=True)
    running = holder_view(state=state)
    stopped = holder_view(state=state, postgres=STOPPED)

    stop = StopPostgres(mode=StopMode.FAST, reason=Reason.FENCED_BY_OPERATOR)
    assert decide_node(running) == Decision(Reason.FENCED_BY_OPERATOR, (stop,))
    assert duty(running) is Duty.FENCED
    released = decide_node(stopped)
    assert released.reason is Reason.FENCED_BY_OPERATOR
    assert isinstance(released.actions[-1], Propose)
    assert isinstance(released.actions[-1].command, Release)


def test_who_follows_a_primary_that_was_fenced_by_force_is_found_under_pause() -> None:
    """A fence by force is an operator's word; a primary that ended by itself is not."""
    gone = cluster_state(assignment=assignment(released=True), paused=True)
    for fences, expected in (
        ((fence(force=True),), Reason.HOLDER_RELEASED),
        ((fence(force=False),), Reason.PAUSED),
        ((replace(fence(force=True), node=N2),), Reason.PAUSED),
        ((), Reason.PAUSED),
    ):
        state = replace(gone, fences=fences)
        assert decide_cluster(view(state)).reason is expected


def test_the_leader_orders_nothing_for_a_primary_that_stops_by_force() -> None:
    state = cluster_state(fences=(fence(force=True),))

    assert decide_cluster(view(state)).reason is Reason.PRIMARY_HAS_LEASE


def test_a_holder_whose_epoch_ended_gives_it_up_fenced_or_not() -> None:
    state = cluster_state(
        assignment=assignment(revoked=True), fences=(fence(force=True),)
    )

    assert duty(holder_view(state=state)) is Duty.GIVE_UP


def test_a_fence_says_beforehand_what_would_suffer() -> None:
    state = cluster_state()
    last = cluster_state(fences=(fence(2), fence(3)))

    assert why_not_fence(state, KNOWN, N1) is None
    assert why_not_fence(state, KNOWN, N2) is None
    lonely = why_not_fence(state, known_reports(primary_report()), N1)
    assert "no standby can take the role over now" in str(lonely)
    headless = replace(last, assignment=assignment(released=True))
    assert "would be left" in str(why_not_fence(headless, KNOWN, N1))
    assert why_not_fence(headless, KNOWN, N3) is None


def test_the_set_is_not_weakened_for_a_fence_around_a_strangers_name() -> None:
    state = cluster_state(fences=(fence(9),))

    decision = decide_node(holder_view(state=state))

    assert decision.reason is Reason.PRIMARY_RUNNING
    assert not any(
        isinstance(a, Propose) and isinstance(a.command, SetSync)
        for a in decision.actions
    )
