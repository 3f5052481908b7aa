"""A PostgreSQL that was there before its cluster, and how the first epoch begins."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import Outcome, apply
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node, duty, find
from pgbastion.control.transitions import Duty, Found
from pgbastion.model.actions import (
    Arm,
    EndEpoch,
    HoldLease,
    NotePrimary,
    Propose,
    StopPostgres,
    TakeOver,
)
from pgbastion.model.cluster import NOBODY
from pgbastion.model.commands import Assign, encode_command
from pgbastion.model.ids import Epoch, Revision, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.views import DataView, NodeView
from pgbastion.testing.views import (
    IDLE_LEASE,
    INCARNATION,
    STOPPED,
    assignment,
    cluster_state,
    cluster_view,
    data_id,
    holder_view,
    lease_view,
    primary_report,
    primary_server,
    received,
    report,
)

FRESH = cluster_state(assignment=None, opened=None, highest_timeline=Timeline(0))
TAKEN = cluster_state(
    assignment=assignment(
        epoch=1, taken_over=True, surveyed=None, timeline=Timeline(4), incarnation=None
    ),
    opened=None,
)
RUNNING = primary_report(adopted=True, promoted=False, accepting=False, epoch=Epoch(0))
STRANGE = DataView(empty=False, ours=False, unmarked=True, problem="a stranger's")
MARKED = DataView(empty=False, ours=True, data_id=data_id(1))
ADOPTED = primary_server(adopted=True)


def founder_view(**changes: object) -> NodeView:
    """Return the founder's view before any role was assigned."""
    made = holder_view(state=FRESH, lease=IDLE_LEASE, data=MARKED, postgres=ADOPTED)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_founder_takes_over_what_is_in_its_directory() -> None:
    view = founder_view(data=STRANGE, postgres=STOPPED)

    assert decide_node(view).actions == (TakeOver(),)
    assert decide_node(replace(view, job="take over")).reason is Reason.JOB_RUNNING


def test_a_server_that_was_adopted_before_it_was_marked_is_taken_over_on() -> None:
    """A take-over that was cut short is decided again, and stops nothing."""
    view = founder_view(data=STRANGE)

    assert decide_node(view).actions == (TakeOver(),)
    assert decide_node(replace(view, job="take over")).actions == ()


def test_a_failed_take_over_is_repeated_later() -> None:
    view = founder_view(data=STRANGE, postgres=STOPPED)
    failed = replace(view, job_failed="no such role", job_failed_ms=view.now_ms - 1)

    decision = decide_node(failed)

    assert decision.reason is Reason.REJOIN_FAILED
    assert decision.actions == ()


@pytest.mark.parametrize("in_recovery", [None, True, False])
def test_a_server_that_was_taken_over_goes_on_until_it_has_a_role(
    *, in_recovery: bool | None
) -> None:
    view = founder_view(postgres=replace(ADOPTED, in_recovery=in_recovery))

    assert find(view) is Found.TAKEN_OVER
    assert decide_node(view).reason is Reason.WAITING_FOR_ASSIGNMENT


def test_another_node_touches_no_strangers_directory() -> None:
    view = holder_view(
        state=cluster_state(assignment=assignment(2)), data=STRANGE, postgres=STOPPED
    )

    assert find(view) is Found.UNMARKED
    assert decide_node(view).reason is Reason.FOREIGN_DATA
    assert decide_node(view).actions == ()


@pytest.mark.parametrize("due", [Duty.AWAIT, Duty.WAIT])
def test_an_adopted_server_without_a_duty_to_run_is_fenced(due: Duty) -> None:
    state = cluster_state(assignment=assignment(2))
    if due is Duty.AWAIT:
        state = replace(FRESH, founder=state.members[1].member_id)
    view = founder_view(state=state)

    assert duty(view) is due
    assert decide_node(view).reason is Reason.FENCING


def test_the_first_epoch_goes_to_a_server_that_was_found_running() -> None:
    """LEASE.md, section 7: nothing is stopped, the timeline stays."""
    decision = decide_cluster(cluster_view(state=FRESH, reports=received(RUNNING)))

    (action,) = decision.actions
    assert isinstance(action, Propose)
    command = action.command
    assert isinstance(command, Assign)
    assert command.taken_over
    assert command.timeline == 4

    state = apply(FRESH, 11, "", encode_command(command)).state
    assert state.assignment is not None
    assert state.assignment.taken_over
    assert state.opened is not None
    assert state.opened.sync == NOBODY


def test_only_the_first_epoch_can_begin_without_a_promotion() -> None:
    command = Assign(
        revision=Revision(7),
        epoch=Epoch(4),
        member_id=assignment().member_id,
        node=assignment().node,
        data_id=data_id(1),
        timeline=Timeline(9),
        surveyed=None,
        cause="",
        at="",
        taken_over=True,
    )
    state = cluster_state(assignment=assignment(revoked=True))

    assert apply(state, 11, "", encode_command(command)).outcome is Outcome.SENSELESS


@pytest.mark.parametrize(
    "reports",
    [
        received(RUNNING, report(2, state=PostgresState.PRIMARY)),
        received(replace(RUNNING, adopted=False)),
        received(replace(RUNNING, data_id=None)),
    ],
    ids=["two", "not-adopted", "not-marked"],
)
def test_no_other_primary_gets_the_first_epoch(reports: object) -> None:
    view = replace(cluster_view(state=FRESH), reports=reports)  # type: ignore[arg-type]

    assert decide_cluster(view).reason is Reason.FIRST_PRIMARY_NOT_READY


def test_the_first_promotion_takes_a_timeline_above_those_of_the_directory() -> None:
    ready = report(
        1,
        state=PostgresState.STOPPED,
        wal_end=None,
        timeline=Timeline(6),
        streaming=False,
    )
    decision = decide_cluster(cluster_view(state=FRESH, reports=received(ready)))

    (action,) = decision.actions
    assert isinstance(action, Propose)
    assert isinstance(action.command, Assign)
    assert action.command.timeline == 7
    assert not action.command.taken_over


def test_the_guard_is_armed_only_with_a_lease_and_after_the_mark() -> None:
    view = founder_view(state=TAKEN)
    assert decide_node(view).reason is Reason.RESUMING

    held = TAKEN.assignment
    assert held is not None
    resumed = replace(
        view, state=replace(TAKEN, assignment=replace(held, incarnation=INCARNATION))
    )
    assert decide_node(resumed).actions == (HoldLease(epoch=Epoch(1)),)
    asking = replace(resumed, lease=replace(IDLE_LEASE, renewing=Epoch(1)))
    assert decide_node(asking).reason is Reason.WAITING_FOR_LEASE
    granted = replace(resumed, lease=lease_view(1, armed_epoch=Epoch(0)))
    assert decide_node(granted).actions == (
        NotePrimary(epoch=Epoch(1)),
        Arm(epoch=Epoch(1)),
    )
    armed = replace(
        granted,
        lease=lease_view(1),
        data=replace(MARKED, promoted_epoch=Epoch(1)),
    )
    assert find(armed) is Found.PRIMARY
    assert not any(isinstance(a, StopPostgres) for a in decide_node(armed).actions)


@pytest.mark.parametrize(
    "held",
    [
        assignment(epoch=1, timeline=Timeline(4), incarnation=INCARNATION),
        assignment(epoch=1, taken_over=True, data_id=data_id(9)),
    ],
    ids=["began-by-promotion", "other-data"],
)
def test_an_adopted_server_is_armed_for_no_other_epoch(held: object) -> None:
    state = replace(TAKEN, assignment=held)  # type: ignore[arg-type]
    view = founder_view(state=state, lease=lease_view(1, armed_epoch=Epoch(0)))

    assert decide_node(view).reason is Reason.FENCING


def test_a_server_that_ended_before_it_was_armed_begins_the_next_epoch() -> None:
    held = replace(assignment(epoch=1, taken_over=True), timeline=Timeline(4))
    view = founder_view(state=replace(TAKEN, assignment=held), postgres=STOPPED)

    decision = decide_node(view)

    assert decision.reason is Reason.SURVEYED_DATA_CHANGED
    assert decision.actions[0] == EndEpoch(epoch=Epoch(1))


def test_a_taken_over_server_whose_epoch_ended_is_stopped() -> None:
    held = replace(assignment(epoch=1, taken_over=True), revoked=True)
    view = founder_view(state=replace(TAKEN, assignment=held))

    assert duty(view) is Duty.GIVE_UP
    assert decide_node(view).reason is Reason.STOPPING_AS_REVOKED


@pytest.mark.parametrize("held", [assignment(), assignment(revoked=True)])
def test_a_holder_whose_directory_became_a_strangers_gives_the_role_back(
    held: object,
) -> None:
    state = cluster_state(assignment=held)
    view = holder_view(state=state, data=STRANGE, postgres=STOPPED)

    assert decide_node(view).reason is Reason.RELEASING
