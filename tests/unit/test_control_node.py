"""Duties, findings and the table; before the first epoch."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node, duty, find
from pgbastion.control.node_rules import held_by_this
from pgbastion.control.node_steps import STEPS, copy
from pgbastion.control.transitions import TRANSITIONS, Duty, Found, Step
from pgbastion.errors import InvariantError
from pgbastion.model.actions import (
    Decision,
    InitDb,
    Propose,
    StartStandby,
)
from pgbastion.model.cluster import ClusterState
from pgbastion.model.commands import Declare
from pgbastion.model.ids import Epoch, MemberId
from pgbastion.model.reasons import SENTENCES, Reason
from pgbastion.model.views import (
    DataView,
    NodeView,
    PostgresView,
)
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    IDLE_LEASE,
    NOW_MS,
    STOPPED,
    assignment,
    cluster_state,
    end,
    holder_view,
    lease_view,
    member,
    primary_report,
    primary_server,
    received,
    report,
    standby_server,
    standby_view,
)
from support.standing_by import (
    EMPTY,
    FRESH,
    WAITING,
    kill,
    stopped,
)

# Duties and findings


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (holder_view(state=FRESH), Duty.FOUND),
        (standby_view(state=FRESH), Duty.AWAIT),
        (holder_view(), Duty.HOLD),
        (holder_view(state=WAITING), Duty.GIVE_UP),
        (holder_view(lease=lease_view(released_epoch=Epoch(3))), Duty.GIVE_UP),
        (holder_view(lease=lease_view(ended_epoch=Epoch(3))), Duty.GIVE_UP),
        (holder_view(lease=lease_view(ended_epoch=Epoch(2))), Duty.HOLD),
        (
            holder_view(state=cluster_state(assignment=assignment(released=True))),
            Duty.WAIT,
        ),
        (standby_view(), Duty.FOLLOW),
        (standby_view(state=WAITING), Duty.WAIT),
        (standby_view(reports={}), Duty.WAIT),
        (standby_view(reports=received(primary_report(promoted=False))), Duty.WAIT),
        (standby_view(reports=received(primary_report(epoch=Epoch(2)))), Duty.WAIT),
        (standby_view(reports=received(report(1, promoted=True, epoch=3))), Duty.WAIT),
    ],
)
def test_the_state_names_the_duty(view: NodeView, expected: Duty) -> None:
    assert duty(view) is expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (holder_view(), Found.PRIMARY),
        (standby_view(), Found.STANDBY),
        (standby_view(postgres=standby_server(in_recovery=None)), Found.STARTING),
        (standby_view(lease=lease_view()), Found.PROMOTING),
        (
            standby_view(postgres=standby_server(started_as_primary=True)),
            Found.PROMOTING,
        ),
        (
            holder_view(postgres=primary_server(in_recovery=None)),
            Found.PROMOTING,
        ),
        (standby_view(postgres=STOPPED), Found.STOPPED),
        (standby_view(postgres=STOPPED, data=EMPTY), Found.EMPTY),
        (
            standby_view(postgres=STOPPED, data=DataView(empty=False, ours=False)),
            Found.UNUSABLE,
        ),
        (
            standby_view(
                postgres=STOPPED, data=DataView(empty=False, ours=True, problem="x")
            ),
            Found.UNUSABLE,
        ),
    ],
)
def test_the_world_names_the_finding(view: NodeView, expected: Found) -> None:
    assert find(view) is expected


def test_in_recovery_proves_nothing_of_an_armed_server() -> None:
    """A promotion may finish long after it was asked for."""
    view = standby_view(lease=replace(IDLE_LEASE, armed_epoch=Epoch(2)))
    assert decide_node(view) == kill(Reason.FENCING)


def test_a_witness_only_says_where_it_listens() -> None:
    view = standby_view(witness=True)
    assert decide_node(view) == Decision(Reason.WITNESS)
    declaration = Declare(member=member(2, api_port=1), system_identifier=None)
    assert decide_node(replace(view, declaration=declaration)).actions == (
        Propose(command=declaration),
    )


def test_a_node_that_is_no_member_does_nothing() -> None:
    view = standby_view(member_id=MemberId(9))
    assert decide_node(view) == Decision(Reason.NOT_A_MEMBER)


def test_a_long_step_is_left_alone() -> None:
    view = standby_view(postgres=STOPPED, job="copy")
    assert decide_node(view) == Decision(Reason.JOB_RUNNING, detail="copy")
    assert decide_node(replace(view, data=EMPTY)).reason is Reason.JOB_RUNNING


def test_a_running_server_is_watched_during_a_long_step() -> None:
    assert decide_node(holder_view(job="x")).reason is Reason.PRIMARY_RUNNING


def test_a_node_declares_what_is_new_when_nothing_is_more_urgent() -> None:
    declaration = Declare(member=member(2, api_port=1), system_identifier=None)
    calm = decide_node(standby_view(declaration=declaration))
    assert calm == Decision(
        Reason.FOLLOWING, (Propose(command=declaration),), detail="n1"
    )
    busy = decide_node(
        standby_view(declaration=declaration, lease=lease_view(), state=WAITING)
    )
    assert busy == kill(Reason.FENCING)


def test_the_holder_looks_again_before_its_lease_ends() -> None:
    view = holder_view(lease=lease_view(expiry_ms=NOW_MS + 2_300))
    assert decide_node(view).wake_at_ms == NOW_MS + 100


def test_the_holder_looks_again_before_its_server_counts_as_hung() -> None:
    assert decide_node(holder_view()).wake_at_ms == NOW_MS - 100 + 2_000


def test_an_earlier_wish_to_look_again_is_kept() -> None:
    view = holder_view(
        postgres=primary_server(replication=()),
        silent_since_ms={"n2_a2": NOW_MS - 990, "n3_a3": NOW_MS - 900},
    )
    assert decide_node(view).wake_at_ms == NOW_MS + 10


def test_a_holders_step_runs_on_the_holder_only() -> None:
    with pytest.raises(InvariantError):
        held_by_this(standby_view())


def test_a_step_of_a_follower_needs_a_primary() -> None:
    with pytest.raises(InvariantError):
        copy(standby_view(reports={}))


# The table


def test_every_duty_and_finding_has_a_row() -> None:
    assert set(TRANSITIONS) == {(d, f) for d in Duty for f in Found}


def test_every_step_has_a_rule_and_a_row() -> None:
    used = {step for row in TRANSITIONS.values() for step in row.steps}
    assert set(STEPS) == set(Step) == used


def test_every_reason_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Reason)


def test_a_row_whose_last_step_decides_nothing_is_a_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = TRANSITIONS[Duty.FOLLOW, Found.STANDBY]
    silent = replace(row, steps=(Step.CHECK_HISTORY,))
    monkeypatch.setitem(TRANSITIONS, (Duty.FOLLOW, Found.STANDBY), silent)
    with pytest.raises(InvariantError):
        decide_node(standby_view())


# Before the first epoch


def test_the_founder_makes_the_first_data_directory() -> None:
    view = holder_view(state=FRESH, data=EMPTY, postgres=STOPPED)
    assert decide_node(view) == Decision(Reason.INITIALISING, (InitDb(),))


def test_a_failed_step_is_repeated_after_a_pause() -> None:
    view = holder_view(
        state=FRESH,
        data=EMPTY,
        postgres=STOPPED,
        job_failed="no space",
        job_failed_ms=NOW_MS - 999,
    )
    assert decide_node(view) == Decision(
        Reason.REJOIN_FAILED, (), NOW_MS + 1, detail="no space"
    )
    again = replace(view, job_failed_ms=NOW_MS - 1_000)
    assert decide_node(again).reason is Reason.INITIALISING


@pytest.mark.parametrize(
    ("took_ms", "pause_ms"),
    [(10, 1_000), (8_000, 8_000), (7_200_000, 30_000)],
    ids=["at least a second", "as long as it took", "half a minute at most"],
)
def test_a_long_step_that_failed_rests_as_long_as_it_took(
    took_ms: int, pause_ms: int
) -> None:
    view = holder_view(
        state=FRESH,
        data=EMPTY,
        postgres=STOPPED,
        job_failed="no space",
        job_failed_ms=NOW_MS,
        job_took_ms=took_ms,
    )

    assert decide_node(view).wake_at_ms == NOW_MS + pause_ms


@pytest.mark.parametrize("view", [holder_view(), standby_view()])
def test_data_without_a_role_waits(view: NodeView) -> None:
    view = replace(view, state=FRESH, postgres=STOPPED)
    assert decide_node(view) == Decision(Reason.WAITING_FOR_ASSIGNMENT)


@pytest.mark.parametrize("state", [FRESH, WAITING, cluster_state()])
def test_unusable_data_is_not_touched(state: ClusterState) -> None:
    data = DataView(empty=False, ours=False, problem="of another cluster")
    view = standby_view(state=state, postgres=STOPPED, data=data)
    assert decide_node(view) == Decision(
        Reason.FOREIGN_DATA, detail="of another cluster"
    )


RUNNING = {
    "starting": standby_server(in_recovery=None),
    "standby": standby_server(),
    "promoting": standby_server(started_as_primary=True),
    "primary": primary_server(),
}


@pytest.mark.parametrize("server", RUNNING.values(), ids=RUNNING.keys())
@pytest.mark.parametrize(
    "view", [holder_view(), standby_view()], ids=["FOUND", "AWAIT"]
)
def test_nothing_runs_before_the_first_epoch(
    view: NodeView, server: PostgresView
) -> None:
    view = replace(view, state=FRESH, lease=IDLE_LEASE, postgres=server)
    assert decide_node(view) == kill(Reason.FENCING)


@pytest.mark.parametrize("state", [WAITING, cluster_state()], ids=["WAIT", "FOLLOW"])
@pytest.mark.parametrize("server", ["promoting", "primary"])
def test_what_may_write_without_an_epoch_is_killed(
    state: ClusterState, server: str
) -> None:
    view = standby_view(state=state, postgres=RUNNING[server])
    assert decide_node(view) == kill(Reason.FENCING)


# Waiting


def test_a_standby_without_a_primary_answers_reads() -> None:
    view = standby_view(state=WAITING)
    assert decide_node(view) == Decision(Reason.NO_PRIMARY_TO_FOLLOW)


def test_a_former_standby_starts_without_a_primary() -> None:
    assert decide_node(stopped(state=WAITING)) == Decision(
        Reason.STARTING_STANDBY, (StartStandby(primary=None, epoch=Epoch(3)),)
    )


def test_a_former_primary_stays_stopped() -> None:
    data = replace(standby_view().data, was_standby=False)
    assert decide_node(stopped(state=WAITING, data=data)) == Decision(
        Reason.NO_PRIMARY_TO_FOLLOW
    )


def test_lsns_of_the_builders_are_what_they_seem() -> None:
    assert end(90, 3).lsn == Lsn(90)
