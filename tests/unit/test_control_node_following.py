"""A node that follows a primary."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node
from pgbastion.control.node_rules import BACKOFF_MAX_MS
from pgbastion.model.actions import (
    Copy,
    Decision,
    EndEpoch,
    Examine,
    Follow,
    RecoverCrash,
    Rewind,
    StartStandby,
    StopMode,
    StopPostgres,
)
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import Epoch, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import (
    NodeView,
    PostgresView,
    RejoinStep,
    RejoinView,
)
from pgbastion.testing.views import (
    IDLE_LEASE,
    NOW_MS,
    STOPPED,
    assignment,
    cluster_state,
    end,
    member,
    node_name,
    primary_report,
    received,
    standby_server,
    standby_view,
)
from support.standing_by import (
    EMPTY,
    WAITING,
    found,
    kill,
    stopped,
)

# A server that hangs


HANGS = standby_view(
    trouble=Trouble.SERVER_SILENT,
    postgres=standby_server(evidence_ms=NOW_MS - 8_000),
)


@pytest.mark.parametrize(
    "view", [HANGS, replace(HANGS, state=WAITING)], ids=["following", "cut"]
)
def test_a_standby_that_answers_nobody_is_killed_to_be_started_again(
    view: NodeView,
) -> None:
    assert decide_node(view) == kill(Reason.POSTGRES_HUNG)


@pytest.mark.parametrize(
    "changes",
    [
        {"postgres": standby_server(evidence_ms=NOW_MS - 7_999)},
        {
            "postgres": standby_server(
                evidence_ms=NOW_MS - 60_000, started_ms=NOW_MS - 7_999
            )
        },
        {"trouble": None},
        {"trouble": Trouble.DISK_SILENT},
        {"state": cluster_state(paused=True)},
    ],
    ids=["not_long", "just_started", "well", "its_disk", "paused"],
)
def test_a_standby_that_may_recover_is_left_alone(changes: dict[str, object]) -> None:
    view = replace(HANGS, **changes)  # type: ignore[arg-type]

    assert decide_node(view) == Decision(Reason.FOLLOWING, detail="n1")


def test_a_slow_profile_waits_longer_for_a_standby() -> None:
    limits = replace(HANGS.limits, evidence_max_ms=10_000)

    assert decide_node(replace(HANGS, limits=limits)).reason is Reason.FOLLOWING


# Following


def test_a_standby_that_follows_is_left_alone() -> None:
    assert decide_node(standby_view()) == Decision(Reason.FOLLOWING, detail="n1")


@pytest.mark.parametrize(
    "changes",
    [{"following": node_name(3)}, {"following_epoch": Epoch(2)}],
    ids=["node", "epoch"],
)
def test_a_standby_is_pointed_at_the_primary_of_the_epoch(
    changes: dict[str, object],
) -> None:
    view = standby_view(postgres=standby_server(**changes))
    assert decide_node(view) == Decision(
        Reason.REPOINTING,
        (Follow(primary=node_name(1), epoch=Epoch(3)),),
        detail="n1",
    )


CUT = replace(standby_view().data, cut_epoch=Epoch(3))


def test_a_standby_that_was_cut_from_an_epoch_never_follows_it_again() -> None:
    lost = standby_server(following=None)
    view = standby_view(data=CUT, postgres=lost)
    assert decide_node(view) == Decision(Reason.NO_PRIMARY_TO_FOLLOW)


def test_a_cut_standby_does_not_start_as_a_follower_of_that_epoch() -> None:
    """It would confirm commits behind the back of the survey that it answered."""
    view = standby_view(data=CUT, postgres=STOPPED, rejoin=found(RejoinStep.FOLLOW))
    assert decide_node(view) == Decision(
        Reason.STARTING_STANDBY, (StartStandby(primary=None, epoch=Epoch(3)),)
    )


@pytest.mark.parametrize(
    "wal", [end(91, 3), end(5, 2)], ids=["past the fork", "foreign timeline"]
)
def test_a_standby_with_foreign_wal_is_stopped(wal: object) -> None:
    view = standby_view(postgres=standby_server(wal_end=wal))
    stop = StopPostgres(mode=StopMode.FAST, reason=Reason.DIVERGED)
    assert decide_node(view) == Decision(Reason.DIVERGED, (stop,), detail=str(wal))


def test_a_standby_whose_recovery_chose_another_timeline_is_stopped() -> None:
    """It receives nothing there: its end has the timeline of its checkpoint."""
    chosen = end(85, 5)
    server = standby_server(wal_end=end(86, 3), replayed=chosen)
    stop = StopPostgres(mode=StopMode.FAST, reason=Reason.DIVERGED)
    assert decide_node(standby_view(postgres=server)) == Decision(
        Reason.DIVERGED, (stop,), detail=str(chosen)
    )


@pytest.mark.parametrize("replayed", [end(85, 1), end(86, 4)], ids=["older", "its own"])
def test_what_a_standby_has_replayed_before_does_not_stop_it(replayed: object) -> None:
    """The primary names its newest ancestors only."""
    server = standby_server(wal_end=end(86, 3), replayed=replayed)
    assert decide_node(standby_view(postgres=server)).reason is Reason.FOLLOWING


@pytest.mark.parametrize(
    "wal", [end(90, 3), end(500, 4), None], ids=["at the fork", "same", "unknown"]
)
def test_a_standby_on_the_primarys_history_goes_on(wal: object) -> None:
    view = standby_view(postgres=standby_server(wal_end=wal))
    assert decide_node(view).reason is Reason.FOLLOWING


def test_history_is_not_judged_before_the_primary_said_where_it_is() -> None:
    view = standby_view(
        postgres=standby_server(wal_end=end(5, 2)),
        reports=received(primary_report(wal_end=None)),
    )
    assert decide_node(view).reason is Reason.FOLLOWING


@pytest.mark.parametrize("state", [WAITING, cluster_state()], ids=["WAIT", "FOLLOW"])
def test_a_starting_standby_gets_its_time(state: ClusterState) -> None:
    server = standby_server(in_recovery=None, started_ms=NOW_MS - 59_999)
    view = standby_view(state=state, postgres=server)
    assert decide_node(view) == Decision(Reason.WAITING_FOR_START, (), NOW_MS + 1)

    hung = replace(server, started_ms=NOW_MS - 60_000)
    assert decide_node(replace(view, postgres=hung)) == kill(Reason.POSTGRES_HUNG)

    new = replace(view, postgres=hung, woke_ms=NOW_MS - 59_999)
    assert decide_node(new) == Decision(Reason.WAITING_FOR_START, (), NOW_MS + 1)


@pytest.mark.parametrize("rejoin", [None, found(RejoinStep.FOLLOW, 2)])
def test_stopped_data_is_compared_with_the_primary_of_the_epoch(
    rejoin: RejoinView | None,
) -> None:
    assert decide_node(stopped(rejoin=rejoin)) == Decision(
        Reason.EXAMINING, (Examine(primary=node_name(1), epoch=Epoch(3)),)
    )


def test_data_on_the_primarys_history_starts_as_its_standby() -> None:
    assert decide_node(stopped(rejoin=found(RejoinStep.FOLLOW))) == Decision(
        Reason.STARTING_STANDBY,
        (StartStandby(primary=node_name(1), epoch=Epoch(3)),),
        detail="n1",
    )


@pytest.mark.parametrize("state", [WAITING, cluster_state()], ids=["WAIT", "FOLLOW"])
def test_a_start_that_failed_is_repeated_after_a_growing_pause(
    state: ClusterState,
) -> None:
    def again(failures: int, ago_ms: int) -> Decision:
        server = PostgresView(
            running=False, start_failures=failures, start_failed_ms=NOW_MS - ago_ms
        )
        return decide_node(
            standby_view(state=state, postgres=server, rejoin=found(RejoinStep.FOLLOW))
        )

    assert again(1, 999) == Decision(
        Reason.REJOIN_FAILED,
        (),
        NOW_MS + 1,
        detail="its server ended once before it answered",
    )
    assert again(1, 1_000).reason is Reason.STARTING_STANDBY
    assert again(3, 3_999).wake_at_ms == NOW_MS + 1
    assert again(3, 0).detail == "its server ended 3 times before it answered"
    assert again(99, 0).wake_at_ms == NOW_MS + BACKOFF_MAX_MS


def test_a_start_that_failed_says_what_the_server_said() -> None:
    server = PostgresView(
        running=False,
        start_failures=1,
        start_failed_ms=NOW_MS,
        start_failure="could not write to file: No space left on device",
    )
    waits = decide_node(standby_view(postgres=server, rejoin=found(RejoinStep.FOLLOW)))

    assert waits.detail.endswith(": could not write to file: No space left on device")


def test_a_crashed_server_recovers_before_it_is_rewound() -> None:
    assert decide_node(stopped(rejoin=found(RejoinStep.RECOVER))) == Decision(
        Reason.RECOVERING, (RecoverCrash(),), detail="why"
    )


def test_diverged_data_is_rewound() -> None:
    assert decide_node(stopped(rejoin=found(RejoinStep.REWIND))) == Decision(
        Reason.REWINDING,
        (Rewind(primary=node_name(1), epoch=Epoch(3)),),
        detail="why",
    )


def test_a_rewind_waits_for_the_primarys_checkpoint() -> None:
    """pg_rewind reads the primary's timeline from its control file."""
    early = received(primary_report(checkpointed=Timeline(3)))
    view = stopped(rejoin=found(RejoinStep.REWIND), reports=early)
    assert decide_node(view) == Decision(Reason.WAITING_FOR_CHECKPOINT, detail="n1")


def test_a_rejoin_waits_until_the_new_primary_takes_clients() -> None:
    """It would take processor and disk from the first commits after a failover."""
    closed = received(primary_report(accepting=False))
    assert decide_node(stopped(reports=closed)) == Decision(
        Reason.PRIMARY_NOT_OPEN, detail="n1"
    )


def test_a_strict_primary_may_need_the_rejoining_node_to_open() -> None:
    closed = received(primary_report(accepting=False))
    strict = replace(stopped().state, strict=True)
    decision = decide_node(stopped(reports=closed, state=strict))
    assert decision.reason is Reason.EXAMINING


def test_data_that_cannot_be_rewound_is_copied() -> None:
    assert decide_node(stopped(rejoin=found(RejoinStep.COPY))) == Decision(
        Reason.COPYING, (Copy(primary=node_name(1), epoch=Epoch(3)),), detail="why"
    )


def test_data_that_belongs_to_something_else_is_refused() -> None:
    assert decide_node(stopped(rejoin=found(RejoinStep.REFUSE))) == Decision(
        Reason.FOREIGN_DATA, detail="why"
    )


def test_a_failed_rejoin_is_repeated_after_a_pause() -> None:
    view = stopped(
        rejoin=found(RejoinStep.REWIND), job_failed="lost", job_failed_ms=NOW_MS
    )
    assert decide_node(view) == Decision(
        Reason.REJOIN_FAILED, (), NOW_MS + 1_000, detail="lost"
    )


@pytest.mark.parametrize("state", [WAITING, cluster_state()], ids=["WAIT", "FOLLOW"])
@pytest.mark.parametrize(
    "changes",
    [
        {"data": replace(standby_view().data, promoted_epoch=Epoch(2))},
        {"lease": replace(IDLE_LEASE, armed_epoch=Epoch(2))},
    ],
    ids=["promoted", "armed"],
)
def test_a_former_holder_ends_its_epochs_first(
    state: ClusterState, changes: dict[str, object]
) -> None:
    """Else it may start as their primary after it was surveyed."""
    assert decide_node(stopped(state=state, **changes)) == Decision(
        Reason.ENDING_EPOCHS, (EndEpoch(epoch=Epoch(2)),)
    )


def test_a_new_node_copies_the_primary() -> None:
    members = (member(1), member(2, data_id=None))
    view = stopped(data=EMPTY, state=cluster_state(members=members))
    assert decide_node(view) == Decision(
        Reason.COPYING, (Copy(primary=node_name(1), epoch=Epoch(3)),), detail="n1"
    )
    failed = replace(view, job_failed="lost", job_failed_ms=NOW_MS)
    assert decide_node(failed).reason is Reason.REJOIN_FAILED
    waiting = replace(view.state, assignment=assignment(revoked=True))
    assert decide_node(replace(view, state=waiting)) == Decision(
        Reason.NO_PRIMARY_TO_FOLLOW
    )


@pytest.mark.parametrize("state", [WAITING, cluster_state()], ids=["WAIT", "FOLLOW"])
def test_an_empty_directory_is_no_invitation_to_a_node_that_had_data(
    state: ClusterState,
) -> None:
    """Its mount may be missing."""
    view = stopped(data=EMPTY, state=state)
    assert decide_node(view) == Decision(Reason.DATA_DIRECTORY_MISSING)


def test_a_directory_that_the_node_emptied_itself_is_copied() -> None:
    """A copy for which there was no room for two has failed, and is made again."""
    view = stopped(data=replace(EMPTY, emptied=True), state=cluster_state())
    assert decide_node(view).reason is Reason.COPYING


# What only a former primary has, and may not use


def former_primary(**changes: object) -> NodeView:
    """Return a stopped former primary that was surveyed and is tagged nofailover."""
    view = standby_view()
    members = (member(1), member(2, nofailover=True), member(3))
    ended = replace(IDLE_LEASE, ended_epoch=Epoch(3))
    held = assignment(2, revoked=True, released=True)
    data = replace(
        view.data, was_standby=False, promoted_epoch=Epoch(3), cut_epoch=Epoch(3)
    )
    state = cluster_state(members=members, assignment=held)
    known = stopped(data=data, state=state, lease=ended)
    return replace(known, **changes)  # type: ignore[arg-type]


START_CUT = Decision(
    Reason.STARTING_STANDBY, (StartStandby(primary=None, epoch=Epoch(3)),)
)


def test_a_barred_former_primary_runs_so_that_others_can_have_what_it_has() -> None:
    assert decide_node(former_primary()) == START_CUT


def test_who_lacks_what_it_requires_to_be_a_primary_runs_as_well() -> None:
    view = former_primary()
    lease = replace(view.lease, unable="no watchdog")
    state = replace(view.state, members=(member(1), member(2), member(3)))

    assert decide_node(replace(view, state=state, lease=lease)) == START_CUT


@pytest.mark.parametrize("why", ["may be promoted", "not surveyed", "paused"])
def test_any_other_former_primary_stays_stopped(why: str) -> None:
    view = former_primary()
    match why:
        case "may be promoted":
            members = (member(1), member(2), member(3))
            view = replace(view, state=replace(view.state, members=members))
        case "not surveyed":
            view = replace(view, data=replace(view.data, cut_epoch=Epoch(2)))
        case _:
            view = replace(view, state=replace(view.state, paused=True))

    assert decide_node(view).actions == ()


def test_a_former_primary_rests_until_the_guard_knows_that_its_epoch_has_ended() -> (
    None
):
    view = former_primary()
    lease = replace(view.lease, ended_epoch=Epoch(2))

    assert decide_node(replace(view, lease=lease)) == Decision(
        Reason.ENDING_EPOCHS, (EndEpoch(epoch=Epoch(3)),)
    )
