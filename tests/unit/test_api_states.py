"""The promised table of checks by state, cell by cell."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest

from pgbastion.api.checks import CHECKS, Asked
from pgbastion.api.states import PASSES, State
from pgbastion.model.claims import Claim, ClaimKind
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.report import PostgresState
from pgbastion.model.snapshot import LeaseSnapshot, NodeSnapshot
from pgbastion.testing.views import (
    NOW_MS,
    any_of,
    cluster_state,
    member,
    opened,
    primary_report,
    received,
    report,
)
from support.snapshots import primary_snapshot, standby_snapshot

RIVAL: Final = Claim(node=NodeId("n2"), kind=ClaimKind.NEVER_ASSIGNED)
ASYNC: Final = cluster_state(opened=opened(1, 3, any_of(1, 3)))
UNBALANCED: Final = cluster_state(
    members=(member(1), member(2, noloadbalance=True), member(3))
)
FOUND_IN: Final[Mapping[State, NodeSnapshot]] = {
    State.PRIMARY: primary_snapshot(),
    State.PRIMARY_PAUSED: primary_snapshot(state=cluster_state(paused=True)),
    State.PRIMARY_OLD_VIEW: primary_snapshot(view_left_ms=0),
    State.PRIMARY_OPENING: primary_snapshot(
        reports=received(primary_report(accepting=False))
    ),
    State.FENCED: primary_snapshot(lease=LeaseSnapshot(epoch=Epoch(3), left_ms=0)),
    State.SPLIT_BRAIN: primary_snapshot(claims=(RIVAL,)),
    State.SYNC: standby_snapshot(),
    State.ASYNC: standby_snapshot(state=ASYNC),
    State.STANDBY_PAUSED: standby_snapshot(state=cluster_state(paused=True)),
    State.STANDBY_OLD_VIEW: standby_snapshot(view_left_ms=0),
    State.DETACHED: standby_snapshot(reports=received(report(2, streaming=False))),
    State.UNBALANCED: standby_snapshot(state=UNBALANCED),
    State.WITNESS: replace(
        primary_snapshot(reports=received(report(1, state=PostgresState.NONE))),
        witness=True,
    ),
    State.STARTING: standby_snapshot(
        reports=received(report(2, state=PostgresState.COPYING))
    ),
    State.HUNG: standby_snapshot(
        reports=received(report(2, state=PostgresState.COPYING), at_ms=NOW_MS - 600_000)
    ),
}


@pytest.mark.parametrize("state", State, ids=lambda s: s.name)
@pytest.mark.parametrize("path", CHECKS)
def test_a_check_passes_where_the_table_says_so(state: State, path: str) -> None:
    problem = CHECKS[path](FOUND_IN[state], Asked())

    assert (problem is None) == (path in PASSES[state])


def test_every_check_passes_in_some_state_and_fails_in_another() -> None:
    for path in CHECKS:
        assert {path in passing for passing in PASSES.values()} == {True, False}


@pytest.mark.parametrize("mode", [ReplicationMode.SYNC, ReplicationMode.QUORUM])
def test_a_standby_that_replays_an_archive_is_asked_for_by_its_state(
    mode: ReplicationMode,
) -> None:
    archive = Asked(replication_state="in archive recovery")
    detached = replace(FOUND_IN[State.DETACHED], state=cluster_state(mode=mode))

    assert CHECKS["/replica"](detached, archive) is None
    assert CHECKS["/replica"](FOUND_IN[State.SYNC], archive) is not None
