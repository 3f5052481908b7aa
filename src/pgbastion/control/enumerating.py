"""Every state that a node can be in, asked for its decision: each has an exit.

A state is the assignment in the log, what is in the data directory, what the server
does, lease, guard, evidence, pause and rejoin. All combinations are asked; those that
no run reaches have to have an exit as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Final

from pgbastion.control.node import decide_node, duty, find
from pgbastion.control.resting import ENDS
from pgbastion.control.transitions import Duty, Found
from pgbastion.errors import InvariantError
from pgbastion.model.actions import Decision
from pgbastion.model.cluster import (
    Assignment,
    ClusterState,
    Fence,
    Member,
    OpenedEpoch,
    Policy,
    SyncSet,
)
from pgbastion.model.ids import (
    DataId,
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
    Timeline,
    standby_name,
)
from pgbastion.model.report import NodeReport, PostgresState, ReplicationRow
from pgbastion.model.views import (
    DataView,
    LeaseView,
    Limits,
    NodeView,
    PostgresView,
    Received,
    RejoinStep,
    RejoinView,
)
from pgbastion.model.wal import Lsn, WalEnd

NOW_MS: Final = 1_000_000
_EPOCH: Final = Epoch(3)
_TIMELINE: Final = Timeline(4)
_ME: Final = Incarnation(7)
_END: Final = WalEnd(timeline=_TIMELINE, lsn=Lsn(100))
_LIMITS: Final = Limits(
    lease_ms=5_000,
    stop_ms=1_700,
    margin_ms=500,
    evidence_max_ms=2_000,
    sync_silent_ms=1_000,
)


@dataclass(slots=True)
class Enumeration:
    """What came of asking all states."""

    states: int = 0
    reasons: dict[tuple[Duty, Found], Counter[str]] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    """States without an exit, in words."""


def enumerate_states(*, until_stuck: bool = False, every: int = 1) -> Enumeration:
    """Ask the states for their decisions.

    Args:
        until_stuck: Only up to the first without an exit.
        every: Only each so many of them.
    """
    found = Enumeration()
    for name, view in islice(views(), 0, None, every):
        if until_stuck and found.stuck:
            break
        found.states += 1
        row = (duty(view), find(view))
        try:
            decision = decide_node(view)
        except InvariantError as error:
            found.stuck.append(f"{name}: {error}")
            continue
        found.reasons.setdefault(row, Counter())[decision.reason] += 1
        if not has_exit(decision):
            found.stuck.append(f"{name}: {decision.reason} rests without an end")
    return found


def has_exit(decision: Decision) -> bool:
    """Tell whether something follows: an action, a later look, or a known end."""
    acts = bool(decision.actions) or decision.wake_at_ms is not None
    return acts or decision.reason in ENDS


def views() -> Iterator[tuple[str, NodeView]]:
    """Yield every state, with its name."""
    for (held, assignment), (data, in_data), (server, doing), rest in product(
        _ASSIGNMENTS.items(), _DATA.items(), _SERVERS.items(), _rest()
    ):
        view = replace(
            rest[1],
            state=replace(rest[1].state, **assignment),  # type: ignore[arg-type]
            data=in_data,
            postgres=replace(doing, evidence_ms=rest[1].postgres.evidence_ms),
        )
        yield f"{held}, {data}, {server}, {rest[0]}", view


def _member(number: int) -> Member:
    return Member(
        member_id=MemberId(number),
        name=NodeId(f"n{number}"),
        host=f"127.0.0.{number}",
        raft_port=8300,
        postgres_port=5442,
        api_port=8080,
        primary_port=5432,
        replica_port=5433,
        data_id=DataId(f"a{number}"),
    )


def _assignment(number: int, **changes: object) -> Assignment:
    made = Assignment(
        epoch=_EPOCH,
        member_id=MemberId(number),
        node=NodeId(f"n{number}"),
        data_id=DataId(f"a{number}"),
        timeline=_TIMELINE,
        surveyed=_END,
        incarnation=_ME,
        opened=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def _opened(number: int) -> OpenedEpoch:
    others = [n for n in (1, 2, 3) if n != number]
    names = tuple(standby_name(NodeId(f"n{n}"), DataId(f"a{n}")) for n in others)
    return OpenedEpoch(
        epoch=_EPOCH,
        node=NodeId(f"n{number}"),
        data_id=DataId(f"a{number}"),
        timeline=_TIMELINE,
        sync=SyncSet(names=names, num_sync=1),
    )


_ASSIGNMENTS: Final[Mapping[str, dict[str, object]]] = {
    "nobody, founder": {"assignment": None, "opened": None, "founder": MemberId(1)},
    "nobody": {"assignment": None, "opened": None, "founder": MemberId(2)},
    "held": {"assignment": _assignment(1), "opened": _opened(1)},
    "held, not opened": {"assignment": _assignment(1, opened=False), "opened": None},
    "held by a former daemon": {
        "assignment": _assignment(1, incarnation=Incarnation(5)),
        "opened": _opened(1),
    },
    "held, fenced": {
        "assignment": _assignment(1),
        "opened": _opened(1),
        "fences": (Fence(node=NodeId("n1"), force=True, drain_ms=0, cause="", at=""),),
    },
    "held, not opened, strict": {
        "assignment": _assignment(1, opened=False),
        "opened": None,
        "strict": True,
    },
    "held, taken over": {
        "assignment": _assignment(1, taken_over=True),
        "opened": _opened(1),
    },
    "revoked": {"assignment": _assignment(1, revoked=True), "opened": _opened(1)},
    "revoked, of a former daemon": {
        "assignment": _assignment(1, revoked=True, incarnation=Incarnation(5)),
        "opened": _opened(1),
    },
    "released": {"assignment": _assignment(1, released=True), "opened": _opened(1)},
    "another": {"assignment": _assignment(2), "opened": _opened(2)},
    "another, revoked": {
        "assignment": _assignment(2, revoked=True),
        "opened": _opened(2),
    },
}
_OWN: Final = DataView(empty=False, ours=True, data_id=DataId("a1"), epoch=_EPOCH)
_DATA: Final[Mapping[str, DataView]] = {
    "no data": DataView(empty=True, ours=False),
    "unusable data": DataView(empty=False, ours=False, problem="of something else"),
    "unmarked data": DataView(
        empty=False, ours=False, problem="not ours", unmarked=True
    ),
    "standby's data": replace(_OWN, was_standby=True),
    "cut standby's data": replace(_OWN, was_standby=True, cut_epoch=_EPOCH),
    "primary's data": replace(_OWN, promoted_epoch=_EPOCH),
    "former primary's data": replace(_OWN, promoted_epoch=Epoch(2)),
    "another directory": replace(_OWN, data_id=DataId("b9")),
}
_RUNS: Final = PostgresView(running=True, started_ms=NOW_MS - 20_000)
_PRIMARY: Final = replace(
    _RUNS,
    started_as_primary=True,
    in_recovery=False,
    timeline=_TIMELINE,
    wal_end=_END,
    promoted_at=Lsn(60),
    promoted_ms=NOW_MS - 10_000,
    server_sync=_opened(1).sync,
    sync_confirmed=True,
    replication=tuple(
        ReplicationRow(
            name=name, streaming=True, flush_lsn=Lsn(100), sync_state="quorum"
        )
        for name in _opened(1).sync.names
    ),
    slots=(NodeId("n2"), NodeId("n3")),
    checkpointed=True,
)
_SERVERS: Final[Mapping[str, PostgresView]] = {
    "stopped": PostgresView(running=False),
    "failed to start": PostgresView(
        running=False, start_failures=3, start_failed_ms=NOW_MS - 100
    ),
    "starting": replace(_RUNS, started_ms=NOW_MS - 100),
    "starting for too long": replace(_RUNS, started_ms=NOW_MS - 100_000),
    "standby": replace(_RUNS, in_recovery=True, wal_end=_END, streaming=True),
    "standby of the primary": replace(
        _RUNS,
        in_recovery=True,
        wal_end=_END,
        streaming=True,
        following=NodeId("n2"),
        following_epoch=_EPOCH,
    ),
    "promoting": replace(
        _RUNS, started_as_primary=True, in_recovery=True, promote_asked=True
    ),
    "primary": _PRIMARY,
    "primary without standbys": replace(_PRIMARY, replication=(), checkpointed=False),
    "primary with another setting": replace(_PRIMARY, server_sync=SyncSet()),
    "primary on another timeline": replace(_PRIMARY, timeline=Timeline(9)),
    "found running": replace(_PRIMARY, adopted=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """What does not depend on the others: lease, guard, pause, jobs, rejoin."""

    lease: str
    armed: Epoch
    silent: bool
    paused: bool
    job: str | None
    step: RejoinStep | None
    primary: str


def _rest() -> list[tuple[str, NodeView]]:
    made = []
    for lease, armed, silent, paused, job, step, primary in product(
        ("granted", "ending", "none", "ended here"),
        (Epoch(0), _EPOCH),
        (False, True),
        (False, True),
        (None, "copy"),
        (None, *RejoinStep),
        ("open", "not open", "not checkpointed"),
    ):
        # The ladder stands on a stopped directory of a node without the role.
        climbs = step is not None or primary != "open"
        if climbs and (lease != "none" or silent):
            continue
        rest = _Rest(
            lease=lease,
            armed=armed,
            silent=silent,
            paused=paused,
            job=job,
            step=step,
            primary=primary,
        )
        made.append((str(rest), _view(rest)))
    return made


def _view(rest: _Rest) -> NodeView:
    has = rest.lease in ("granted", "ending")
    left_ms = 4_500 if rest.lease == "granted" else 1_000
    found = None
    if rest.step is not None:
        found = RejoinView(step=rest.step, detail="because", epoch=_EPOCH)
    return NodeView(
        now_ms=NOW_MS,
        node=NodeId("n1"),
        member_id=MemberId(1),
        incarnation=_ME,
        state=ClusterState(
            cluster_id="c",
            members=tuple(_member(n) for n in (1, 2, 3)),
            policy=Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500),
            founder=MemberId(1),
            paused=rest.paused,
        ),
        lease=LeaseView(
            epoch=_EPOCH if has else Epoch(0),
            expiry_ms=NOW_MS + left_ms if has else 0,
            released_epoch=Epoch(0),
            ended_epoch=_EPOCH if rest.lease == "ended here" else Epoch(0),
            armed_epoch=rest.armed,
            renewing=_EPOCH if has else Epoch(0),
            paused=rest.paused,
        ),
        data=_OWN,
        postgres=PostgresView(
            running=False, evidence_ms=NOW_MS - (90_000 if rest.silent else 100)
        ),
        reports=_reports(rest.primary),
        limits=_LIMITS,
        job=rest.job,
        rejoin=found,
    )


def _reports(other: str) -> dict[NodeId, Received]:
    primary = NodeReport(
        node=NodeId("n2"),
        version="",
        state=PostgresState.PRIMARY,
        reason="",
        data_id=DataId("a2"),
        epoch=_EPOCH,
        promoted=True,
        accepting=other != "not open",
        wal_end=_END,
        checkpointed=_TIMELINE if other == "open" else None,
        history=((Timeline(3), Lsn(90)),),
    )
    return {primary.node: Received(report=primary, at_ms=NOW_MS - 100)}
