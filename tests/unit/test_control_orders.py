"""Orders to change the primary: who may take it, and the holder's steps."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import Outcome
from pgbastion.control.apply_orders import ORDERS_MAX
from pgbastion.control.node import decide_node
from pgbastion.control.orders import (
    HOLD_PATIENCE_MS,
    LAG_MAX_BYTES,
    OPENING_MS,
    best_target,
    why_unfit,
)
from pgbastion.model.actions import (
    LatchRelease,
    PrepareHandOver,
    Propose,
    StopPostgres,
)
from pgbastion.model.cluster import (
    ClusterState,
    Order,
    OrderOutcome,
)
from pgbastion.model.commands import (
    Assign,
    BeginOrder,
    GiveOrder,
    Release,
    SettleOrder,
)
from pgbastion.model.ids import Epoch, Incarnation, NodeId, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import NodeView
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    INCARNATION,
    NOW_MS,
    STOPPED,
    any_of,
    assignment,
    cluster_state,
    end,
    holder_view,
    known_reports,
    member,
    node_name,
    opened,
    primary_report,
    received,
    report,
    standby_view,
)
from support.ordering import (
    AT,
    BEGUN,
    N1,
    N2,
    N3,
    order,
    ordered,
)
from support.orders import applied, outcome

BEGIN = BeginOrder(order_id="o1", epoch=Epoch(3), incarnation=INCARNATION)


def settle(
    outcome_: OrderOutcome = OrderOutcome.EXPIRED, order_id: str = "o1"
) -> SettleOrder:
    return SettleOrder(order_id=order_id, outcome=outcome_, detail="why", at=AT)


# The state


def test_an_order_is_taken_once() -> None:
    state = applied(cluster_state(), GiveOrder(order=order()))

    assert state.order == order()
    assert outcome(state, GiveOrder(order=order())) is Outcome.DUPLICATE


def test_one_order_is_carried_out_at_a_time() -> None:
    another = GiveOrder(order=order(3, order_id="o2"))

    assert outcome(ordered(), another) is Outcome.ORDER_OPEN


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (order(epoch=Epoch(2)), Outcome.WRONG_EPOCH),
        (order(9), Outcome.UNKNOWN_MEMBER),
        (order(1), Outcome.SENSELESS),
        (order(order_id=""), Outcome.SENSELESS),
        (order(drain_ms=-1), Outcome.SENSELESS),
    ],
)
def test_an_order_that_fits_no_state_is_refused(
    wrong: Order, expected: Outcome
) -> None:
    assert outcome(cluster_state(), GiveOrder(order=wrong)) is expected


def test_a_witness_is_ordered_nothing() -> None:
    members = (member(1), member(2, witness=True))

    given = outcome(cluster_state(members=members), GiveOrder(order=order()))

    assert given is Outcome.UNKNOWN_MEMBER


def test_an_order_comes_without_an_end() -> None:
    """Whatever a proposer writes there, only the log decides it."""
    forged = order(begun=True, outcome=OrderOutcome.DONE)

    assert applied(cluster_state(), GiveOrder(order=forged)).order == order()


def test_old_orders_are_forgotten() -> None:
    old = tuple(
        order(order_id=f"a{n}", outcome=OrderOutcome.DONE) for n in range(ORDERS_MAX)
    )

    state = applied(cluster_state(orders=old), GiveOrder(order=order()))

    assert len(state.orders) == ORDERS_MAX
    assert state.orders[-1] == order()


def test_the_holder_begins_an_order() -> None:
    state = applied(ordered(), BEGIN)

    assert state == replace(BEGUN, index=state.index)
    assert outcome(state, BEGIN) is Outcome.NO_CHANGE


@pytest.mark.parametrize(
    ("state", "command", "expected"),
    [
        (cluster_state(), BEGIN, Outcome.NO_SUCH_ORDER),
        (ordered(), replace(BEGIN, order_id="o2"), Outcome.NO_SUCH_ORDER),
        (ordered(), replace(BEGIN, epoch=Epoch(2)), Outcome.WRONG_EPOCH),
        (
            ordered(),
            replace(BEGIN, incarnation=Incarnation(1)),
            Outcome.WRONG_INCARNATION,
        ),
        (
            replace(ordered(), assignment=assignment(revoked=True)),
            BEGIN,
            Outcome.EPOCH_OVER,
        ),
    ],
)
def test_only_the_living_holder_begins_an_order_for_its_epoch(
    state: ClusterState, command: BeginOrder, expected: Outcome
) -> None:
    assert outcome(state, command) is expected


def test_an_order_that_was_not_begun_ends_as_it_is_told() -> None:
    state = applied(ordered(), settle())

    assert state.order is None
    assert state.orders[-1].outcome is OrderOutcome.EXPIRED
    assert outcome(state, settle()) is Outcome.NO_SUCH_ORDER


def test_an_order_that_was_begun_does_not_expire_but_may_fail() -> None:
    assert outcome(BEGUN, settle()) is Outcome.SENSELESS
    assert applied(BEGUN, settle(OrderOutcome.FAILED)).order is None


@pytest.mark.parametrize(
    ("number", "expected"), [(2, OrderOutcome.DONE), (3, OrderOutcome.OTHER_CHOSEN)]
)
def test_the_next_assignment_ends_an_order(number: int, expected: OrderOutcome) -> None:
    free = replace(BEGUN, assignment=assignment(released=True, revoked=True))
    command = Assign(
        revision=free.revision,
        epoch=Epoch(4),
        member_id=member(number).member_id,
        node=node_name(number),
        data_id=member(number).data_id,  # type: ignore[arg-type]
        timeline=Timeline(5),
        surveyed=end(100),
        cause="why",
        at=AT,
    )

    state = applied(free, command)

    assert state.order is None
    assert state.orders[-1].outcome is expected
    assert (node_name(number) in state.orders[-1].detail) == (number == 3)


def test_a_release_says_where_the_server_ended() -> None:
    release = Release(
        epoch=Epoch(3),
        incarnation=INCARNATION,
        lsn=Lsn(200),
        cause="",
        at=AT,
        ended_at=end(200),
    )

    state = applied(BEGUN, release)

    assert state.assignment is not None
    assert state.assignment.ended_at == end(200)


# Who can take the role


def standby(number: int = 2, **changes: object) -> NodeReport:
    return report(number, replay_lsn=Lsn(100), **changes)


def why(
    state: ClusterState, *reports: NodeReport, to: NodeId = N2, fresh_since_ms: int = 0
) -> str:
    known = known_reports(*reports, fresh_since_ms=fresh_since_ms)
    return why_unfit(state, known, to) or ""


def test_a_synchronous_standby_that_streams_can_take_the_role() -> None:
    assert why(cluster_state(), primary_report(), standby()) == ""


@pytest.mark.parametrize(
    ("state", "reports", "said"),
    [
        (cluster_state(assignment=None), (), "no primary"),
        (cluster_state(assignment=assignment(2)), (standby(),), "is the primary"),
        (cluster_state(members=(member(1),)), (standby(),), "not a member"),
        (
            cluster_state(members=(member(1), member(2, nofailover=True))),
            (standby(),),
            "nofailover",
        ),
        (cluster_state(), (primary_report(),), "silent"),
        (
            cluster_state(),
            (primary_report(), standby(state=PostgresState.STARTING)),
            "does not stream",
        ),
        (
            cluster_state(),
            (primary_report(), standby(streaming=False)),
            "does not stream",
        ),
        (
            cluster_state(opened=opened(1, 2, any_of(1, 2, 3))),
            (primary_report(), standby()),
            "being promoted",
        ),
        (
            cluster_state(),
            (primary_report(), standby(data_id="other")),
            "another data directory",
        ),
        (
            cluster_state(opened=opened(1, 3, any_of(1, 3))),
            (primary_report(), standby()),
            "synchronous set",
        ),
        (cluster_state(), (standby(),), "unknown"),
        (
            cluster_state(),
            (primary_report(), standby(wal_end=end(100, 3))),
            "on timeline 3",
        ),
        (
            cluster_state(),
            (primary_report(wal_end=end(LAG_MAX_BYTES + 101)), standby()),
            "receives",
        ),
        (
            cluster_state(),
            (
                primary_report(wal_end=end(LAG_MAX_BYTES + 101)),
                standby(wal_end=end(LAG_MAX_BYTES + 101)),
            ),
            "replays",
        ),
    ],
)
def test_a_node_that_cannot_take_the_role_is_refused_with_the_reason(
    state: ClusterState, reports: tuple[NodeReport, ...], said: str
) -> None:
    assert said in why(state, *reports)


def test_a_new_segment_that_the_target_has_not_heard_of_is_no_lag() -> None:
    """Two ends of one probe apart: the target is judged by the earlier one."""
    ahead = end(LAG_MAX_BYTES + 101)
    primary = primary_report(wal_end=ahead, earlier_end=Lsn(100))
    behind = primary_report(wal_end=ahead, earlier_end=ahead.lsn)

    assert why(cluster_state(), primary, standby()) == ""
    assert "receives" in why(cluster_state(), behind, standby())


def test_an_old_report_says_nothing() -> None:
    found = why(
        cluster_state(), primary_report(), standby(), fresh_since_ms=NOW_MS - 50
    )

    assert "silent" in found


def test_without_synchronous_standbys_any_that_streams_can_take_the_role() -> None:
    state = cluster_state(opened=opened(1, 3, any_of(0)))

    assert why(state, primary_report(), standby()) == ""


def test_the_best_is_who_has_replayed_most_and_priority_goes_first() -> None:
    reports = known_reports(
        primary_report(), standby(2), report(3, replay_lsn=Lsn(101), wal_end=end(101))
    )
    prefers = cluster_state(
        members=(member(1), member(2, failover_priority=2), member(3))
    )

    assert best_target(cluster_state(), reports) == N3
    assert best_target(prefers, reports) == N2
    assert best_target(cluster_state(), known_reports()) is None


# The holder


def holder(state: ClusterState, *reports: NodeReport, **changes: object) -> NodeView:
    given = reports or (primary_report(), standby(2), standby(3))
    return holder_view(state=state, reports=received(*given), **changes)


def test_the_holder_prepares_while_it_serves() -> None:
    decision = decide_node(holder(ordered()))

    assert decision.reason is Reason.PREPARING_HANDOVER
    assert decision.actions == (PrepareHandOver(order_id="o1", drain_ms=500),)
    assert decide_node(holder(ordered(), checkpointing=True)).actions == ()


def test_an_order_waits_while_its_node_cannot_take_the_role() -> None:
    decision = decide_node(holder(ordered(), primary_report(), standby(3)))

    assert (decision.reason, decision.actions) == (Reason.HANDOVER_WAITS, ())


def test_an_order_of_another_epoch_is_void() -> None:
    decision = decide_node(holder(ordered(epoch=Epoch(2))))

    assert decision.reason is Reason.PRIMARY_RUNNING


def test_the_holder_begins_once_it_is_prepared() -> None:
    decision = decide_node(holder(ordered(), prepared="o1"))

    assert decision.actions == (Propose(command=BEGIN),)


def holding() -> tuple[NodeReport, ...]:
    return (
        primary_report(holding="o1"),
        standby(2, holding="o1"),
        standby(3, holding="o1"),
    )


def test_the_holder_stops_once_all_proxies_hold() -> None:
    begun_ms = NOW_MS - OPENING_MS

    decision = decide_node(holder(BEGUN, *holding(), begun_ms=begun_ms))

    assert decision.reason is Reason.HANDING_OVER
    [stop] = decision.actions
    assert isinstance(stop, StopPostgres)
    # All of the lease but its margin.
    assert stop.budget_ms == 4_000


def test_sessions_that_are_being_opened_get_a_moment() -> None:
    decision = decide_node(holder(BEGUN, *holding(), begun_ms=NOW_MS))

    assert (decision.reason, decision.actions) == (Reason.HOLDING_CLIENTS, ())


def test_a_proxy_that_says_nothing_is_waited_for_a_moment_only() -> None:
    reports = (*holding()[:2], standby(3))

    waits = decide_node(holder(BEGUN, *reports, begun_ms=NOW_MS - HOLD_PATIENCE_MS + 1))
    goes = decide_node(holder(BEGUN, *reports, begun_ms=NOW_MS - HOLD_PATIENCE_MS))

    assert (waits.reason, waits.detail) == (Reason.HOLDING_CLIENTS, "n3")
    assert goes.reason is Reason.HANDING_OVER


def test_a_holder_whose_target_is_lost_before_the_stop_goes_on() -> None:
    decision = decide_node(holder(BEGUN, primary_report(holding="o1")))

    [proposal] = decision.actions
    assert isinstance(proposal, Propose)
    assert isinstance(proposal.command, SettleOrder)
    assert proposal.command.outcome is OrderOutcome.FAILED


def test_a_holder_that_has_ended_for_an_order_gives_its_epoch_back() -> None:
    decision = decide_node(holder(BEGUN, postgres=STOPPED, ended_at=end(200)))

    assert decision.reason is Reason.HANDED_OVER
    assert any(isinstance(a, LatchRelease) for a in decision.actions)
    [release] = [a.command for a in decision.actions if isinstance(a, Propose)]
    assert isinstance(release, Release)
    assert release.ended_at == end(200)


def test_an_order_is_carried_out_under_pause() -> None:
    paused = replace(BEGUN, paused=True, pause_revision=1)

    decision = decide_node(holder(paused, *holding()))

    assert decision.reason is Reason.HANDING_OVER


def test_who_handed_over_under_pause_becomes_a_standby() -> None:
    done = order(begun=True, outcome=OrderOutcome.DONE)
    state = cluster_state(
        paused=True,
        pause_revision=1,
        orders=(done,),
        assignment=assignment(2, epoch=4, running=1),
    )
    view = standby_view(state=state, postgres=STOPPED)
    handed_over = replace(view.data, promoted_epoch=Epoch(3))

    decision = decide_node(
        replace(
            view,
            node=N1,
            member_id=member(1).member_id,
            data=handed_over,
            lease=replace(view.lease, ended_epoch=Epoch(3)),
        )
    )

    assert decision.reason is Reason.STARTING_STANDBY
