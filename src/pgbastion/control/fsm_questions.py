"""What a node can look at, as questions that each have a few answers.

An answer says what fields of the view hold. A view that is made from some answers is
asked for a field of another question raises :class:`Unanswered`: so a decision itself
tells on what it depends.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Final, cast

from pgbastion.model.cluster import (
    WORK,
    Assignment,
    ClusterState,
    Fence,
    Member,
    OpenedEpoch,
    Order,
    OrderKind,
    OrderOutcome,
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
from pgbastion.model.trouble import Trouble
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

Answer = Mapping[str, object]
"""Values by part and field, as ``lease.expiry_ms``; what is not named is as usual."""
Choice = Mapping[str, str]
"""The answers that are chosen, by question."""

NOW_MS: Final = 1_000_000
_EPOCH: Final = Epoch(3)
_TIMELINE: Final = Timeline(4)
_ME: Final = Incarnation(7)
_END: Final = WalEnd(timeline=_TIMELINE, lsn=Lsn(100))
_ORDER_ID: Final = "order"
_AT: Final = "2026-01-01T00:00:00Z"


class Unanswered(Exception):  # noqa: N818 - it is no error
    """A decision looks at something that nothing is chosen for."""

    def __init__(self, question: str) -> None:
        super().__init__(question)
        self.question = question


class _Part:
    """A part of a view: what is asked for is looked up when it is read.

    The slots of the dataclass behind it stay empty until then; what no question is
    about is an attribute of the class.
    """

    questions: ClassVar[Mapping[str, tuple[str, Mapping[str, object]]]]
    """By field: the question that it belongs to, and its value by answer."""
    _chosen: Choice

    def __getattr__(self, field: str) -> object:
        question, values = self.questions[field]
        answer = self._chosen.get(question)
        if answer is None:
            raise Unanswered(question)
        value = values[answer]
        if value is _Order:
            value = (_make(_Order, self._chosen),)
        object.__setattr__(self, field, value)
        return value


class _View(_Part, NodeView): ...


class _State(_Part, ClusterState): ...


class _Lease(_Part, LeaseView): ...


class _Data(_Part, DataView): ...


class _Postgres(_Part, PostgresView): ...


class _Order(_Part, Order): ...


def imagine(chosen: Choice) -> NodeView:
    """Return a view of which only the fields with a chosen answer can be read."""
    view = _make(_View, chosen)
    object.__setattr__(view, "state", _make(_State, chosen))
    object.__setattr__(view, "lease", _make(_Lease, chosen))
    object.__setattr__(view, "data", _make(_Data, chosen))
    object.__setattr__(view, "postgres", _make(_Postgres, chosen))
    return cast("NodeView", view)


def _make(kind: type[_Part], chosen: Choice) -> _Part:
    part = kind.__new__(kind)
    object.__setattr__(part, "_chosen", chosen)
    return part


def _all(part: str, value: Any, *but: str) -> Answer:
    """Return the answer that all fields of a part are as in ``value``."""
    names = (f.name for f in fields(value) if f.name not in but)
    return {f"{part}.{name}": getattr(value, name) for name in names}


# Who has the role


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


def _held(number: int, **changes: object) -> dict[str, object]:
    """Say that ``number`` has the role, its epoch opened where nothing else is said."""
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
    held = replace(made, **changes)  # type: ignore[arg-type]
    opened = _opened(number) if held.opened else None
    return {"state.assignment": held, "state.opened": opened}


def _fenced(*, force: bool) -> dict[str, object]:
    fence = Fence(node=NodeId("n1"), force=force, drain_ms=0, cause="", at="")
    return {"state.fences": (fence,)}


_FORMER: Final = {"incarnation": Incarnation(5)}
_ASSIGNMENT: Final[Mapping[str, Answer]] = {
    "nobody, founder": {"state.founder": MemberId(1)},
    "nobody": {"state.founder": MemberId(2)},
    "held": _held(1),
    "held, not opened": _held(1, opened=False),
    "held, not opened, strict": _held(1, opened=False) | {"state.strict": True},
    "held by a former daemon": _held(1, **_FORMER),
    "held, taken over": _held(1, taken_over=True),
    "held, fenced": _held(1) | _fenced(force=False),
    "held, fenced by force": _held(1) | _fenced(force=True),
    "revoked": _held(1, revoked=True),
    "revoked, of a former daemon": _held(1, revoked=True, **_FORMER),
    "released": _held(1, released=True),
    "released, fenced": _held(1, released=True) | _fenced(force=True),
    "another": _held(2),
    "another, strict": _held(2) | {"state.strict": True},
    "another, revoked": _held(2, revoked=True),
    "another, revoked, this fenced": _held(2, revoked=True) | _fenced(force=False),
}


# What an operator ordered

_ORDER: Final = Order(
    order_id=_ORDER_ID,
    order=OrderKind.SWITCHOVER,
    target=NodeId("n2"),
    epoch=_EPOCH,
    drain_ms=0,
    force=False,
    cause="",
    at=_AT,
    expires_at=_AT,
)
_CARRIED_OUT: Final = replace(
    _ORDER, epoch=Epoch(2), begun=True, outcome=OrderOutcome.DONE
)


# What is there

_OWN: Final = DataView(empty=False, ours=True, data_id=DataId("a1"), epoch=_EPOCH)
_DATA: Final[Mapping[str, Answer]] = {
    name: _all("data", value)
    for name, value in {
        "none": DataView(empty=True, ours=False),
        "unusable": DataView(empty=False, ours=False, problem="of something else"),
        "unmarked": DataView(
            empty=False, ours=False, problem="not ours", unmarked=True
        ),
        "a standby's": replace(_OWN, was_standby=True),
        "a cut standby's": replace(_OWN, was_standby=True, cut_epoch=_EPOCH),
        "a primary's": replace(_OWN, promoted_epoch=_EPOCH),
        "a surveyed primary's": replace(_OWN, promoted_epoch=_EPOCH, cut_epoch=_EPOCH),
        "a former primary's": replace(_OWN, promoted_epoch=Epoch(2)),
        "another directory": replace(_OWN, data_id=DataId("b9")),
    }.items()
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
_STANDBY: Final = replace(_RUNS, in_recovery=True, wal_end=_END, streaming=True)
_SERVER: Final[Mapping[str, Answer]] = {
    name: _all("postgres", value, "evidence_ms")
    for name, value in {
        "stopped": PostgresView(running=False),
        "crashed": PostgresView(running=False, ended_ms=NOW_MS, child_died=True),
        "failed to start": PostgresView(
            running=False, start_failures=3, start_failed_ms=NOW_MS - 100
        ),
        "starting": replace(_RUNS, started_ms=NOW_MS - 100),
        "starting for too long": replace(_RUNS, started_ms=NOW_MS - 100_000),
        "standby": _STANDBY,
        "standby of the primary": replace(
            _STANDBY, following=NodeId("n2"), following_epoch=_EPOCH
        ),
        "standby that went another way": replace(
            _STANDBY, wal_end=WalEnd(timeline=Timeline(3), lsn=Lsn(99))
        ),
        "promoting": replace(
            _RUNS, started_as_primary=True, in_recovery=True, promote_asked=True
        ),
        "asked by nobody": replace(_RUNS, started_as_primary=True, in_recovery=True),
        "primary": _PRIMARY,
        "promoted just now": replace(
            _PRIMARY, checkpointed=False, promoted_ms=NOW_MS, promoted_at=None
        ),
        "primary without standbys": replace(
            _PRIMARY, replication=(), checkpointed=False
        ),
        "primary with another setting": replace(_PRIMARY, server_sync=SyncSet()),
        "primary with older words": replace(_PRIMARY, sync_reworded=True),
        "primary without slots": replace(_PRIMARY, slots=()),
        "primary on another timeline": replace(_PRIMARY, timeline=Timeline(9)),
        "found running": replace(_PRIMARY, adopted=True),
    }.items()
}


# What the others say


_A_NODE: Final = NodeReport(
    node=NodeId("n2"),
    version="",
    state=PostgresState.STANDBY,
    reason="",
    data_id=DataId("a2"),
    epoch=_EPOCH,
    wal_end=_END,
)


def _primary_says(**changes: object) -> Answer:
    primary = replace(
        _A_NODE,
        state=PostgresState.PRIMARY,
        promoted=True,
        accepting=True,
        checkpointed=_TIMELINE,
        history=((Timeline(3), Lsn(90)),),
    )
    return _told(replace(primary, **changes))  # type: ignore[arg-type]


def _standbys_say(**changes: object) -> Answer:
    made = replace(_A_NODE, streaming=True, replay_lsn=_END.lsn)
    standby = replace(made, **changes)  # type: ignore[arg-type]
    own = replace(
        made,
        node=NodeId("n1"),
        state=PostgresState.PRIMARY,
        streaming=False,
        holding=standby.holding,
    )
    third = replace(standby, node=NodeId("n3"), data_id=DataId("a3"))
    return _told(own, standby, third)


def _told(*reports: NodeReport) -> Answer:
    received = {r.node: Received(report=r, at_ms=NOW_MS - 100) for r in reports}
    return {"view.reports": received}


# The rest


def _lease(left_ms: int) -> Answer:
    return {
        "lease.epoch": _EPOCH,
        "lease.expiry_ms": NOW_MS + left_ms,
        "lease.renewing": _EPOCH,
    }


def _rejoin(step: RejoinStep) -> Answer:
    return {"view.rejoin": RejoinView(step=step, detail="because", epoch=_EPOCH)}


def _yes(key: str, value: object = True) -> dict[str, Answer]:  # noqa: FBT002 - a value
    return {"no": {}, "yes": {key: value}}


_SILENT: Final[dict[str, object]] = {"postgres.evidence_ms": NOW_MS - 90_000}

QUESTIONS: Final[Mapping[str, Mapping[str, Answer]]] = {
    "assignment": _ASSIGNMENT,
    "data": _DATA,
    "server": _SERVER,
    "lease": {
        "granted": _lease(4_500),
        "ending": _lease(1_000),
        "none": {},
        "ended here": {"lease.ended_epoch": _EPOCH},
        "released here": {
            "lease.ended_epoch": _EPOCH,
            "lease.released_epoch": _EPOCH,
        },
    },
    "guard armed": _yes("lease.armed_epoch", _EPOCH),
    "unable": _yes("lease.unable", "there is no watchdog"),
    # Of troubles that are treated alike, one.
    "server answers": {
        "just now": {},
        "not for long": _SILENT,
        "not for long, nobody": _SILENT | {"view.trouble": Trouble.SERVER_SILENT},
        "not for long, its disk hangs": _SILENT | {"view.trouble": Trouble.DISK_SILENT},
        "not for long, its disk is full": _SILENT | {"view.trouble": Trouble.DISK_FULL},
        "just now, its disk is full": {"view.trouble": Trouble.DISK_FULL},
    },
    "pause": {
        "no": {},
        "on": {"state.paused": True, "lease.paused": True},
        "over": {"state.pause_revision": 1, "lease.pause_revision": 1},
        "over, unheard": {"state.pause_revision": 1, "lease.paused": True},
        "on, unheard": {"lease.pause_revision": 1, "lease.paused": True},
    },
    "order": {
        "none": {},
        "open": {"state.orders": _Order},
        "carried out": {"state.orders": (_CARRIED_OUT,)},
    },
    # A switchover and a failover differ for the Raft leader alone.
    "its kind": {"the role": {}} | {kind.value: {"order.order": kind} for kind in WORK},
    "its target": {"here": {"order.target": NodeId("n1")}, "elsewhere": {}},
    "its epoch": {"now": {}, "over": {"order.epoch": Epoch(2)}},
    "begun": _yes("order.begun"),
    # What it is to end: this server and this directory, or what was there before them.
    "half done": {
        "no": {"order.server_ms": _RUNS.started_ms, "order.data_id": "a1"},
        "yes": {},
    },
    "begun when": {"a while ago": {}, "just now": {"view.begun_ms": NOW_MS}},
    "prepared": _yes("view.prepared", _ORDER_ID),
    "checkpointing": _yes("view.checkpointing"),
    "set unsettled": _yes("view.sync_unsettled"),
    "silent standby": _yes(
        "view.silent_since_ms",
        {standby_name(NodeId("n2"), DataId("a2")): NOW_MS - 100},
    ),
    "data changed": _yes("view.data_changed"),
    "opened": {"a while ago": {}, "just now": {"view.opened_ms": NOW_MS}},
    "job": _yes("view.job", "copy"),
    "job failed": _yes("view.job_failed", "lost the connection"),
    "rejoin": {"unknown": {}} | {step.value: _rejoin(step) for step in RejoinStep},
    "reports": {
        "a primary": _primary_says(),
        "nobody": {},
        "a primary, not open": _primary_says(accepting=False, checkpointed=None),
        "a primary, not checkpointed": _primary_says(checkpointed=None),
        "standbys": _standbys_say(),
        "standbys, clients wait": _standbys_say(holding=_ORDER_ID),
        "standbys that do not stream": _standbys_say(streaming=False),
    },
}
"""What a decision may look at. What only adds an action to another one is not asked:
the addresses that a node holds, and what it has to declare."""

_BASE: Final = NodeView(
    now_ms=NOW_MS,
    node=NodeId("n1"),
    member_id=MemberId(1),
    incarnation=_ME,
    state=ClusterState(
        cluster_id="c",
        members=tuple(_member(n) for n in (1, 2, 3)),
        policy=Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500),
    ),
    lease=LeaseView(
        epoch=Epoch(0),
        expiry_ms=0,
        released_epoch=Epoch(0),
        ended_epoch=Epoch(0),
        armed_epoch=Epoch(0),
        renewing=Epoch(0),
    ),
    data=_OWN,
    postgres=PostgresView(running=False, evidence_ms=NOW_MS - 100),
    reports={},
    limits=Limits(
        lease_ms=5_000,
        stop_ms=1_700,
        margin_ms=500,
        evidence_max_ms=2_000,
        sync_silent_ms=1_000,
    ),
    job_failed_ms=NOW_MS - 100,
    at=_AT,
)


def _ask(kind: type[_Part], part: str, usual: Any) -> None:
    """Prepare a part: what its fields are, by answer or always."""
    asked: dict[str, tuple[str, Mapping[str, object]]] = {}
    for name in (f.name for f in fields(usual)):
        key, value = f"{part}.{name}", getattr(usual, name)
        for question, answers in QUESTIONS.items():
            if any(key in answer for answer in answers.values()):
                by_answer = {a: values.get(key, value) for a, values in answers.items()}
                asked[name] = question, by_answer
        if name not in asked and not isinstance(value, _WHOLE):
            setattr(kind, name, value)
    kind.questions = asked


_WHOLE: Final = (ClusterState, LeaseView, DataView, PostgresView)
_ask(_View, "view", _BASE)
_ask(_State, "state", _BASE.state)
_ask(_Lease, "lease", _BASE.lease)
_ask(_Data, "data", _BASE.data)
_ask(_Postgres, "postgres", _BASE.postgres)
_ask(_Order, "order", _ORDER)
