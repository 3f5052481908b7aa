"""Who confirms commits is changed while the cluster runs, in safe steps."""

from dataclasses import replace

import pytest

from pgbastion.control.apply import Outcome
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node
from pgbastion.control.survey import needs_survey
from pgbastion.control.sync_standbys import desired_set, in_order
from pgbastion.model.actions import ApplySyncSet, Propose
from pgbastion.model.cluster import NOBODY, ReplicationMode, SyncSet
from pgbastion.model.commands import SetReplication, SetSync
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.node.replication import waits_for_ever
from pgbastion.testing.views import (
    any_of,
    assignment,
    cluster_state,
    cluster_view,
    holder_view,
    in_async,
    member,
    name,
    opened,
    primary_report,
    primary_server,
    received,
    report,
)
from support.orders import applied, outcome

ASYNC, SYNC, QUORUM = ReplicationMode


def change(**fields: object) -> SetReplication:
    made = SetReplication(
        replication_revision=1, mode=QUORUM, sync_count=2, strict=True, at=""
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def test_a_change_counts_once_and_refuses_what_was_decided_before() -> None:
    before = cluster_state()
    after = applied(before, change(at="2026-01-01T00:00:00Z"))

    assert after.replication_at == "2026-01-01T00:00:00Z"
    assert (after.mode, after.sync_count, after.strict) == (QUORUM, 2, True)
    assert after.revision == before.revision + 1
    assert after.opened == before.opened
    assert outcome(after, change(mode=SYNC)) is Outcome.STALE_REVISION


@pytest.mark.parametrize("count", [-1, 32])
def test_a_count_that_cannot_be_is_refused(count: int) -> None:
    assert outcome(cluster_state(), change(sync_count=count)) is Outcome.SENSELESS


def test_what_is_so_already_changes_nothing() -> None:
    same = change(sync_count=1, strict=False)

    assert outcome(cluster_state(), same) is Outcome.NO_CHANGE


def test_async_takes_the_promise_back_before_the_setting() -> None:
    state = cluster_state(mode=ASYNC)
    weakened = in_async(state)
    promise = decide_node(holder_view(state=state)).actions[0]

    assert isinstance(promise, Propose)
    assert isinstance(promise.command, SetSync)
    assert promise.command.sync == NOBODY
    assert decide_node(holder_view(state=weakened)).actions == (
        ApplySyncSet(sync=NOBODY),
    )


def test_until_the_promise_is_taken_back_a_survey_is_needed() -> None:
    """What was acknowledged under it survives a failover right after the change."""
    gone = assignment(revoked=True, released=True)
    promised = cluster_state(mode=ASYNC, assignment=gone)
    view = cluster_view(
        state=promised,
        reports=received(
            primary_report(state=PostgresState.STOPPED), report(2), report(3)
        ),
    )

    assert needs_survey(promised)
    assert not needs_survey(in_async(promised))
    assert decide_cluster(view).reason is Reason.SURVEYING
    chosen = decide_cluster(replace(view, state=in_async(promised)))
    assert chosen.reason is Reason.FURTHEST_CHOSEN


def test_from_async_the_promise_comes_after_the_setting() -> None:
    state = replace(in_async(cluster_state()), mode=QUORUM)
    server = primary_server(server_sync=NOBODY)
    steps = [
        decide_node(holder_view(state=state, postgres=now)).actions
        for now in (server, replace(server, server_sync=any_of(1, 2, 3)))
    ]

    assert steps[0] == (ApplySyncSet(sync=any_of(1, 2, 3), first=True),)
    assert isinstance(steps[1][0], Propose)


@pytest.mark.parametrize("mode", [SYNC, QUORUM])
def test_between_sync_and_quorum_only_the_words_change(mode: ReplicationMode) -> None:
    view = holder_view(
        state=cluster_state(mode=mode), postgres=primary_server(sync_reworded=True)
    )

    decision = decide_node(view)

    assert decision.actions == (ApplySyncSet(sync=any_of(1, 2, 3)),)
    assert decision.reason is Reason.CHANGING_SYNC_SET


def test_sync_prefers_by_priority_and_quorum_does_not() -> None:
    members = (member(1), member(2), member(3, failover_priority=5))
    names = {name(2), name(3)}

    assert in_order(cluster_state(mode=SYNC, members=members), names) == (
        name(3),
        name(2),
    )
    assert in_order(cluster_state(mode=QUORUM, members=members), names) == (
        name(2),
        name(3),
    )


def test_strict_never_degrades_where_nothing_was_promised_yet() -> None:
    """From ``async`` to strict with every standby away: commits wait for them."""
    state = replace(in_async(cluster_state()), mode=QUORUM, strict=True)

    assert desired_set(state, (), (), absent={name(3), name(2)}) == any_of(1, 2, 3)
    assert desired_set(state, (), ()) == NOBODY
    view = holder_view(
        state=state, postgres=primary_server(server_sync=NOBODY, replication=())
    )
    assert decide_node(view).actions == (
        ApplySyncSet(sync=any_of(1, 2, 3), first=True),
    )


@pytest.mark.parametrize(
    ("mode", "count", "strict", "refused"),
    [
        (QUORUM, 3, True, True),
        (QUORUM, 2, True, False),
        (QUORUM, None, True, False),
        (QUORUM, 3, False, False),
        (ASYNC, 3, True, False),
    ],
)
def test_a_strict_count_that_nobody_can_reach_is_refused(
    mode: ReplicationMode, count: int | None, strict: bool, refused: bool
) -> None:
    command = change(mode=mode, sync_count=count, strict=strict)

    assert (waits_for_ever(cluster_state(), command) is not None) is refused


def test_a_setting_weakened_by_hand_takes_the_promise_back_first() -> None:
    """Somebody's ALTER SYSTEM; the mended setting and the promise follow."""
    drifted = primary_server(server_sync=SyncSet())
    first = decide_node(holder_view(postgres=drifted)).actions[0]
    state = cluster_state(opened=opened(1, 3, NOBODY))
    second = decide_node(holder_view(state=state, postgres=drifted)).actions

    assert isinstance(first, Propose)
    assert isinstance(first.command, SetSync)
    assert first.command.sync == NOBODY
    assert second == (ApplySyncSet(sync=any_of(1, 2, 3), first=True),)
