"""The health checks, as a table of what they answer in each state of a node."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.api.checks import (
    CHECKS,
    Asked,
    is_asynchronous,
    is_live,
    is_primary,
    is_read_only,
    is_ready,
    is_replica,
    is_synchronous,
)
from pgbastion.model.claims import Claim, ClaimKind
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.ids import Epoch, MemberId, NodeId
from pgbastion.model.report import PostgresState
from pgbastion.model.snapshot import (
    LeaseSnapshot,
    NodeRole,
    NodeSnapshot,
    RouteSnapshot,
    SyncRole,
)
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    NOW_MS,
    any_of,
    assignment,
    cluster_state,
    end,
    member,
    opened,
    primary_report,
    received,
    report,
)
from support.snapshots import primary_snapshot, standby_snapshot

NOTHING = Asked()


def code(snapshot: NodeSnapshot, path: str = "/primary") -> str | None:
    """Return why the check fails; None: it passes."""
    problem = CHECKS[path](snapshot, NOTHING)
    return problem.code if problem else None


def held_by_me(**changes: Any) -> NodeSnapshot:
    """Return ``n1``'s snapshot with its assignment changed."""
    return primary_snapshot(state=cluster_state(assignment=assignment(**changes)))


# /primary


def test_the_primary_passes_while_its_lease_runs() -> None:
    assert code(primary_snapshot()) is None


def test_a_primary_fails_from_the_instant_at_which_its_lease_is_over() -> None:
    """S1: nobody may be sent to a primary that another node may have replaced."""
    snapshot = primary_snapshot(lease=LeaseSnapshot(epoch=Epoch(3), left_ms=0))

    assert code(snapshot) == "lease_expired"
    assert snapshot.role is NodeRole.FENCED


@pytest.mark.parametrize(
    ("epoch", "left_ms", "role"),
    [
        (3, 0, NodeRole.FENCED),
        (3, 900, NodeRole.STARTING),  # it is to be started again in place
        (0, 0, NodeRole.STARTING),  # it comes back, and has had no lease yet
    ],
)
def test_a_holder_that_was_stopped_is_fenced_once_its_lease_is_over(
    epoch: int, left_ms: int, role: NodeRole
) -> None:
    snapshot = primary_snapshot(
        reports=received(report(1, state=PostgresState.STOPPED)),
        lease=LeaseSnapshot(epoch=Epoch(epoch), left_ms=left_ms),
    )

    assert snapshot.role is role


def test_a_lease_of_another_epoch_is_none() -> None:
    snapshot = primary_snapshot(lease=LeaseSnapshot(epoch=Epoch(2), left_ms=4_000))

    assert code(snapshot) is not None


@pytest.mark.parametrize("end_of_it", ["revoked", "released"])
def test_a_holder_whose_epoch_has_ended_fails(end_of_it: str) -> None:
    snapshot = held_by_me(**{end_of_it: True})

    assert code(snapshot) == "not_primary"
    assert snapshot.role is NodeRole.FENCED


def test_a_primary_that_is_not_open_for_clients_yet_fails() -> None:
    snapshot = primary_snapshot(reports=received(primary_report(accepting=False)))

    assert code(snapshot) == "not_ready"
    assert snapshot.role is NodeRole.PRIMARY


def test_a_server_promoted_in_an_older_epoch_is_fenced() -> None:
    snapshot = primary_snapshot(
        reports=received(primary_report(epoch=Epoch(2), promoted=False))
    )

    assert code(snapshot) == "not_ready"
    assert snapshot.role is NodeRole.FENCED


@pytest.mark.parametrize(
    ("changes", "state", "role"),
    [
        ({}, PostgresState.STARTING, NodeRole.STARTING),
        ({"revoked": True}, PostgresState.STARTING, NodeRole.FENCED),
        ({"member_id": MemberId(2)}, PostgresState.STOPPED, NodeRole.STARTING),
    ],
    ids=["holds-the-epoch", "its-epoch-is-over", "holds-none"],
)
def test_who_does_not_run_is_fenced_only_by_the_end_of_an_epoch_of_its_own(
    changes: dict[str, Any], state: PostgresState, role: NodeRole
) -> None:
    snapshot = held_by_me(**changes)
    told = received(report(1, state=state))
    expired = LeaseSnapshot(epoch=Epoch(3), left_ms=0)

    assert replace(snapshot, reports=told, lease=expired).role is role


def test_a_standby_fails_and_names_the_primary() -> None:
    problem = is_primary(standby_snapshot(), NOTHING)

    assert problem is not None
    assert problem.code == "not_primary"
    assert "n1" in problem.remedy


def test_a_node_that_knows_no_primary_says_why() -> None:
    snapshot = standby_snapshot(
        routes=RouteSnapshot(primary_reason="n3 is being promoted")
    )

    problem = is_primary(snapshot, NOTHING)

    assert problem is not None
    assert "n3 is being promoted" in problem.remedy


def test_a_view_that_is_too_old_names_no_primary() -> None:
    """S5: knowledge older than the lease sends nobody anywhere."""
    assert primary_snapshot(view_left_ms=0).primary is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "has not heard from the cluster for a whole lease"),
        ({"member_id": MemberId(0)}, "is not a member of a cluster yet"),
    ],
)
def test_a_check_that_fails_says_why_no_primary_is_known(
    change: dict[str, Any], why: str
) -> None:
    snapshot = replace(standby_snapshot(view_left_ms=0), **change)

    problem = CHECKS["/primary"](snapshot, NOTHING)

    assert problem is not None
    assert problem.remedy.endswith(f"the cluster has no primary now: this node {why}")


def test_a_node_without_a_report_is_starting() -> None:
    snapshot = primary_snapshot(reports={})

    assert snapshot.role is NodeRole.STARTING
    assert code(snapshot) is not None


def test_a_holder_that_has_not_been_promoted_is_starting() -> None:
    snapshot = primary_snapshot(
        reports=received(report(1, state=PostgresState.STARTING))
    )

    assert snapshot.role is NodeRole.STARTING


# /replica


def test_a_standby_that_streams_passes() -> None:
    assert code(standby_snapshot(), "/replica") is None


def test_a_primary_is_no_replica_but_reads() -> None:
    assert code(primary_snapshot(), "/replica") == "not_standby"
    assert code(primary_snapshot(), "/read-only") is None


def test_a_standby_that_does_not_stream_fails() -> None:
    snapshot = standby_snapshot(
        reports=received(primary_report(), report(2, streaming=False))
    )

    assert code(snapshot, "/replica") == "not_streaming"
    assert is_read_only(snapshot, NOTHING) is not None


def test_a_standby_that_is_tagged_noloadbalance_fails() -> None:
    members = (member(1), member(2, noloadbalance=True))

    snapshot = standby_snapshot(state=cluster_state(members=members))

    assert code(snapshot, "/replica") == "noloadbalance"


@pytest.mark.parametrize(
    ("allowed", "passes"), [(99, False), (100, True), (1 << 20, True)]
)
def test_a_standby_passes_up_to_the_lag_that_was_asked_for(
    allowed: int, *, passes: bool
) -> None:
    """``n2`` has replayed 900 of 1,000 bytes."""
    problem = is_replica(standby_snapshot(), Asked(lag_bytes_max=allowed))

    assert (problem is None) is passes
    assert problem is None or "100 bytes" in problem.message


def test_a_lag_that_cannot_be_told_fails_a_check_that_asks_for_it() -> None:
    snapshot = standby_snapshot(
        reports=received(report(2, replay_lsn=Lsn(900), wal_end=end(950)))
    )

    problem = is_replica(snapshot, Asked(lag_bytes_max=1 << 30))

    assert problem is not None
    assert problem.code == "lag_unknown"
    assert is_replica(snapshot, NOTHING) is None


def test_the_lag_behind_a_silent_primary_counts_from_its_last_word() -> None:
    old = received(primary_report(wal_end=end(1_000)), at_ms=NOW_MS - 60_000)
    new = received(report(2, replay_lsn=Lsn(900)))

    assert standby_snapshot(reports={**old, **new}).lag_bytes(NodeId("n2")) == 100


def test_a_standby_ahead_of_an_old_report_is_not_behind() -> None:
    reports = received(primary_report(wal_end=end(800)), report(2, replay_lsn=Lsn(900)))

    assert standby_snapshot(reports=reports).lag_bytes(NodeId("n2")) == 0


def test_nobody_lags_before_the_first_assignment() -> None:
    state = cluster_state(assignment=None, opened=None)

    assert standby_snapshot(state=state).lag_bytes(NodeId("n2")) is None


# Synchronous standbys


def test_a_member_of_the_declared_set_is_synchronous() -> None:
    assert is_synchronous(standby_snapshot(), NOTHING) is None
    assert is_asynchronous(standby_snapshot(), NOTHING) is not None


def test_a_standby_outside_the_set_is_asynchronous() -> None:
    snapshot = standby_snapshot(state=cluster_state(opened=opened(1, 3, any_of(1, 3))))

    assert is_asynchronous(snapshot, NOTHING) is None
    assert is_synchronous(snapshot, NOTHING) is not None


def test_what_fails_as_replica_fails_as_synchronous_standby() -> None:
    problem = is_synchronous(primary_snapshot(), NOTHING)

    assert problem is not None
    assert problem.code == "not_standby"


@pytest.mark.parametrize(
    ("mode", "role"),
    [
        (ReplicationMode.QUORUM, SyncRole.QUORUM),
        (ReplicationMode.SYNC, SyncRole.SYNC),
    ],
)
def test_the_word_for_a_synchronous_standby_follows_the_mode(
    mode: ReplicationMode, role: SyncRole
) -> None:
    assert standby_snapshot(state=cluster_state(mode=mode)).sync_role(member(2)) is role


@pytest.mark.parametrize(
    "changes",
    [
        {"opened": opened(1, 2, any_of(1, 2, 3))},  # a set of an earlier epoch
        {"opened": opened(1, 3, any_of(0))},  # degraded
        {"opened": None},
    ],
)
def test_nobody_is_synchronous_without_a_promise_in_force(
    changes: dict[str, Any],
) -> None:
    snapshot = standby_snapshot(state=cluster_state(**changes))

    assert snapshot.sync_role(member(2)) is SyncRole.ASYNC


def test_a_member_without_data_is_not_synchronous() -> None:
    unborn = member(2, data_id=None)

    assert standby_snapshot().sync_role(unborn) is SyncRole.ASYNC


# /liveness and /readiness


def test_a_daemon_that_stopped_deciding_is_not_live() -> None:
    old = received(primary_report(), at_ms=NOW_MS - 10_000)

    assert is_live(primary_snapshot(), NOTHING) is None
    assert is_live(primary_snapshot(reports=old), NOTHING) is not None


def test_a_daemon_that_waits_to_join_is_live_but_not_ready() -> None:
    snapshot = primary_snapshot(member_id=MemberId(0), reports={})

    assert is_live(snapshot, NOTHING) is None
    assert is_ready(snapshot, NOTHING) is not None


def test_primary_standby_and_witness_are_ready() -> None:
    witness = primary_snapshot(
        witness=True, reports=received(report(1, state=PostgresState.NONE))
    )

    assert witness.role is NodeRole.WITNESS
    assert is_ready(witness, NOTHING) is None
    assert is_ready(primary_snapshot(), NOTHING) is None
    assert is_ready(standby_snapshot(), NOTHING) is None


@pytest.mark.parametrize("path", sorted(CHECKS))
def test_a_starting_node_passes_nothing_but_liveness(path: str) -> None:
    snapshot = primary_snapshot(
        reports=received(report(1, state=PostgresState.COPYING, streaming=False))
    )

    assert (code(snapshot, path) is None) is (path == "/liveness")


def test_a_witness_takes_neither_reads_nor_writes() -> None:
    snapshot = primary_snapshot(
        witness=True, reports=received(report(1, state=PostgresState.NONE))
    )
    other = replace(snapshot, state=cluster_state(assignment=assignment(2)))

    assert code(other, "/primary") == "not_primary"
    assert code(other, "/read-only") == "not_standby"


def test_no_primary_passes_in_a_split_brain() -> None:
    claim = Claim(node=NodeId("n2"), kind=ClaimKind.NEVER_ASSIGNED)

    assert code(primary_snapshot(claims=(claim,))) == "split_brain"
