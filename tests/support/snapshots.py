"""Snapshots for tests: a healthy cluster of three, seen by ``n1``, its primary."""

from dataclasses import replace
from typing import Any

from pgbastion.model.cluster import Change
from pgbastion.model.ids import Epoch, MemberId, NodeId, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.snapshot import (
    BackendTraffic,
    DecisionSnapshot,
    LeaseSnapshot,
    NodeSnapshot,
    ProxyCounts,
    RaftPeer,
    RaftSnapshot,
    RouteSnapshot,
)
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    NOW_MS,
    cluster_state,
    end,
    member,
    primary_report,
    received,
    report,
)

IDS = tuple(MemberId(n) for n in (1, 2, 3))
RAFT = RaftSnapshot(
    role="leader",
    term=5,
    leader=MemberId(1),
    voters=IDS,
    learners=(),
    committed=42,
    applied=41,
    last_index=43,
    peers=(
        RaftPeer(member_id=MemberId(2), address="127.0.0.2:8300", matched=42),
        RaftPeer(member_id=MemberId(3), address="127.0.0.3:8300", matched=40),
    ),
)
COUNTS = ProxyCounts(
    connections=3,
    held=1,
    accepted_total=9,
    refused_total={"no_primary": 2},
    traffic=(
        BackendTraffic(
            service="primary",
            node="n1",
            sessions=2,
            sessions_total=7,
            bytes_to_server=1_000,
            bytes_to_client=2_000,
            failures_total=1,
        ),
    ),
)


def change(epoch: int, node: str, cause: str = "lease_ran_out") -> Change:
    """Return the line of the history that assigned an epoch."""
    return Change(
        index=10 * epoch,
        epoch=Epoch(epoch),
        what="assigned",
        node=NodeId(node),
        timeline=Timeline(epoch + 1),
        cause=cause,
        at=f"2026-01-0{epoch}T00:00:00+00:00",
    )


def primary_snapshot(**changes: Any) -> NodeSnapshot:
    """Return what ``n1`` knows while all is well; ``changes`` replace fields."""
    made = NodeSnapshot(
        now_ms=NOW_MS,
        node=NodeId("n1"),
        member_id=MemberId(1),
        witness=False,
        state=cluster_state(
            history=(
                change(1, "n1", "first_primary"),
                change(2, "n2"),
                change(3, "n1"),
            )
        ),
        reports=received(
            primary_report(wal_end=end(1_000)),
            report(2, replay_lsn=Lsn(900), wal_end=end(950), following=NodeId("n1")),
            report(3, replay_lsn=Lsn(1_000), wal_end=end(1_000)),
        ),
        report_max_ms=1_500,
        raft=RAFT,
        lease=LeaseSnapshot(epoch=Epoch(3), left_ms=4_200),
        view_left_ms=4_000,
        node_decision=DecisionSnapshot(reason=Reason.PRIMARY_RUNNING),
        cluster_decision=DecisionSnapshot(reason=Reason.PRIMARY_HAS_LEASE),
        routes=RouteSnapshot(primary=member(1), replicas=(member(2), member(3))),
        count_proxy=lambda: COUNTS,
        version="1.2.3",
        commit="abc",
    )
    return replace(made, **changes)


def standby_snapshot(**changes: Any) -> NodeSnapshot:
    """Return what ``n2``, a synchronous standby, knows while all is well."""
    return primary_snapshot(
        node=NodeId("n2"),
        member_id=MemberId(2),
        lease=LeaseSnapshot(),
        raft=replace(RAFT, role="follower", peers=()),
        node_decision=DecisionSnapshot(reason=Reason.FOLLOWING),
        cluster_decision=DecisionSnapshot(reason=Reason.NOT_LEADER),
        **changes,
    )
