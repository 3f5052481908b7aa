"""A node that holds the role: taking up, promotion, giving up."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node
from pgbastion.control.node_primary import (
    START_FAILURES_MAX,
)
from pgbastion.control.node_steps import stop
from pgbastion.model.actions import (
    Arm,
    Decision,
    HoldLease,
    Promote,
    Propose,
    StartPrimary,
    StartStandby,
    StopMode,
    StopPostgres,
)
from pgbastion.model.cluster import NOBODY
from pgbastion.model.ids import DataId, Epoch, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.views import DataView, NodeView, PostgresView
from pgbastion.testing.views import (
    IDLE_LEASE,
    NOW_MS,
    STOPPED,
    any_of,
    assignment,
    cluster_state,
    end,
    holder_view,
    lease_view,
    opened,
    primary_report,
    primary_server,
    received,
    report,
    standby_server,
)
from support.holding import (
    E3,
    GIVING_BACK,
    OTHER,
    STANDBY_DATA,
    TAKING_UP,
    candidate,
    kill,
    release,
)

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


@pytest.mark.parametrize("server", [standby_server(), STOPPED], ids=["up", "down"])
def test_without_what_is_required_nobody_becomes_a_primary(
    server: PostgresView,
) -> None:
    cause, why = Reason.UNABLE, "its watchdog is required: gone"
    view = candidate(postgres=server)
    lacking = replace(view, lease=replace(view.lease, unable=why))

    lsn = 100 if server.wal_end else None
    steps = (*GIVING_BACK, release(cause, lsn))
    assert decide_node(lacking) == Decision(cause, steps, detail=why)


def test_a_crashed_primary_is_not_started_without_what_is_required() -> None:
    lease = replace(lease_view(), unable="its watchdog is required: gone")
    view = holder_view(postgres=STOPPED, lease=lease)

    assert decide_node(view).reason is Reason.UNABLE


def test_a_primary_that_serves_goes_on_without_what_is_required() -> None:
    lease = replace(lease_view(), unable="its watchdog is required: gone")

    assert decide_node(holder_view(lease=lease)).reason is Reason.PRIMARY_RUNNING


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
    decision = decide_node(candidate(postgres=server))

    assert decision.reason is Reason.REJOIN_FAILED
    assert decision.wake_at_ms == NOW_MS + 1_000


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


@pytest.mark.parametrize(("known", "stops"), [(0, False), (1, True)])
def test_a_daemon_that_has_not_read_how_short_leases_are_leaves_the_stop_to_its_guard(
    known: int, stops: bool
) -> None:
    """Its file's stop may take longer than the lease: it would be due at once."""
    lease = lease_view(expiry_ms=NOW_MS + 1_000, policy_revision=1)

    decision = decide_node(holder_view(lease=lease, policy_revision=known))

    assert (decision.reason is Reason.LEASE_EXPIRING) is stops


@pytest.mark.parametrize(("woke_ago_ms", "killed"), [(499, False), (500, True)])
def test_a_daemon_that_stood_still_asks_before_it_calls_a_server_hung(
    woke_ago_ms: int, killed: bool
) -> None:
    """The answer is old since nobody asked; one that hangs still ends soon after."""
    view = holder_view(woke_ms=NOW_MS - woke_ago_ms)
    old = replace(view.postgres, evidence_ms=NOW_MS - 2_600)

    decision = decide_node(replace(view, postgres=old))

    assert (decision.reason is Reason.POSTGRES_HUNG) is killed


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
def test_a_crashed_primary_restarts_unless_standbys_have_everything(
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
