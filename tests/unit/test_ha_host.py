"""What the state machine's host keeps, and when it forgets."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from pgbastion.errors import ConsensusError
from pgbastion.ha.cutter import WitnessCutter
from pgbastion.ha.host import COMPACT_EVERY, Host
from pgbastion.ha.ports import RaftStatus
from pgbastion.model.cluster import (
    Member,
    Policy,
    ReplicationMode,
    decode_state,
    encode_state,
)
from pgbastion.model.commands import (
    AdoptPolicy,
    Assign,
    Command,
    Declare,
    Found,
    Join,
    Resume,
    SetPolicy,
    encode_command,
)
from pgbastion.model.ids import (
    DataId,
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
    Revision,
    Timeline,
)
from pgbastion.model.profile import Profile
from pgbastion.model.report import NodeReport, PostgresState, encode_report

pytestmark = pytest.mark.timeout(10)

N1 = Member(
    member_id=MemberId(1),
    name=NodeId("n1"),
    host="10.0.0.1",
    raft_port=8300,
    postgres_port=5442,
    api_port=8080,
    primary_port=5432,
    replica_port=5433,
    joined=True,
)


class RecordingEngine:
    """An engine that notes what the host tells it, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.last_answer_ns = 0
        self.compacted = b""
        self.last_index = 0

    def applied(self, index: int) -> None:
        self.told.append(("applied", index))

    def lease(self, member_id: int, epoch: int, incarnation: int, lease_ms: int) -> int:
        del member_id, incarnation, lease_ms
        self.told.append(("lease", epoch))
        return self.last_answer_ns

    def compact(self, index: int, state: bytes) -> None:
        self.told.append(("compact", index))
        self.compacted = state

    def status(self) -> RaftStatus:
        return RaftStatus(
            member_id=1,
            role="leader",
            term=3,
            leader=1,
            committed=0,
            applied=0,
            last_index=self.last_index,
            voters=(1,),
            learners=(),
            configurations=((1,),),
            own_entry_applied=True,
            elected_ns=1,
            last_answer_ns=self.last_answer_ns,
            pending_change=False,
            peers={},
        )

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the host must not call {name} here")


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
def host(engine: RecordingEngine) -> Host:
    return Host(
        engine,
        node=NodeId("n1"),
        cutter=WitnessCutter(),
        on_change=lambda: None,
        cut_timeout_ms=100,
    )


def commit(host: Host, *commands: Command) -> None:
    for command in commands:
        index = host.state.index + 1
        host.on_committed(index, index.to_bytes(8, "big"), encode_command(command))


FOUND = Found(
    cluster_name="main",
    cluster_id="c1",
    member=N1,
    policy=Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500),
    mode=ReplicationMode.QUORUM,
    sync_count=None,
    strict=False,
)


def assigned(host: Host) -> None:
    commit(host, FOUND)
    declared = replace(N1, data_id=DataId("d1"))
    commit(host, Declare(member=declared, system_identifier="7"))
    commit(
        host,
        Assign(
            revision=Revision(host.state.revision),
            epoch=Epoch(1),
            member_id=MemberId(1),
            node=NodeId("n1"),
            data_id=DataId("d1"),
            timeline=Timeline(2),
            surveyed=None,
            cause="test",
            at="",
        ),
        Resume(
            epoch=Epoch(1),
            member_id=MemberId(1),
            incarnation=Incarnation(9),
            former=None,
        ),
    )


def test_the_holder_is_told_to_the_engine_before_its_entry_counts_as_applied(
    host: Host, engine: RecordingEngine
) -> None:
    assigned(host)

    assert engine.told[-2:] == [("lease", 1), ("applied", host.state.index)]


def test_a_closed_lease_stays_closed_whatever_is_applied(
    host: Host, engine: RecordingEngine
) -> None:
    assigned(host)
    host.close_lease(Epoch(1))
    host.on_committed(host.state.index + 1, b"", b"")

    assert [what for what in engine.told if what[0] == "lease"][-1] == ("lease", 0)


def test_what_was_closed_under_an_earlier_leadership_is_open_again(
    host: Host, engine: RecordingEngine
) -> None:
    assigned(host)
    host.close_lease(Epoch(1))
    host.on_leader()

    assert engine.told[-1] == ("lease", 1)


def test_closing_returns_when_the_last_renewal_was_answered(
    host: Host, engine: RecordingEngine
) -> None:
    assigned(host)
    engine.last_answer_ns = 7_000_000

    assert host.close_lease(Epoch(1)) == 7


def test_no_wait_counts_from_before_what_it_waits_for(
    host: Host, engine: RecordingEngine
) -> None:
    assigned(host)
    engine.last_answer_ns = 7_000_001

    assert host.close_lease(Epoch(1)) == 8
    assert host.raft().last_answer_ms == 8
    assert host.raft().elected_ms == 1


def test_a_report_under_another_nodes_name_is_dropped(host: Host) -> None:
    commit(host, FOUND)
    report = NodeReport(
        node=NodeId("n2"), version="1", state=PostgresState.NONE, reason="witness"
    )

    host.on_report_bytes(MemberId(1), encode_report(report))

    assert not host.reports


def test_bytes_that_are_no_report_change_nothing(host: Host) -> None:
    commit(host, FOUND)

    host.on_report_bytes(MemberId(1), b"\xff{")

    assert not host.reports


def test_an_entry_of_any_bytes_is_applied_and_told(
    host: Host, engine: RecordingEngine
) -> None:
    host.on_committed(1, b"x", b"\x00garbage")

    assert host.state.index == 1
    assert engine.told[-1] == ("applied", 1)


def test_a_witness_answers_no_survey(host: Host) -> None:
    assert asyncio.run(host.survey.cut(Epoch(1))) is None


def test_the_log_is_compacted_to_a_state_that_reads_back(
    host: Host, engine: RecordingEngine
) -> None:
    assigned(host)
    for index in range(host.state.index + 1, COMPACT_EVERY + 1):
        host.on_committed(index, b"", b"")

    assert engine.told[-1] == ("compact", COMPACT_EVERY)
    assert decode_state(engine.compacted) == host.state


def test_a_change_of_members_makes_a_state_that_names_them_all(
    host: Host, engine: RecordingEngine
) -> None:
    """A joiner takes no other in the place of a log that is gone."""
    assigned(host)
    host.on_members()
    assert ("compact", host.state.index) not in engine.told

    host.on_snapshot(50, encode_state(replace(host.state, index=50)))
    host.on_committed(51, b"", b"")
    host.on_members()

    assert engine.told[-1] == ("compact", 51)


def test_a_snapshot_takes_the_place_of_the_state(
    host: Host, engine: RecordingEngine
) -> None:
    assigned(host)
    state = replace(host.state, index=50)

    host.on_snapshot(50, encode_state(state))

    assert host.state == state
    assert engine.told[-2:] == [("lease", 1), ("applied", 50)]


def test_what_a_snapshot_says_counts_as_seen_when_it_came(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the entries do that it stands for, when they are read again."""
    assigned(host)
    state = replace(host.state, index=50)
    monkeypatch.setattr("pgbastion.ha.host.boottime_ms", lambda: 70_000)
    fresh = Host(
        RecordingEngine(),
        node=NodeId("n1"),
        cutter=WitnessCutter(),
        on_change=lambda: None,
        cut_timeout_ms=100,
    )

    fresh.on_snapshot(50, encode_state(state))

    view = fresh.cluster_view(at="", lag_max_bytes=0, report_ms=0)
    assert (fresh.opened_ms, view.assigned_seen_ms) == (70_000, 70_000)


def test_a_snapshot_of_another_version_ends_the_node(host: Host) -> None:
    with pytest.raises(ConsensusError):
        host.on_snapshot(50, b'{"v": 99}')


def test_a_policy_counts_as_seen_only_after_the_engine_was_told_its_lease(
    host: Host, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assigned(host)
    now = [1_000]
    monkeypatch.setattr("pgbastion.ha.host.boottime_ms", lambda: now[0])
    tell = engine.lease

    def slowly(*leased: int) -> int:
        # The thread of the engine may answer with the longer lease all this time.
        now[0] += 60_000
        return tell(*leased)

    monkeypatch.setattr(engine, "lease", slowly)
    short = Policy(
        lease_ms=2_000,
        drift_ppm=1_000,
        margin_ms=200,
        revision=1,
        profile=Profile.FAST,
    )
    commit(host, SetPolicy(policy=short, at=""), AdoptPolicy(policy_revision=1))

    assert host._policy_seen[1] == now[0]


def test_a_log_that_is_read_again_at_the_start_is_told_in_one_line(
    host: Host, engine: RecordingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a thousand entries, and the daemon before told of each."""
    engine.last_index = 2
    members = [
        replace(N1, member_id=MemberId(n), name=NodeId(f"n{n}"), host=f"10.0.0.{n}")
        for n in (2, 3)
    ]

    with caplog.at_level("INFO"):
        commit(host, FOUND, *(Join(member=member) for member in members))

    assert [record.message for record in caplog.records] == ["log_read", "applied"]
