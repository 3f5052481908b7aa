"""What is done before, or put off, so that writes stop for a short time only."""

from dataclasses import replace

from pgbastion.control.node import decide_node
from pgbastion.control.node_primary import CHECKPOINT_AFTER_MS
from pgbastion.control.node_steps import REJOIN_AFTER_MS
from pgbastion.model.actions import Checkpoint, Decision, Examine, ReadySlots
from pgbastion.model.ids import Epoch
from pgbastion.model.reasons import Reason
from pgbastion.model.views import DataView, NodeView
from pgbastion.testing.views import (
    NOW_MS,
    STOPPED,
    data_id,
    holder_view,
    primary_server,
    standby_view,
)
from support.ordering import BEGUN, N1, N3, order, ordered


def test_the_target_has_its_slots_before_the_old_primary_stops() -> None:
    decision = decide_node(standby_view(state=BEGUN))

    action = ReadySlots(order_id="o1", nodes=(N1, N3))
    assert decision == Decision(Reason.KEEPING_SLOTS, (action,))


def test_once_they_are_there_it_streams_on() -> None:
    decision = decide_node(standby_view(state=BEGUN, prepared="o1"))

    assert decision.reason is Reason.FOLLOWING


def test_only_the_target_of_a_begun_order_makes_slots_for_it() -> None:
    other = standby_view(state=ordered(begun=True, target=N3))

    assert decide_node(other).reason is Reason.FOLLOWING
    assert decide_node(standby_view(state=ordered())).reason is Reason.FOLLOWING


def test_a_standby_that_did_not_get_the_role_is_ready_for_no_order() -> None:
    failed = ordered(begun=True, outcome="failed")

    decision = decide_node(standby_view(state=failed, prepared="o1"))

    assert decision.actions == (ReadySlots(order_id="", nodes=()),)


def fresh(promoted_ms: int) -> NodeView:
    server = primary_server(checkpointed=False, promoted_ms=promoted_ms)
    return holder_view(postgres=server)


def test_the_first_clients_have_the_disk_before_the_checkpoint() -> None:
    waits = decide_node(fresh(NOW_MS - CHECKPOINT_AFTER_MS + 1))
    goes = decide_node(fresh(NOW_MS - CHECKPOINT_AFTER_MS))

    assert waits.actions == ()
    assert waits.wake_at_ms == NOW_MS + 1
    assert goes.actions == (Checkpoint(),)
    assert waits.reason is goes.reason is Reason.CHECKPOINT_AFTER_PROMOTION


def returning(opened_ms: int) -> NodeView:
    """Return the view of a stopped former primary."""
    data = DataView(empty=False, ours=True, data_id=data_id(2), promoted_epoch=Epoch(2))
    view = standby_view(data=data, postgres=STOPPED, opened_ms=opened_ms)
    return replace(view, lease=replace(view.lease, ended_epoch=Epoch(2)))


def test_the_first_clients_have_the_machine_before_the_old_primary_returns() -> None:
    waits = decide_node(returning(NOW_MS - REJOIN_AFTER_MS + 1))
    goes = decide_node(returning(NOW_MS - REJOIN_AFTER_MS))

    assert waits == Decision(Reason.PRIMARY_NOT_OPEN, (), NOW_MS + 1, detail="n1")
    assert goes.actions == (Examine(primary=N1, epoch=Epoch(3)),)


def test_in_strict_mode_nobody_waits_whom_a_commit_may_need() -> None:
    view = returning(NOW_MS)

    decision = decide_node(replace(view, state=replace(view.state, strict=True)))

    assert decision.actions == (Examine(primary=N1, epoch=Epoch(3)),)


def test_an_order_is_for_one_target() -> None:
    assert order().target == standby_view().node
