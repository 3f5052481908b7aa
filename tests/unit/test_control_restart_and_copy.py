"""A restart and a copy by an order: what the node does, once, and when."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.apply import Outcome
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node
from pgbastion.control.restart_and_copy import RELEASE_WAIT_MS, may_work_under_pause
from pgbastion.control.routing import RoutingView, decide_routing
from pgbastion.control.sync_standbys import commits_wait_for
from pgbastion.control.wall_time import later
from pgbastion.model.actions import (
    Arm,
    Copy,
    Decision,
    PrepareHandOver,
    Propose,
    StartPrimary,
    StopPostgres,
)
from pgbastion.model.cluster import (
    NOBODY,
    ClusterState,
    Order,
    OrderKind,
    OrderOutcome,
)
from pgbastion.model.commands import (
    Assign,
    BeginOrder,
    BeginWork,
    GiveOrder,
    SettleOrder,
)
from pgbastion.model.ids import DataId, Epoch, MemberId, Revision, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import DataView, NodeView
from pgbastion.testing.views import (
    INCARNATION,
    NOW_MS,
    STOPPED,
    any_of,
    assignment,
    cluster_state,
    cluster_view,
    data_id,
    end,
    holder_view,
    member,
    node_name,
    opened,
    primary_report,
    primary_server,
    received,
    report,
    standby_server,
    standby_view,
)
from support.ordering import AT, LATER, N1, N2, N3, order
from support.orders import applied, outcome

STARTED_MS = NOW_MS - 20_000
RESTART, REINIT = OrderKind.RESTART, OrderKind.REINIT


def work(kind: OrderKind, number: int, **changes: object) -> Order:
    return order(number, order=kind, **changes)


def begun(kind: OrderKind, number: int, **changes: object) -> Order:
    facts = {"begun": True, "server_ms": STARTED_MS, "data_id": f"a{number}"}
    return work(kind, number, **{**facts, **changes})


def state(made: Order, **changes: Any) -> ClusterState:
    return cluster_state(orders=(made,), **changes)


def released(made: Order) -> ClusterState:
    """Return the state once no commit waits for ``n2``."""
    return state(made, opened=opened(1, 3, any_of(1, 3)))


def begins(number: int = 2, **changes: object) -> BeginWork:
    made = BeginWork(
        order_id="o1",
        member_id=MemberId(number),
        server_ms=STARTED_MS,
        data_id=f"a{number}",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


DONE = SettleOrder(order_id="o1", outcome=OrderOutcome.DONE, detail="", at="")
TOLD = received(
    primary_report(holding="o1"), report(2, holding="o1"), report(3, holding="o1")
)


# The state


def test_only_the_node_itself_begins_and_only_once() -> None:
    given = state(work(RESTART, 2))
    after = applied(given, begins())

    assert after.order == begun(RESTART, 2)
    assert outcome(after, begins()) is Outcome.NO_CHANGE
    assert outcome(given, begins(3)) is Outcome.UNKNOWN_MEMBER
    assert outcome(given, begins(order_id="x")) is Outcome.NO_SUCH_ORDER
    assert outcome(cluster_state(), begins()) is Outcome.NO_SUCH_ORDER
    assert outcome(state(order()), begins()) is Outcome.NO_SUCH_ORDER


def test_a_holder_does_not_begin_a_restart_as_a_change_of_the_primary() -> None:
    command = BeginOrder(order_id="o1", epoch=Epoch(3), incarnation=INCARNATION)

    assert outcome(state(work(RESTART, 1)), command) is Outcome.NO_SUCH_ORDER


def test_the_primary_may_be_restarted_but_never_copied() -> None:
    restart = GiveOrder(order=work(RESTART, 1))
    reinit = GiveOrder(order=work(REINIT, 1))

    assert outcome(cluster_state(), restart) is Outcome.OK
    assert outcome(cluster_state(), reinit) is Outcome.SENSELESS
    assert outcome(state(work(REINIT, 1)), begins(1)) is Outcome.SENSELESS


def test_what_is_begun_can_be_done_unlike_a_change_of_the_primary() -> None:
    assert outcome(state(begun(RESTART, 2)), DONE) is Outcome.OK
    assert outcome(state(order(begun=True)), DONE) is Outcome.SENSELESS


def test_a_change_of_the_primary_waits_for_no_copy() -> None:
    given = GiveOrder(order=order(3, order_id="o2"))

    after = applied(state(begun(REINIT, 2)), given)

    first, second = after.orders
    assert (first.outcome, second.outcome) == (OrderOutcome.SUPERSEDED, None)
    another = GiveOrder(order=work(RESTART, 3, order_id="o2"))
    assert outcome(state(work(REINIT, 2)), another) is Outcome.ORDER_OPEN


def test_a_new_primary_ends_the_order_without_calling_it_done() -> None:
    held = assignment(released=True, revoked=True)
    assign = Assign(
        revision=Revision(7),
        epoch=Epoch(4),
        member_id=MemberId(2),
        node=N2,
        data_id=DataId("a2"),
        timeline=Timeline(9),
        surveyed=end(100),
        cause="why",
        at=AT,
    )

    after = applied(state(begun(RESTART, 2), assignment=held), assign)

    assert after.orders[0].outcome is OrderOutcome.SUPERSEDED


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (work(RESTART, 2), OrderOutcome.EXPIRED),
        (begun(RESTART, 2), OrderOutcome.FAILED),
    ],
)
def test_what_is_not_done_in_time_ends(made: Order, what: OrderOutcome) -> None:
    decision = decide_cluster(cluster_view(state=state(made), at=later(LATER, 1)))

    [action] = decision.actions
    assert isinstance(action, Propose)
    assert isinstance(action.command, SettleOrder)
    assert action.command.outcome is what


# A standby


@pytest.mark.parametrize("kind", [RESTART, REINIT])
def test_the_primary_lets_it_out_of_the_synchronous_set_first(kind: OrderKind) -> None:
    given = state(work(kind, 2))

    primary = decide_node(holder_view(state=given))
    standby = decide_node(standby_view(state=given, at=AT))

    assert primary.reason is Reason.CHANGING_SYNC_SET
    assert primary.detail == "any 1 of n3_a3"
    assert standby.reason is Reason.LEAVING_SYNC_SET
    assert standby.actions == ()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(RESTART, Reason.RESTART_ORDERED), (REINIT, Reason.REINIT_ORDERED)],
)
def test_work_begins_once_no_commit_waits_for_the_standby(
    kind: OrderKind, reason: Reason
) -> None:
    decision = decide_node(standby_view(state=released(work(kind, 2)), at=AT))

    assert decision == Decision(reason, (Propose(command=begins()),))


def test_who_says_that_it_is_leaving_is_let_out_of_the_set_as_well() -> None:
    """Its daemon was told to stop: no commit may wait for the silence to be noticed."""
    view = holder_view()
    rest = received(report(2), report(3))
    stays = decide_node(replace(view, reports=rest))
    leaves = decide_node(
        replace(view, reports=received(report(2, leaving=True), report(3)))
    )

    assert stays.reason is Reason.PRIMARY_RUNNING
    assert leaves.reason is Reason.CHANGING_SYNC_SET
    assert leaves.detail == "any 1 of n3_a3"


def test_no_commit_rests_on_a_standby_whose_files_cannot_be_written() -> None:
    """Its directory was removed: it flushes into files that nobody finds again."""
    reports = {
        trouble: received(report(2, trouble=trouble), report(3)) for trouble in Trouble
    }
    decided = {
        trouble: decide_node(replace(holder_view(), reports=told))
        for trouble, told in reports.items()
    }

    lost = decided.pop(Trouble.DISK_FAILED)
    assert lost.reason is Reason.CHANGING_SYNC_SET
    assert lost.detail == "any 1 of n3_a3"
    # Who is slow, hangs or has a full disk has what it confirmed; silence is judged
    # by itself.
    assert {d.reason for d in decided.values()} == {Reason.PRIMARY_RUNNING}


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, True),
        ({"opened": opened(1, 3, NOBODY)}, False),
        ({"opened": opened(1, 2, any_of(1, 2, 3))}, False),
        ({"opened": opened(1, 3, any_of(1, 3))}, False),
        ({"assignment": assignment(revoked=True)}, False),
        ({"opened": None}, False),
        ({"members": (member(1), member(2, data_id=None), member(3))}, False),
    ],
)
def test_commits_wait_for_a_member_of_the_set_alone(
    changes: dict[str, object], waits: bool
) -> None:
    given = cluster_state(opened=opened(1, 3, any_of(1, 2, 3)))
    given = replace(given, **changes)  # type: ignore[arg-type]

    assert commits_wait_for(given, node_name(2)) is waits
    assert not commits_wait_for(given, node_name(1))


def test_a_standby_waits_a_bounded_time_to_leave_the_set() -> None:
    """In strict mode a set that would become too small stays as it is."""
    view = standby_view(state=state(work(RESTART, 2)), at=later(AT, RELEASE_WAIT_MS))

    assert decide_node(view).reason is Reason.RESTART_ORDERED


def test_nobody_waits_where_no_commit_waits_for_anybody() -> None:
    given = state(work(RESTART, 2), opened=opened(1, 3, NOBODY))

    assert decide_node(standby_view(state=given)).reason is Reason.RESTART_ORDERED


@pytest.mark.parametrize("kind", [RESTART, REINIT])
def test_begun_work_stops_the_server_that_was_noted(kind: OrderKind) -> None:
    decision = decide_node(standby_view(state=state(begun(kind, 2))))

    [action] = decision.actions
    assert isinstance(action, StopPostgres)
    assert action.budget_ms > 0


def test_another_server_means_that_the_restart_is_done() -> None:
    server = standby_server(started_ms=NOW_MS - 100)
    decision = decide_node(
        standby_view(state=state(begun(RESTART, 2)), postgres=server)
    )

    assert decision == Decision(
        Reason.WORK_DONE, (Propose(command=DONE),), detail="restart"
    )


def test_nodes_that_an_order_does_not_name_go_on_as_before() -> None:
    for kind in (RESTART, REINIT):
        other = standby_view(state=state(begun(kind, 3)))
        assert decide_node(other).reason is Reason.FOLLOWING
        primary = primary_server(server_sync=any_of(1, 3))
        holder = holder_view(state=released(begun(kind, 2)), postgres=primary)
        assert decide_node(holder).reason is Reason.PRIMARY_RUNNING


def stopped(made: Order, **changes: object) -> NodeView:
    data = DataView(empty=False, ours=True, data_id=data_id(2), was_standby=True)
    return standby_view(state=state(made), data=data, postgres=STOPPED, **changes)


def test_a_stopped_standby_is_copied_if_that_was_noted() -> None:
    copies = decide_node(stopped(begun(REINIT, 2)))
    notes = decide_node(stopped(work(REINIT, 2)))
    copied = decide_node(stopped(begun(REINIT, 2, data_id="another")))
    restarts = decide_node(stopped(begun(RESTART, 2)))

    copy = Copy(primary=N1, epoch=Epoch(3))
    assert copies == Decision(Reason.REINIT_ORDERED, (copy,), detail="n1")
    assert notes.actions == (Propose(command=begins(server_ms=0)),)
    assert copied.reason is restarts.reason is Reason.EXAMINING


def test_a_standby_whose_files_were_removed_under_it_is_copied_if_that_was_begun() -> (
    None
):
    """Else the order would stay open for ever, and be in the way of every other."""
    gone = replace(stopped(work(REINIT, 2)), data=DataView(empty=True, ours=False))
    copies = decide_node(replace(gone, state=state(begun(REINIT, 2))))
    ordered = decide_node(gone)
    restarts = decide_node(replace(gone, state=state(begun(RESTART, 2))))

    copy = Copy(primary=N1, epoch=Epoch(3))
    assert copies == Decision(Reason.COPYING, (copy,), detail="n1")
    assert ordered.reason is restarts.reason is Reason.DATA_DIRECTORY_MISSING


def test_a_copy_that_failed_is_repeated_after_a_while() -> None:
    view = stopped(begun(REINIT, 2), job_failed="disk full", job_failed_ms=NOW_MS - 10)

    decision = decide_node(view)

    assert decision.reason is Reason.REJOIN_FAILED
    assert decision.detail == "disk full"


def test_a_copy_is_done_when_the_directory_is_another() -> None:
    data = DataView(
        empty=False, ours=True, data_id=DataId("b2"), epoch=Epoch(3), was_standby=True
    )
    decision = decide_node(standby_view(state=state(begun(REINIT, 2)), data=data))

    assert decision.reason is Reason.WORK_DONE
    assert decision.detail == "reinit"


# The primary


def test_the_primary_prepares_holds_clients_and_stops() -> None:
    prepares = decide_node(holder_view(state=state(work(RESTART, 1))))
    busy = decide_node(holder_view(state=state(work(RESTART, 1)), checkpointing=True))
    notes = decide_node(holder_view(state=state(work(RESTART, 1)), prepared="o1"))
    holds = decide_node(
        holder_view(state=state(begun(RESTART, 1)), begun_ms=NOW_MS, reports=TOLD)
    )
    stops = decide_node(
        holder_view(state=state(begun(RESTART, 1)), begun_ms=1, reports=TOLD)
    )

    assert prepares.actions == (PrepareHandOver(order_id="o1", drain_ms=500),)
    assert busy.actions == ()
    assert notes.actions == (Propose(command=begins(1)),)
    assert (holds.reason, holds.actions) == (Reason.HOLDING_CLIENTS, ())
    [stop] = stops.actions
    assert isinstance(stop, StopPostgres)
    assert stop.reason is Reason.RESTART_ORDERED


def test_an_ordered_restart_keeps_the_epoch_although_a_standby_is_ready() -> None:
    view = holder_view(state=state(begun(RESTART, 1)), postgres=STOPPED)

    decision = decide_node(view)

    assert decision.reason is Reason.RESTARTING_IN_PLACE
    assert decision.actions == (Arm(epoch=Epoch(3)), StartPrimary(epoch=Epoch(3)))


def test_one_that_does_not_start_gives_the_role_to_a_standby() -> None:
    failed = replace(STOPPED, start_failures=1, start_failed_ms=NOW_MS - 10)
    view = holder_view(state=state(begun(RESTART, 1)), postgres=failed)

    assert decide_node(view).reason is Reason.CRASHED_STANDBY_READY


def test_a_restart_of_the_primary_is_done_when_the_new_server_serves() -> None:
    server = primary_server(started_ms=NOW_MS - 100)
    view = holder_view(state=state(begun(RESTART, 1)), postgres=server)

    assert decide_node(view).reason is Reason.WORK_DONE


@pytest.mark.parametrize(("number", "parks"), [(1, True), (2, False)])
def test_clients_wait_for_the_primarys_restart_only(number: int, parks: bool) -> None:
    routing = decide_routing(
        RoutingView(
            now_ms=NOW_MS,
            state=state(begun(RESTART, number)),
            reports=TOLD,
            report_max_ms=1_000,
            lag_max_bytes=1 << 30,
            accepting_epoch=Epoch(3),
        )
    )

    assert bool(routing.parking) is parks


def test_an_operators_word_goes_before_a_pause() -> None:
    paused = {"paused": True, "pause_revision": 1}
    here = standby_view(state=state(begun(RESTART, 2), **paused))
    waits = standby_view(state=state(work(RESTART, 2), **paused))
    primary = holder_view(state=state(begun(RESTART, 1), **paused))
    other = standby_view(state=state(begun(RESTART, 3), **paused))

    assert decide_node(here).reason is Reason.RESTART_ORDERED
    assert [may_work_under_pause(v) for v in (here, waits, primary, other)] == [
        True,
        False,
        True,
        False,
    ]
    assert N3 not in (N1, N2)
