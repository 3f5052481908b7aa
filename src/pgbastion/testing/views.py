"""Builders of states and views: a healthy cluster of three, changed where a test says.

Pure. Members are ``n1``, ``n2``, ... with the ids 1, 2, ...; the data directory of
``n1`` is ``a1``, so that its standby name is ``n1_a1``.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from pgbastion.model.cluster import (
    NOBODY,
    Assignment,
    ClusterState,
    Member,
    OpenedEpoch,
    Policy,
    ReplicationMode,
    SyncSet,
)
from pgbastion.model.ids import (
    DataId,
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
    Revision,
    Timeline,
    standby_name,
)
from pgbastion.model.report import NodeReport, PostgresState, ReplicationRow
from pgbastion.model.views import (
    ClusterView,
    DataView,
    LeaseView,
    Limits,
    NodeView,
    PostgresView,
    RaftView,
    Received,
    Reports,
    SurveyAnswer,
)
from pgbastion.model.wal import Lsn, WalEnd

NOW_MS: Final = 1_000_000
POLICY: Final = Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500)
LIMITS: Final = Limits(
    lease_ms=5_000,
    stop_ms=1_700,
    margin_ms=500,
    evidence_max_ms=2_000,
    sync_silent_ms=1_000,
)
INCARNATION: Final = Incarnation(77)


def node_name(number: int) -> NodeId:
    """Return the name of the member with this number."""
    return NodeId(f"n{number}")


def data_id(number: int) -> DataId:
    """Return the id of the first data directory of the member with this number."""
    return DataId(f"a{number}")


def name(number: int) -> str:
    """Return the standby name of the member with this number."""
    return standby_name(node_name(number), data_id(number))


def any_of(num_sync: int, *numbers: int) -> SyncSet:
    """Return the set in which ``num_sync`` of these members confirm."""
    return SyncSet(names=tuple(sorted(map(name, numbers))), num_sync=num_sync)


def member(number: int, *, witness: bool = False, **changes: object) -> Member:
    """Return a member; a witness has no PostgreSQL."""
    made = Member(
        member_id=MemberId(number),
        name=node_name(number),
        host=f"127.0.0.{number}",
        raft_port=8300,
        postgres_port=None if witness else 5442,
        api_port=8080,
        primary_port=5432,
        replica_port=5433,
        data_id=None if witness else data_id(number),
        joined=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def assignment(number: int = 1, *, epoch: int = 3, **changes: object) -> Assignment:
    """Return an opened assignment whose timeline is one above its epoch."""
    made = Assignment(
        epoch=Epoch(epoch),
        member_id=MemberId(number),
        node=node_name(number),
        data_id=data_id(number),
        timeline=Timeline(epoch + 1),
        surveyed=end(100, epoch),
        incarnation=INCARNATION,
        opened=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def opened(number: int, epoch: int, sync: SyncSet) -> OpenedEpoch:
    """Return an opened epoch of this member."""
    return OpenedEpoch(
        epoch=Epoch(epoch),
        node=node_name(number),
        data_id=data_id(number),
        timeline=Timeline(epoch + 1),
        sync=sync,
    )


def cluster_state(*, servers: int = 3, **changes: object) -> ClusterState:
    """Return a founded cluster: ``n1`` holds epoch 3, one of the others confirms."""
    made = ClusterState(
        index=10,
        revision=Revision(7),
        cluster_name="main",
        cluster_id="c1",
        founder=MemberId(1),
        system_identifier="42",
        next_member_id=MemberId(servers + 1),
        members=tuple(member(n) for n in range(1, servers + 1)),
        policy=POLICY,
        mode=ReplicationMode.QUORUM,
        sync_count=1,
        assignment=assignment(),
        opened=opened(1, 3, any_of(1, *range(2, servers + 1))),
        highest_timeline=Timeline(4),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def in_async(state: ClusterState) -> ClusterState:
    """Return the state in ``async``, where nothing is promised any more."""
    last = state.opened
    degraded = replace(last, sync=NOBODY) if last is not None else None
    return replace(state, mode=ReplicationMode.ASYNC, opened=degraded)


def end(lsn: int, timeline: int = 4) -> WalEnd:
    """Return an end of WAL."""
    return WalEnd(timeline=Timeline(timeline), lsn=Lsn(lsn))


def report(number: int, **changes: object) -> NodeReport:
    """Return the report of a streaming standby."""
    made = NodeReport(
        node=node_name(number),
        version="1",
        state=PostgresState.STANDBY,
        reason="following",
        data_id=data_id(number),
        wal_end=end(100),
        streaming=True,
        policy_revision=0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def primary_report(number: int = 1, **changes: object) -> NodeReport:
    """Return the report of the accepting primary of epoch 3."""
    made = report(
        number,
        state=PostgresState.PRIMARY,
        epoch=Epoch(3),
        promoted=True,
        accepting=True,
        checkpointed=Timeline(4),
        streaming=False,
        history=((Timeline(3), Lsn(90)),),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def received(*reports: NodeReport, at_ms: int = NOW_MS - 100) -> dict[NodeId, Received]:
    """Return reports as they are kept."""
    return {r.node: Received(report=r, at_ms=at_ms) for r in reports}


def known_reports(
    *reports: NodeReport, fresh_since_ms: int = NOW_MS - 1_000
) -> Reports:
    """Return reports with the instant from which on they say something about now."""
    return Reports(received=received(*reports), fresh_since_ms=fresh_since_ms)


def answer(
    number: int, lsn: int | None, timeline: int = 4, **changes: object
) -> SurveyAnswer:
    """Return an answer to a survey; ``lsn`` None: it could not tell."""
    made = SurveyAnswer(
        node=node_name(number),
        data_id=data_id(number),
        wal_end=None if lsn is None else end(lsn, timeline),
        timeline_begin=Lsn(50),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def raft_view(*, voters: Iterable[int] = (1, 2, 3), **changes: object) -> RaftView:
    """Return what the leader ``n1`` sees of a quiet group in term 5."""
    ids = tuple(MemberId(v) for v in voters)
    made = RaftView(
        member_id=MemberId(1),
        term=5,
        leader=MemberId(1),
        is_leader=True,
        own_entry_applied=True,
        elected_ms=NOW_MS - 60_000,
        last_answer_ms=NOW_MS - 200,
        voters=ids,
        learners=(),
        configurations=(ids,),
        caught_up=ids,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def cluster_view(**changes: object) -> ClusterView:
    """Return the leader's view of a healthy cluster."""
    made = ClusterView(
        now_ms=NOW_MS,
        state=cluster_state(),
        raft=raft_view(),
        reports=received(primary_report(), report(2), report(3)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def lease_view(epoch: int = 3, **changes: object) -> LeaseView:
    """Return a page on which this epoch was granted, renewed and armed."""
    made = LeaseView(
        epoch=Epoch(epoch),
        expiry_ms=NOW_MS + 4_500,
        released_epoch=Epoch(0),
        ended_epoch=Epoch(0),
        armed_epoch=Epoch(epoch),
        renewing=Epoch(epoch),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


IDLE_LEASE: Final = LeaseView(
    epoch=Epoch(0),
    expiry_ms=0,
    released_epoch=Epoch(0),
    ended_epoch=Epoch(0),
    armed_epoch=Epoch(0),
    renewing=Epoch(0),
)
STOPPED: Final = PostgresView(running=False)


def row(number: int, flush: int = 100, *, streaming: bool = True) -> ReplicationRow:
    """Return a standby's row on the primary."""
    return ReplicationRow(
        name=name(number),
        streaming=streaming,
        flush_lsn=Lsn(flush),
        sync_state="quorum",
    )


def primary_server(**changes: object) -> PostgresView:
    """Return the running primary of epoch 3 with both standbys in its setting."""
    made = PostgresView(
        running=True,
        started_as_primary=True,
        in_recovery=False,
        timeline=Timeline(4),
        wal_end=end(100),
        promoted_at=Lsn(60),
        promoted_ms=NOW_MS - 10_000,
        evidence_ms=NOW_MS - 100,
        started_ms=NOW_MS - 20_000,
        server_sync=any_of(1, 2, 3),
        sync_confirmed=True,
        replication=(row(2), row(3)),
        slots=(node_name(2), node_name(3)),
        checkpointed=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def standby_server(**changes: object) -> PostgresView:
    """Return a running standby that follows ``n1`` in epoch 3."""
    made = PostgresView(
        running=True,
        in_recovery=True,
        timeline=Timeline(4),
        wal_end=end(100),
        following=node_name(1),
        following_epoch=Epoch(3),
        streaming=True,
        evidence_ms=NOW_MS - 100,
        started_ms=NOW_MS - 20_000,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def holder_view(**changes: object) -> NodeView:
    """Return the view of ``n1``, the primary of epoch 3, all being well."""
    made = NodeView(
        now_ms=NOW_MS,
        node=node_name(1),
        member_id=MemberId(1),
        incarnation=INCARNATION,
        state=cluster_state(),
        lease=lease_view(),
        data=DataView(
            empty=False,
            ours=True,
            data_id=data_id(1),
            epoch=Epoch(3),
            promoted_epoch=Epoch(3),
        ),
        postgres=primary_server(),
        reports=received(primary_report(), report(2), report(3)),
        limits=LIMITS,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def standby_view(**changes: object) -> NodeView:
    """Return the view of ``n2``, a standby of ``n1``, all being well."""
    made = holder_view(
        node=node_name(2),
        member_id=MemberId(2),
        incarnation=Incarnation(78),
        lease=IDLE_LEASE,
        data=DataView(
            empty=False,
            ours=True,
            data_id=data_id(2),
            epoch=Epoch(3),
            was_standby=True,
        ),
        postgres=standby_server(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]
