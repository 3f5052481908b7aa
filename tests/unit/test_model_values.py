"""Values that every part speaks in: their encodings and small rules."""

import json
from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.model.cluster import SyncSet, join_host_port
from pgbastion.model.commands import (
    Join,
    Undecodable,
    decode_command,
    encode_command,
)
from pgbastion.model.ids import DataId, MemberId, NodeId, Timeline, standby_name
from pgbastion.model.report import (
    NodeReport,
    PostgresState,
    ReplicationRow,
    decode_report,
    encode_report,
)
from pgbastion.model.wal import Lsn, WalEnd, format_lsn, parse_lsn
from pgbastion.testing.views import (
    assignment,
    cluster_state,
    member,
    node_name,
    report,
)

LSNS = st.integers(0, (1 << 64) - 1).map(Lsn)


@given(LSNS)
def test_an_lsn_reads_back_as_it_was_written(lsn: Lsn) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


def test_an_lsn_is_written_as_postgres_writes_it() -> None:
    assert format_lsn(Lsn(0x16_B374_D848)) == "16/B374D848"


@pytest.mark.parametrize("text", ["", "1", "1/", "G/0", "1/2/3", "123456789/0", " 1/2"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        parse_lsn(text)


def test_an_end_of_wal_is_compared_by_timeline_first() -> None:
    early = WalEnd(timeline=Timeline(2), lsn=Lsn(900))
    late = WalEnd(timeline=Timeline(3), lsn=Lsn(1))
    assert early < late
    assert str(late) == "0/1 on timeline 3"


def test_ipv6_hosts_stand_in_brackets() -> None:
    assert join_host_port("::1", 80) == "[::1]:80"
    assert member(2).raft_address == "127.0.0.2:8300"
    assert member(2).api_url == "http://127.0.0.2:8080"


def test_a_standby_name_tells_copies_of_one_node_apart() -> None:
    first = standby_name(NodeId("n1"), DataId("0123456789"))
    assert first == "n1_01234567"
    assert first != standby_name(NodeId("n1"), DataId("1123456789"))


def test_names_meet_every_quorum_exactly_when_no_quorum_avoids_them() -> None:
    """The slow twin of R + W > N: every W of the N members is tried."""
    members = ("a", "b", "c", "d")
    for wanted, size in product(range(1, 5), range(5)):
        for names in combinations(members, size):
            avoided = any(
                not {*names} & {*quorum} for quorum in combinations(members, wanted)
            )
            sync = SyncSet(names=members, num_sync=wanted)
            assert sync.meets_every_quorum((*names, "stranger")) is not avoided

    assert not SyncSet().meets_every_quorum(members)


def test_servers_are_the_members_with_postgres() -> None:
    state = cluster_state(members=(member(1), member(2, witness=True)))
    assert state.servers == (member(1),)


def test_a_witness_is_a_named_member_and_no_server() -> None:
    state = cluster_state(members=(member(1), member(2, witness=True)))

    assert state.named(node_name(2)) == member(2, witness=True)
    assert state.server(node_name(2)) is None
    assert state.server(node_name(1)) == member(1)
    assert state.server(node_name(3)) is None


def test_a_state_without_epochs_is_in_epoch_nought() -> None:
    assert cluster_state(assignment=None).epoch == 0


def test_the_role_is_held_until_its_lease_cannot_be_renewed() -> None:
    held = assignment()
    others = MemberId(held.member_id + 1)

    assert cluster_state(assignment=held).is_held_by(held.member_id)
    assert not cluster_state(assignment=held).is_held_by(others)
    assert not cluster_state(assignment=None).is_held_by(held.member_id)
    for over in (replace(held, revoked=True), replace(held, released=True)):
        assert not cluster_state(assignment=over).is_held_by(held.member_id)


def test_a_field_of_a_newer_release_is_ignored() -> None:
    encoded = json.loads(encode_command(Join(member=member(2))))
    encoded["c"]["colour"] = "blue"
    assert decode_command(json.dumps(encoded).encode()) == Join(member=member(2))


def test_a_command_of_another_version_is_not_read() -> None:
    encoded = json.loads(encode_command(Join(member=member(2))))
    encoded["v"] = 2
    decoded = decode_command(json.dumps(encoded).encode())
    assert decoded == Undecodable(reason="version 2")


REPORTS = st.builds(
    NodeReport,
    node=st.text(max_size=4).map(NodeId),
    version=st.just("1"),
    state=st.sampled_from(PostgresState),
    reason=st.just(""),
    wal_end=st.none() | st.builds(WalEnd, timeline=st.integers(1, 9), lsn=LSNS),
    replay_lsn=st.none() | LSNS,
    history=st.lists(st.tuples(st.integers(1, 9), LSNS), max_size=2).map(tuple),
    replication=st.lists(
        st.builds(
            ReplicationRow,
            name=st.text(max_size=4),
            streaming=st.booleans(),
            flush_lsn=LSNS,
            sync_state=st.just("quorum"),
        ),
        max_size=2,
    ).map(tuple),
)


@given(REPORTS)
def test_a_report_reads_back_as_it_was_written(made: NodeReport) -> None:
    assert decode_report(encode_report(made)) == made


def test_what_is_no_report_of_this_version_is_dropped() -> None:
    other = json.loads(encode_report(report(2)))
    other["v"] = 2
    assert decode_report(json.dumps(other).encode()) is None
    assert decode_report(b"nonsense") is None
