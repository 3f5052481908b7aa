"""The history of roles: what each change was for, and what it cost."""

from dataclasses import replace

import pytest

from pgbastion.api.history import cluster_history
from pgbastion.control.apply import Outcome
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.explain import explain
from pgbastion.control.role_history import (
    NOTE_AFTER_MS,
    RoleChange,
    role_changes,
    sentence_of_change,
)
from pgbastion.control.routing import Routing
from pgbastion.ha.outages import SILENT_MS, OutageMeter
from pgbastion.model.actions import Decision, Propose
from pgbastion.model.cluster import Change, ClusterState
from pgbastion.model.commands import (
    Assign,
    NoteOutage,
    Opened,
    Release,
    Revoke,
    Vouched,
)
from pgbastion.model.ids import DataId, Epoch, MemberId, NodeId, Revision, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, Outage
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    INCARNATION,
    NOW_MS,
    any_of,
    cluster_state,
    cluster_view,
    end,
    member,
    primary_report,
    received,
    report,
)
from support.ordering import N1, N2, ordered
from support.orders import applied, outcome
from support.snapshots import primary_snapshot

OPENED_3 = Change(
    index=1,
    epoch=Epoch(3),
    what="opened",
    node=N1,
    timeline=Timeline(4),
    cause="",
    at="t0",
)


def switched() -> ClusterState:
    state = ordered(begun=True)
    release = Release(
        epoch=Epoch(3),
        incarnation=INCARNATION,
        lsn=None,
        cause=Reason.HANDED_OVER,
        at="t1",
        ended_at=end(120),
    )
    state = applied(state, release)
    state = applied(
        state, Revoke(epoch=Epoch(3), cause=Reason.HOLDER_RELEASED, at="t2")
    )
    assign = Assign(
        revision=Revision(state.revision),
        epoch=Epoch(4),
        member_id=MemberId(2),
        node=N2,
        data_id=DataId("a2"),
        timeline=Timeline(5),
        surveyed=end(120),
        cause=Reason.HOLDER_RELEASED,
        at="t3",
    )
    state = applied(state, assign)
    held = state.assignment
    assert held is not None
    state = replace(state, assignment=replace(held, incarnation=INCARNATION))
    opening = Opened(
        epoch=Epoch(4), incarnation=INCARNATION, sync=any_of(1, 1, 3), at="t4"
    )
    return applied(state, opening)


def note(gap_ms: int = 210, sessions: int = 8, epoch: int = 4) -> NoteOutage:
    return NoteOutage(epoch=Epoch(epoch), gap_ms=gap_ms, sessions=sessions)


def test_a_change_has_its_cause_its_times_its_positions_and_its_cost() -> None:
    state = applied(switched(), note())
    state = applied(state, Vouched(epoch=Epoch(4), who="me", at="t5"))

    before, after = role_changes(state)

    assert before == RoleChange(
        epoch=Epoch(3),
        node=N1,
        timeline=Timeline(4),
        released_at="t1",
        ended_for=Reason.HANDED_OVER,
        ended_lsn=Lsn(120),
        revoked_at="t2",
    )
    assert after == RoleChange(
        epoch=Epoch(4),
        node=N2,
        timeline=Timeline(5),
        former=N1,
        former_ended_for=Reason.HANDED_OVER,
        cause=Reason.HOLDER_RELEASED,
        order_id="o1",
        ordered_by="a test",
        lsn=Lsn(120),
        assigned_at="t3",
        opened_at="t4",
        gap_ms=210,
        sessions=8,
        vouched_at="t5",
        vouched_by="me",
    )


def test_what_ended_an_epoch_is_its_holders_word_where_there_is_one() -> None:
    before = role_changes(switched())[0]

    assert before.ended_for == Reason.HANDED_OVER
    assert before.revoked_at == "t2"


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({"ordered_by": "a test"}, "ordered: a test"),
        ({"ordered_by": ""}, "n1 gave it up: PostgreSQL has shut down cleanly"),
        (
            {"ordered_by": "", "former_ended_for": ""},
            "the holder stopped and released its epoch",
        ),
        (
            {"ordered_by": "", "cause": Reason.LEASE_RAN_OUT},
            "the holder was silent for a whole lease",
        ),
    ],
    ids=["ordered", "given up", "given up before the history begins", "taken away"],
)
def test_why_the_role_moved_is_told_by_whoever_moved_it(
    known: dict[str, str], sentence: str
) -> None:
    change = replace(role_changes(switched())[1], **known)  # type: ignore[arg-type]

    assert sentence_of_change(change).startswith(sentence)


def test_programs_and_people_are_told_the_same_of_why_the_role_moved() -> None:
    snapshot = primary_snapshot(state=switched())

    _, change = cluster_history(snapshot)["changes"]
    assert change["sentence"] == "ordered: a test"
    assert "why it was chosen: ordered: a test" in explain(snapshot).primary_lines


def test_the_first_word_on_a_gap_counts_and_a_senseless_one_never() -> None:
    state = switched()
    noted = applied(state, note())

    assert outcome(noted, note(gap_ms=9)) is Outcome.NO_CHANGE
    assert outcome(state, note(gap_ms=-1)) is Outcome.SENSELESS
    assert outcome(state, note(sessions=-1)) is Outcome.SENSELESS
    assert outcome(state, note(epoch=7)) is Outcome.WRONG_EPOCH


def told(number: int, gap_ms: int, epoch: int = 3) -> NodeReport:
    made = primary_report() if number == 1 else report(number)
    return replace(
        made, outage=Outage(epoch=Epoch(epoch), gap_ms=gap_ms, sessions=number)
    )


def decision(*reports: NodeReport, seen_ms: int = NOW_MS - NOTE_AFTER_MS) -> Decision:
    view = cluster_view(
        state=cluster_state(history=(OPENED_3,)),
        reports=received(primary_report(), *reports),
        assigned_seen_ms=seen_ms,
    )
    return decide_cluster(view)


def test_the_leader_notes_the_longest_gap_and_all_sessions() -> None:
    made = decision(told(1, 200), told(2, 310), told(3, 9_000, epoch=2))

    command = NoteOutage(epoch=Epoch(3), gap_ms=310, sessions=3)
    assert made == Decision(Reason.NOTING_OUTAGE, (Propose(command=command),))


@pytest.mark.parametrize(
    ("reports", "seen_ms"),
    [((), 0), ((told(2, 310),), NOW_MS - NOTE_AFTER_MS + 1)],
    ids=["nobody has told", "others may tell yet"],
)
def test_an_outage_is_noted_once_others_had_time_to_tell(
    reports: tuple[NodeReport, ...], seen_ms: int
) -> None:
    assert decision(*reports, seen_ms=seen_ms).reason is Reason.PRIMARY_HAS_LEASE


def test_what_was_noted_is_not_noted_again() -> None:
    known = replace(OPENED_3, gap_ms=5)
    view = cluster_view(
        state=cluster_state(history=(known,)),
        reports=received(primary_report(), told(2, 310)),
    )

    assert decide_cluster(view).reason is Reason.PRIMARY_HAS_LEASE


# One node's measure


def routing(number: int | None, epoch: int, parking: str = "") -> Routing:
    return Routing(
        epoch=Epoch(epoch),
        primary=None if number is None else member(number),
        primary_reason="",
        changing=number is None,
        parking=parking,
        replicas=(),
        replica_reason="",
    )


def accepting(number: int, epoch: int, **changes: object) -> NodeReport:
    return primary_report(number, epoch=Epoch(epoch), **changes)


class Metered:
    """A meter with a clock and sessions."""

    def __init__(self) -> None:
        self.meter = OutageMeter()
        self.open = 8
        self.meter.sessions = lambda: self.open

    def at(
        self,
        now_ms: int,
        route: Routing,
        *reports: NodeReport,
        heard_ms: int | None = None,
        stopping: bool = False,
    ) -> Outage | None:
        known = received(*reports, at_ms=now_ms if heard_ms is None else heard_ms)
        self.meter.note(now_ms, route, known, stopping=stopping)
        return self.meter.newest


def test_a_planned_change_is_measured_from_the_stop_to_the_new_primary() -> None:
    node = Metered()
    node.at(1_000, routing(1, 3), accepting(1, 3))
    node.at(1_050, routing(1, 3, parking="o1"), accepting(1, 3))
    # Who has to wait now has no session, and the server ends the others.
    node.open = 2
    node.at(1_100, routing(1, 3, parking="o1"), accepting(1, 3), stopping=True)
    node.open = 0
    node.at(1_200, routing(None, 3))

    made = node.at(1_320, routing(2, 4), accepting(2, 4))

    assert made == Outage(epoch=Epoch(4), gap_ms=220, sessions=8)


def test_another_node_sees_the_stop_when_the_primary_says_so() -> None:
    node = Metered()
    node.at(1_000, routing(1, 3), accepting(1, 3))
    node.at(1_100, routing(1, 3), accepting(1, 3, accepting=False))

    made = node.at(1_300, routing(2, 4), accepting(2, 4))

    assert made == Outage(epoch=Epoch(4), gap_ms=200, sessions=8)


def test_a_primary_that_fell_silent_stopped_when_it_was_last_heard() -> None:
    node = Metered()
    node.at(1_000, routing(1, 3), accepting(1, 3))
    node.at(7_000, routing(None, 3), accepting(1, 3), heard_ms=7_000 - SILENT_MS)

    made = node.at(8_000, routing(2, 4), accepting(2, 4))

    assert made == Outage(epoch=Epoch(4), gap_ms=2_000, sessions=8)


def test_a_node_that_never_knew_a_primary_measures_nothing() -> None:
    node = Metered()
    node.at(1_000, routing(None, 3))

    assert node.at(2_000, routing(1, 3), accepting(1, 3)) is None


def test_the_same_primary_back_in_its_epoch_is_no_change() -> None:
    node = Metered()
    node.at(1_000, routing(1, 3), accepting(1, 3))
    node.at(1_100, routing(None, 3))

    assert node.at(2_000, routing(1, 3), accepting(1, 3)) is None
    assert NodeId("n1") == N1
