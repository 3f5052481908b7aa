"""What the holder of an epoch does, one rule a test."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node
from pgbastion.control.node_primary import (
    CONFIRM_AGAIN_MS,
    START_FAILURES_MAX,
    SYNC_LAG_MAX_BYTES,
)
from pgbastion.control.node_steps import stop
from pgbastion.model.actions import (
    ApplySyncSet,
    Arm,
    Checkpoint,
    Decision,
    EndEpoch,
    HoldLease,
    KeepSlots,
    LatchRelease,
    Promote,
    Propose,
    StartPrimary,
    StartStandby,
    StopMode,
    StopPostgres,
)
from pgbastion.model.cluster import NOBODY, ReplicationMode, SyncSet
from pgbastion.model.commands import Opened, Release, Resume, SetSync
from pgbastion.model.ids import DataId, Epoch, Incarnation, Revision, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.views import DataView, NodeView, PostgresView
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    IDLE_LEASE,
    INCARNATION,
    NOW_MS,
    STOPPED,
    any_of,
    assignment,
    cluster_state,
    end,
    holder_view,
    lease_view,
    member,
    node_name,
    opened,
    primary_report,
    primary_server,
    received,
    report,
    row,
    standby_server,
)

E3 = Epoch(3)
WATCH_MS = NOW_MS + 1_900
OTHER = Incarnation(5)


def kill(reason: Reason) -> tuple[StopPostgres, ...]:
    return (StopPostgres(mode=StopMode.KILL, reason=reason),)


def release(cause: Reason, lsn: int | None = None) -> Propose:
    command = Release(
        epoch=E3,
        incarnation=INCARNATION,
        lsn=None if lsn is None else Lsn(lsn),
        cause=cause,
        at="",
    )
    return Propose(command=command)


GIVING_BACK = (EndEpoch(epoch=E3), LatchRelease(epoch=E3))
TAKING_UP = Propose(
    command=Resume(
        epoch=E3,
        member_id=assignment().member_id,
        incarnation=INCARNATION,
        former=OTHER,
    )
)
UNPROMOTED = cluster_state(assignment=assignment(opened=False))
STANDBY_DATA = replace(holder_view().data, promoted_epoch=Epoch(0), was_standby=True)


def candidate(**changes: object) -> NodeView:
    """Return the view of a holder that still runs as a standby."""
    made = holder_view(
        state=UNPROMOTED,
        data=STANDBY_DATA,
        postgres=standby_server(following=None),
        lease=lease_view(armed_epoch=Epoch(0)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


# Taking up, renewing


@pytest.mark.parametrize(
    "view",
    [
        holder_view(),
        holder_view(postgres=primary_server(in_recovery=None)),
        candidate(),
        candidate(postgres=standby_server(in_recovery=None)),
        candidate(postgres=STOPPED),
    ],
    ids=["primary", "promoting", "standby", "starting", "stopped"],
)
def test_a_daemon_takes_its_epoch_up_first(view: NodeView) -> None:
    held = view.state.assignment
    assert held is not None
    state = replace(view.state, assignment=replace(held, incarnation=OTHER))
    decision = decide_node(replace(view, state=state))
    assert (decision.reason, decision.actions) == (Reason.RESUMING, (TAKING_UP,))


@pytest.mark.parametrize(
    "view",
    [
        holder_view(lease=lease_view(renewing=Epoch(0))),
        holder_view(
            lease=lease_view(renewing=Epoch(0)),
            postgres=primary_server(in_recovery=None),
        ),
        candidate(lease=replace(IDLE_LEASE)),
        candidate(lease=IDLE_LEASE, postgres=standby_server(in_recovery=None)),
    ],
    ids=["primary", "promoting", "standby", "starting"],
)
def test_a_holder_renews(view: NodeView) -> None:
    decision = decide_node(view)
    assert decision.reason is Reason.WAITING_FOR_LEASE
    assert decision.actions == (HoldLease(epoch=E3),)


@pytest.mark.parametrize("in_recovery", [False, None], ids=["primary", "promoting"])
def test_what_may_write_stops_before_its_lease_ends(
    in_recovery: bool | None,
) -> None:
    view = holder_view(
        postgres=primary_server(in_recovery=in_recovery),
        lease=lease_view(expiry_ms=NOW_MS + 1_700 + 500),
    )
    stop = StopPostgres(mode=StopMode.FAST, reason=Reason.LEASE_EXPIRING)
    decision = decide_node(view)
    assert (decision.reason, decision.actions) == (Reason.LEASE_EXPIRING, (stop,))

    longer = replace(view, lease=lease_view(expiry_ms=NOW_MS + 1_700 + 501))
    assert decide_node(longer).reason is not Reason.LEASE_EXPIRING


def test_a_lease_of_another_epoch_is_none() -> None:
    decision = decide_node(holder_view(lease=lease_view(2)))
    assert (decision.reason, decision.actions) == (
        Reason.FENCING,
        kill(Reason.FENCING),
    )


# Promotion


def test_a_candidate_arms_before_it_promotes() -> None:
    decision = decide_node(candidate())
    promote = Promote(epoch=E3, timeline=Timeline(4), surveyed=end(100, 3))
    assert decision == Decision(Reason.PROMOTING, (Arm(epoch=E3), promote))


@pytest.mark.parametrize(
    "lease",
    [lease_view(2, renewing=E3, armed_epoch=0), lease_view(expiry_ms=NOW_MS)],
    ids=["of another epoch", "over"],
)
def test_a_candidate_promotes_only_with_a_lease(lease: object) -> None:
    view = candidate(lease=replace(lease, armed_epoch=Epoch(0)))  # type: ignore[type-var]
    assert decide_node(view) == Decision(Reason.WAITING_FOR_LEASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": replace(STANDBY_DATA, data_id=DataId("new"))},
        {"data_changed": True},
    ],
    ids=["data id", "end of WAL"],
)
@pytest.mark.parametrize("server", [standby_server(), STOPPED], ids=["up", "down"])
def test_only_what_was_surveyed_is_promoted(
    server: PostgresView, changes: dict[str, object]
) -> None:
    cause = Reason.SURVEYED_DATA_CHANGED
    decision = decide_node(candidate(postgres=server, **changes))
    lsn = 100 if server.wal_end else None
    assert decision == Decision(cause, (*GIVING_BACK, release(cause, lsn)))


def test_a_stopped_candidate_starts_as_a_standby() -> None:
    start = StartStandby(primary=None, epoch=E3, for_promotion=True)
    assert decide_node(candidate(postgres=STOPPED)) == Decision(
        Reason.STARTING_FOR_PROMOTION, (start,)
    )
    asked_before = replace(STANDBY_DATA, promoted_epoch=E3)
    assert decide_node(candidate(postgres=STOPPED, data=asked_before)).reason is (
        Reason.STARTING_FOR_PROMOTION
    )
    earlier = replace(holder_view().data, promoted_epoch=Epoch(2))
    assert decide_node(candidate(postgres=STOPPED, data=earlier)).reason is (
        Reason.STARTING_FOR_PROMOTION
    )


def test_a_candidate_that_fails_to_start_is_tried_again_after_a_pause() -> None:
    server = PostgresView(running=False, start_failures=1, start_failed_ms=NOW_MS)
    assert decide_node(candidate(postgres=server)) == Decision(
        Reason.REJOIN_FAILED, (), NOW_MS + 1_000
    )


def test_a_starting_candidate_gets_its_time() -> None:
    server = standby_server(in_recovery=None, started_ms=NOW_MS)
    assert decide_node(candidate(postgres=server)).reason is Reason.WAITING_FOR_START


def promoting(**changes: object) -> NodeView:
    """Return the view of an armed holder whose server is in recovery."""
    server = standby_server(following=None, promote_asked=True)
    return candidate(lease=lease_view(), postgres=server, **changes)


def test_a_promotion_is_waited_for() -> None:
    decision = decide_node(promoting())
    assert (decision.reason, decision.actions) == (Reason.PROMOTION_RUNNING, ())


def test_a_start_as_primary_is_waited_for() -> None:
    decision = decide_node(holder_view(postgres=primary_server(in_recovery=None)))
    assert (decision.reason, decision.actions) == (Reason.PROMOTION_RUNNING, ())


def test_a_promotion_that_a_former_daemon_began_is_asked_for_again() -> None:
    view = promoting()
    view = replace(view, postgres=replace(view.postgres, promote_asked=False))
    promote = Promote(epoch=E3, timeline=Timeline(4), surveyed=end(100, 3))
    assert decide_node(view).actions == (promote,)
    other = replace(view, lease=lease_view(armed_epoch=Epoch(2)))
    assert decide_node(other).actions == (Arm(epoch=E3), promote)


def test_an_armed_candidate_whose_data_changed_is_killed() -> None:
    """Asked for ever, it would hold its epoch for ever."""
    view = promoting(data_changed=True)
    view = replace(view, postgres=replace(view.postgres, promote_asked=False))
    decision = decide_node(view)
    cause = Reason.SURVEYED_DATA_CHANGED
    assert (decision.reason, decision.actions) == (cause, kill(cause))


@pytest.mark.parametrize("since", ["started_ms", "evidence_ms", "asked_ms"])
def test_a_promotion_that_never_ends_is_killed(since: str) -> None:
    old = {"started_ms": 1, "evidence_ms": 1}
    lease = lease_view()
    if since == "asked_ms":
        lease = replace(lease, asked_ms=NOW_MS - 59_999)
    else:
        old[since] = NOW_MS - 59_999
    view = promoting()
    server = replace(view.postgres, **old)  # type: ignore[arg-type]
    view = replace(view, lease=lease, postgres=server)
    assert decide_node(view).reason is Reason.PROMOTION_RUNNING
    assert decide_node(view).wake_at_ms == NOW_MS + 1

    late = decide_node(replace(view, now_ms=NOW_MS + 1))
    assert (late.reason, late.actions) == (
        Reason.POSTGRES_HUNG,
        kill(Reason.POSTGRES_HUNG),
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


def test_a_member_whose_data_was_replaced_leaves_at_once() -> None:
    fresh = member(3, data_id=DataId("b3"))
    view = with_sync(any_of(1, 2, 3), replication=(row(2),))
    state = replace(view.state, members=(member(1), member(2), fresh))
    assert decide_node(replace(view, state=state)).actions == (
        ApplySyncSet(sync=any_of(1, 2)),
    )


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


# After a crash


def crashed(**changes: object) -> NodeView:
    made = holder_view(postgres=STOPPED, reports=received(primary_report()))
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_crashed_primary_gives_way_to_standbys_that_have_everything() -> None:
    cause = Reason.CRASHED_STANDBY_READY
    decision = decide_node(crashed(reports=received(report(2), report(3))))
    assert decision == Decision(cause, (*GIVING_BACK, release(cause)))


@pytest.mark.parametrize(
    "changes",
    [
        {"reports": received(report(2))},
        {"reports": received(report(2), report(3), at_ms=NOW_MS - 1_000)},
        {"reports": received(report(2), report(3, state=PostgresState.STOPPED))},
        {"reports": received(report(2), report(3, data_id=None))},
        {"reports": received(report(2), report(3, data_id=DataId("b")))},
        {
            "reports": received(report(2), report(3)),
            "state": cluster_state(opened=opened(1, 3, NOBODY)),
        },
        {
            "reports": received(report(2), report(3)),
            "state": cluster_state(opened=opened(2, 2, any_of(1, 2, 3))),
        },
        {
            "reports": received(report(2), report(3)),
            "state": cluster_state(opened=None),
        },
    ],
    ids=[
        "one", "old", "stopped", "empty", "replaced", "degraded", "earlier", "never",
    ],
)  # fmt: skip
def test_otherwise_a_crashed_primary_starts_again_in_its_epoch(
    changes: dict[str, object],
) -> None:
    assert decide_node(crashed(**changes)) == Decision(
        Reason.RESTARTING_IN_PLACE, (Arm(epoch=E3), StartPrimary(epoch=E3))
    )


def test_a_primary_that_dies_in_each_start_gives_its_epoch_back() -> None:
    server = PostgresView(running=False, start_failures=START_FAILURES_MAX)
    decision = decide_node(crashed(postgres=server))
    assert decision.reason is Reason.RELEASING
    assert decision.actions == (*GIVING_BACK, release(Reason.RELEASING))
    once_less = replace(server, start_failures=START_FAILURES_MAX - 1)
    assert decide_node(crashed(postgres=once_less)).reason is (
        Reason.RESTARTING_IN_PLACE
    )


def test_a_crashed_primary_without_a_lease_gives_its_epoch_back() -> None:
    """There is no evidence to renew with; it may get the next epoch at once."""
    decision = decide_node(crashed(lease=IDLE_LEASE))
    assert decision.reason is Reason.RELEASING
    assert decision.actions == (*GIVING_BACK, release(Reason.RELEASING))


# Giving up

REVOKED = cluster_state(assignment=assignment(revoked=True))
GIVING_UP = {
    "unusable": {"data": DataView(empty=False, ours=False), "postgres": STOPPED},
    "empty": {"data": DataView(empty=True, ours=False), "postgres": STOPPED},
    "stopped": {"postgres": STOPPED},
    "starting": {
        "postgres": standby_server(in_recovery=None),
        "lease": lease_view(armed_epoch=Epoch(0)),
    },
    "standby": {
        "postgres": standby_server(),
        "lease": lease_view(armed_epoch=Epoch(0)),
    },
}


@pytest.mark.parametrize("changes", GIVING_UP.values(), ids=GIVING_UP.keys())
def test_an_epoch_that_is_over_is_given_back(changes: dict[str, object]) -> None:
    view = holder_view(state=REVOKED)
    decision = decide_node(replace(view, **changes))  # type: ignore[arg-type]
    assert decision.reason is Reason.RELEASING
    assert decision.actions[:-1] == GIVING_BACK
    assert isinstance(decision.actions[-1], Propose)


@pytest.mark.parametrize("key", ["unusable", "empty"])
def test_a_holder_whose_data_is_gone_gives_its_epoch_back(key: str) -> None:
    view = replace(holder_view(), **GIVING_UP[key])  # type: ignore[arg-type]
    assert decide_node(view) == Decision(
        Reason.RELEASING, (*GIVING_BACK, release(Reason.RELEASING))
    )


@pytest.mark.parametrize(
    "server",
    [primary_server(), standby_server(started_as_primary=True)],
    ids=["primary", "promoting"],
)
def test_what_may_write_is_killed_before_its_epoch_is_given_back(
    server: PostgresView,
) -> None:
    view = holder_view(state=REVOKED, postgres=server)
    cause = Reason.STOPPING_AS_REVOKED
    assert decide_node(view) == Decision(cause, kill(cause))


def test_a_server_that_is_stopped_is_not_stopped_again() -> None:
    assert stop(holder_view(state=REVOKED, postgres=STOPPED)) is None


def test_what_is_latched_already_is_not_latched_again() -> None:
    lease = lease_view(released_epoch=E3, ended_epoch=E3)
    view = holder_view(lease=lease, postgres=STOPPED)
    assert decide_node(view).actions == (release(Reason.RELEASING),)


def test_a_restarted_daemon_takes_the_epoch_up_to_give_it_back() -> None:
    """The release in flight named another incarnation."""
    lease = lease_view(released_epoch=E3, ended_epoch=E3)
    state = cluster_state(assignment=assignment(incarnation=OTHER))
    view = holder_view(lease=lease, postgres=STOPPED, state=state)
    assert decide_node(view) == Decision(Reason.RELEASING, (TAKING_UP,))


def test_a_revoked_epoch_that_nobody_can_release_is_waited_out() -> None:
    state = cluster_state(assignment=assignment(incarnation=OTHER, revoked=True))
    view = holder_view(postgres=STOPPED, state=state)
    assert decide_node(view) == Decision(Reason.STOPPING_AS_REVOKED, GIVING_BACK)
