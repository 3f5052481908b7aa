"""A node that serves as the primary."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node
from pgbastion.control.node_sync import CONFIRM_AGAIN_MS, SYNC_LAG_MAX_BYTES
from pgbastion.model.actions import (
    ApplySyncSet,
    Checkpoint,
    Decision,
    EndEpoch,
    KeepSlots,
    Propose,
)
from pgbastion.model.cluster import NOBODY, ReplicationMode, SyncSet
from pgbastion.model.commands import Opened, SetSync
from pgbastion.model.ids import DataId, Epoch, Revision, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.views import NodeView
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    INCARNATION,
    NOW_MS,
    any_of,
    cluster_state,
    end,
    holder_view,
    member,
    node_name,
    opened,
    primary_server,
    row,
)
from support.holding import (
    E3,
    UNPROMOTED,
    WATCH_MS,
    kill,
)

# Serving


def test_a_primary_that_is_well_is_left_alone() -> None:
    assert decide_node(holder_view()) == Decision(Reason.PRIMARY_RUNNING, (), WATCH_MS)


def test_a_primary_of_an_earlier_epoch_is_killed() -> None:
    """Every new epoch begins with a promotion."""
    data = replace(holder_view().data, promoted_epoch=Epoch(2))
    decision = decide_node(holder_view(data=data))
    cause = Reason.EARLIER_EPOCH_RUNS
    assert (decision.reason, decision.actions) == (cause, kill(cause))


def test_a_primary_on_another_timeline_is_killed_and_its_epoch_ended() -> None:
    decision = decide_node(holder_view(postgres=primary_server(timeline=Timeline(5))))
    assert decision.reason is Reason.WRONG_TIMELINE
    assert decision.actions == (EndEpoch(epoch=E3), *kill(Reason.WRONG_TIMELINE))


def test_a_timeline_that_is_not_known_yet_is_no_fault() -> None:
    view = holder_view(postgres=primary_server(timeline=None))
    assert decide_node(view).reason is Reason.PRIMARY_RUNNING


def test_a_silent_server_is_killed_without_waiting_for_its_lease() -> None:
    view = holder_view(postgres=primary_server(evidence_ms=NOW_MS - 1_999))
    assert decide_node(view).reason is Reason.PRIMARY_RUNNING

    hung = holder_view(postgres=primary_server(evidence_ms=NOW_MS - 2_000))
    decision = decide_node(hung)
    assert (decision.reason, decision.actions) == (
        Reason.POSTGRES_HUNG,
        kill(Reason.POSTGRES_HUNG),
    )


# Opening


def opening(**changes: object) -> NodeView:
    """Return the view of a primary that has just been promoted."""
    server = primary_server(server_sync=None, promoted_ms=NOW_MS - 999)
    made = holder_view(state=UNPROMOTED, postgres=server)
    return replace(made, postgres=replace(server, **changes))  # type: ignore[arg-type]


def opened_with(decision: Decision) -> SyncSet:
    assert decision.reason is Reason.OPENING
    (action,) = decision.actions
    assert isinstance(action, Propose)
    assert isinstance(action.command, Opened)
    assert (action.command.epoch, action.command.incarnation) == (E3, INCARNATION)
    return action.command.sync


def test_an_epoch_opens_when_enough_have_flushed_the_promotion() -> None:
    view = opening(replication=(row(2, 60), row(3, 59)))
    assert opened_with(decide_node(view)) == any_of(1, 2)


@pytest.mark.parametrize(
    "replication",
    [(), (row(2, 59),), (row(2, streaming=False),), (row(1), row(9))],
    ids=["nobody", "behind", "silent", "stranger"],
)
def test_an_epoch_waits_for_its_first_standby(replication: object) -> None:
    decision = decide_node(opening(replication=replication))
    assert decision == Decision(Reason.WAITING_FOR_SYNC_STANDBY, (), NOW_MS + 1)


def test_an_epoch_does_not_open_before_the_end_of_the_promotion_is_known() -> None:
    decision = decide_node(opening(promoted_at=None))
    assert (decision.reason, decision.actions) == (Reason.PROMOTION_RUNNING, ())


def test_an_epoch_opens_degraded_after_a_while() -> None:
    view = opening(replication=(), promoted_ms=NOW_MS - 1_000)
    decision = decide_node(view)
    assert opened_with(decision) == NOBODY
    assert decision.detail == "nobody"


def test_strict_never_opens_degraded() -> None:
    view = opening(replication=(), promoted_ms=1)
    strict = replace(view, state=replace(view.state, strict=True, opened=None))
    assert decide_node(strict).reason is Reason.WAITING_FOR_SYNC_STANDBY
    assert decide_node(strict).wake_at_ms == WATCH_MS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mode": ReplicationMode.ASYNC}, NOBODY),
        ({"sync_count": 0}, NOBODY),
        ({"sync_count": None}, any_of(1, 2, 3)),
        ({"sync_count": 2}, any_of(2, 2, 3)),
    ],
    ids=["async", "none", "auto", "two"],
)
def test_the_first_set_is_as_large_as_the_policy_says(
    changes: dict[str, object], expected: SyncSet
) -> None:
    view = opening()
    state = replace(view.state, **changes)  # type: ignore[arg-type]
    assert opened_with(decide_node(replace(view, state=state))) == expected


def test_tags_and_missing_data_keep_a_node_out_of_the_set() -> None:
    view = opening()
    members = (member(1), member(2, nosync=True), member(3, data_id=None))
    state = replace(view.state, members=members, sync_count=1)
    decision = decide_node(replace(view, state=state))
    assert decision.reason is Reason.WAITING_FOR_SYNC_STANDBY


# The synchronous set


def with_sync(replicated: SyncSet, **changes: object) -> NodeView:
    return holder_view(
        state=cluster_state(opened=opened(1, 3, replicated)),
        postgres=primary_server(**changes),
    )


def test_the_servers_setting_follows_the_wish() -> None:
    view = with_sync(any_of(1, 2, 3), server_sync=None)
    decision = decide_node(view)
    assert decision.reason is Reason.CHANGING_SYNC_SET
    assert decision.actions == (ApplySyncSet(sync=any_of(1, 2, 3)),)
    assert decision.detail == "any 1 of n2_a2, n3_a3"


def promise(sync: SyncSet) -> Propose:
    command = SetSync(
        revision=Revision(7), epoch=E3, incarnation=INCARNATION, sync=sync
    )
    return Propose(command=command)


def test_a_standby_that_came_is_promised_before_it_counts() -> None:
    view = with_sync(any_of(1, 2), server_sync=any_of(1, 2))
    decision = decide_node(view)
    assert decision.reason is Reason.CHANGING_SYNC_SET
    assert decision.actions == (promise(any_of(1, 2, 3)),)


def test_a_setting_is_confirmed_before_the_promise_is_strengthened() -> None:
    view = with_sync(
        any_of(1, 2, 3),
        server_sync=any_of(1, 2),
        sync_confirmed=False,
        replication=(row(2),),
    )
    view = replace(view, silent_since_ms={"n3_a3": NOW_MS - 1_000})
    decision = decide_node(view)
    assert decision.reason is Reason.CONFIRMING_SYNC_SET
    assert decision.actions == (ApplySyncSet(sync=any_of(1, 2)),)
    assert decision.wake_at_ms == NOW_MS + CONFIRM_AGAIN_MS

    sooner = replace(
        view,
        state=cluster_state(
            servers=4, opened=opened(1, 3, any_of(1, 2, 3, 4)), sync_count=1
        ),
        postgres=replace(
            view.postgres,
            server_sync=any_of(1, 2, 4),
            slots=(node_name(2), node_name(3), node_name(4)),
        ),
        silent_since_ms={"n3_a3": 1, "n4_a4": NOW_MS - 990},
    )
    assert decide_node(sooner).wake_at_ms == NOW_MS + 10
    assert decide_node(sooner).reason is Reason.CONFIRMING_SYNC_SET


def test_a_silent_standby_is_kept_for_a_while() -> None:
    view = with_sync(any_of(1, 2, 3), replication=(row(2),))
    kept = replace(view, silent_since_ms={"n3_a3": NOW_MS - 999})
    assert decide_node(kept) == Decision(Reason.PRIMARY_RUNNING, (), NOW_MS + 1)
    assert decide_node(view).wake_at_ms == NOW_MS + 1_000

    gone = replace(view, silent_since_ms={"n3_a3": NOW_MS - 1_000})
    assert decide_node(gone).actions == (ApplySyncSet(sync=any_of(1, 2)),)


def test_a_row_of_a_silent_standby_does_not_keep_it_in_the_set() -> None:
    """The row outlives a lost node by a time-out of TCP; commits would wait for it."""
    view = with_sync(any_of(1, 2, 3), replication=(row(2), row(3)))
    gone = replace(view, silent_since_ms={"n3_a3": NOW_MS - 1_000})
    assert decide_node(gone).actions == (ApplySyncSet(sync=any_of(1, 2)),)


def test_a_member_whose_data_was_replaced_leaves_at_once() -> None:
    fresh = member(3, data_id=DataId("b3"))
    view = with_sync(any_of(1, 2, 3), replication=(row(2),))
    state = replace(view.state, members=(member(1), member(2), fresh))
    assert decide_node(replace(view, state=state)).actions == (
        ApplySyncSet(sync=any_of(1, 2)),
    )


def test_a_standby_that_has_not_flushed_yet_does_not_join_the_set() -> None:
    """It streams once all was sent; commits would wait for its first flush."""
    view = with_sync(
        any_of(1, 2),
        server_sync=any_of(1, 2),
        earlier_end=Lsn(90),
        replication=(row(2, 100), row(3, 89)),
    )
    assert decide_node(view).reason is Reason.PRIMARY_RUNNING
    row_3 = row(3, 90)
    flushed = replace(view.postgres, replication=(row(2, 100), row_3))
    joined = replace(view, postgres=flushed)
    assert decide_node(joined).reason is Reason.CHANGING_SYNC_SET
    # A member that owes as much stays: it has its time to be silent.
    member_of = with_sync(
        any_of(1, 2, 3), earlier_end=Lsn(90), replication=(row(2, 100), row(3, 89))
    )
    assert decide_node(member_of).reason is Reason.PRIMARY_RUNNING


def test_a_standby_far_behind_does_not_join_the_set() -> None:
    far = SYNC_LAG_MAX_BYTES + 200
    view = with_sync(
        any_of(1, 2),
        server_sync=any_of(1, 2),
        wal_end=end(far),
        replication=(row(2, 100), row(3, 199)),
    )
    assert decide_node(view).reason is Reason.PRIMARY_RUNNING
    near = with_sync(
        any_of(1, 2),
        server_sync=any_of(1, 2),
        wal_end=end(far),
        replication=(row(2, 100), row(3, 200)),
    )
    assert decide_node(near).reason is Reason.CHANGING_SYNC_SET
    unknown = with_sync(any_of(1, 2), server_sync=any_of(1, 2), wal_end=None)
    assert decide_node(unknown).reason is Reason.CHANGING_SYNC_SET


def test_the_setting_does_not_move_while_a_promise_is_on_its_way() -> None:
    """It is settled first: the set in force, once more, refuses what comes late."""
    view = with_sync(any_of(1, 2, 3), server_sync=any_of(1, 2))
    decision = decide_node(replace(view, sync_unsettled=True))
    assert decision.reason is Reason.CHANGING_SYNC_SET
    assert decision.actions == (promise(any_of(1, 2, 3)),)


def test_the_set_is_left_alone_while_another_epochs_is_in_force() -> None:
    for former in (None, opened(2, 2, any_of(1, 1))):
        view = holder_view(state=cluster_state(opened=former))
        assert decide_node(view).reason is Reason.PRIMARY_RUNNING


# Slots and checkpoint


def test_there_is_a_slot_for_each_other_server() -> None:
    view = holder_view(postgres=primary_server(slots=(node_name(2), node_name(9))))
    wanted = (node_name(2), node_name(3))
    decision = decide_node(view)
    assert decision.reason is Reason.KEEPING_SLOTS
    assert decision.actions == (KeepSlots(nodes=wanted),)


def test_slots_are_left_alone_until_they_were_read() -> None:
    view = holder_view(postgres=primary_server(slots=None))
    assert decide_node(view).reason is Reason.PRIMARY_RUNNING


def test_a_new_primary_checkpoints() -> None:
    decision = decide_node(holder_view(postgres=primary_server(checkpointed=False)))
    assert decision.reason is Reason.CHECKPOINT_AFTER_PROMOTION
    assert decision.actions == (Checkpoint(),)


def test_a_checkpoint_that_goes_on_is_not_asked_for_again() -> None:
    view = holder_view(postgres=primary_server(checkpointed=False), checkpointing=True)
    decision = decide_node(view)
    assert decision.reason is Reason.CHECKPOINT_AFTER_PROMOTION
    assert decision.actions == ()
