"""The answers of the read endpoints: shapes, and Patroni's words where tools read."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pgbastion.api import answers, patroni
from pgbastion.api.endpoints import READS
from pgbastion.model.claims import Claim, ClaimKind
from pgbastion.model.cluster import ClusterState, Policy, ReplicationMode
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.report import PostgresState, SlotRow, Vitals
from pgbastion.model.snapshot import NodeSnapshot, RouteSnapshot
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    NOW_MS,
    assignment,
    cluster_state,
    end,
    member,
    primary_report,
    received,
    report,
    row,
)
from support.snapshots import change, primary_snapshot, standby_snapshot

SLOT = SlotRow(
    name="pgbastion_n2",
    kind="physical",
    active=True,
    restart_lsn=Lsn(800),
    wal_status="reserved",
    retained_bytes=200,
    node=NodeId("n2"),
)
HEALTH = [
    "node",
    "role",
    "state",
    "vip",
    "leader",
    "term",
    "epoch",
    "timeline",
    "lease_left_ms",
    "paused",
    "version",
    "warnings",
]


def members(snapshot: NodeSnapshot) -> dict[str, dict[str, Any]]:
    """Return the members that ``GET /cluster`` lists, by name."""
    return {m["name"]: {**m} for m in answers.cluster(snapshot)["members"]}


def test_a_node_in_no_cluster_yet_tells_which_one_it_is_meant_for() -> None:
    alone = replace(primary_snapshot(), state=ClusterState(), cluster_name="main")

    assert answers.cluster(alone)["scope"] == "main"
    assert patroni.patroni(alone)["patroni"]["scope"] == "main"


def test_health_has_the_fields_of_the_contract() -> None:
    health = answers.health(primary_snapshot())

    assert list(health) == HEALTH
    assert health["role"] == "primary"
    assert health["state"] == "running"
    assert (health["leader"], health["term"]) == ("n1", 5)
    assert (health["epoch"], health["timeline"]) == (3, 4)
    assert health["lease_left_ms"] == 4_200
    assert health["vip"] is False


def test_health_of_a_node_that_is_no_member_yet_is_complete() -> None:
    snapshot = primary_snapshot(reports={}, member_id=MemberId(0))

    health = answers.health(snapshot)

    assert list(health) == HEALTH
    assert (health["role"], health["state"]) == ("starting", "starting")
    assert health["timeline"] is None


def test_the_cluster_has_the_fields_of_the_contract() -> None:
    cluster = answers.cluster(primary_snapshot())

    contract = ["scope", "members", "primary", "epoch", "backends"]
    assert list(cluster) == [*contract, "voting"]
    assert (cluster["scope"], cluster["primary"], cluster["epoch"]) == ("main", "n1", 3)
    assert cluster["backends"] == {
        "primary": [{"node": "n1", "host": "127.0.0.1", "port": 5442}],
        "replica": [
            {"node": "n2", "host": "127.0.0.2", "port": 5442},
            {"node": "n3", "host": "127.0.0.3", "port": 5442},
        ],
    }
    assert members(primary_snapshot())["n2"] == {
        "name": "n2",
        "role": "quorum_standby",
        "state": "streaming",
        "host": "127.0.0.2",
        "port": 5442,
        "api_url": "http://127.0.0.2:8080",
        "timeline": 4,
        "lag": 100,
    }


def test_an_expired_view_names_no_primary_and_says_why() -> None:
    snapshot = primary_snapshot(view_left_ms=0)

    cluster, state = answers.cluster(snapshot), answers.cluster_state(snapshot)

    assert cluster["primary"] is None
    assert cluster["backends"]["primary"] == []
    assert "a whole lease" in state["routes"]["primary_reason"]


def test_a_silent_member_is_unknown_and_its_lag_is_told_as_far_as_it_is_known() -> None:
    old = received(report(3, replay_lsn=Lsn(900)), at_ms=NOW_MS - 60_000)
    now = received(primary_report(wal_end=end(1_000)))

    found = members(primary_snapshot(reports={**now, **old}))

    assert (found["n2"]["state"], found["n2"]["lag"]) == ("unknown", "unknown")
    assert (found["n3"]["state"], found["n3"]["lag"]) == ("unknown", 100)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (PostgresState.EMPTY, "stopped"),
        (PostgresState.STOPPED, "stopped"),
        (PostgresState.STARTING, "starting"),
        (PostgresState.STANDBY, "running"),
        (PostgresState.COPYING, "creating replica"),
        (PostgresState.FAILED, "start failed"),
    ],
)
def test_a_member_that_does_not_stream_says_what_it_does(
    state: PostgresState, word: str
) -> None:
    reports = received(primary_report(), report(2, state=state, streaming=False))

    assert members(primary_snapshot(reports=reports))["n2"]["state"] == word


def test_a_primary_that_is_not_the_holder_any_more_is_stopping() -> None:
    snapshot = primary_snapshot(
        state=cluster_state(assignment=assignment(2)),
        reports=received(primary_report(), report(2)),
    )

    found = members(snapshot)

    assert (found["n1"]["role"], found["n1"]["state"]) == ("replica", "stopping")
    assert found["n2"]["role"] == "leader"


def test_tags_that_are_not_as_by_default_are_told_in_patronis_words() -> None:
    tagged = member(2, nosync=True, nofailover=True, noloadbalance=True)
    weighted = member(3, failover_priority=5, replica_weight=2)
    state = cluster_state(members=(member(1), tagged, weighted))

    told = answers.cluster(primary_snapshot(state=state))["members"]

    assert [m.get("tags") for m in told] == [
        None,
        {"nofailover": True, "nosync": True, "noloadbalance": True},
        {"failover_priority": 5, "replica_weight": 2},
    ]


def test_a_witness_is_a_member_without_a_port() -> None:
    third = member(3, witness=True, joined=True)
    state = cluster_state(members=(member(1), member(2), third))
    reports = received(primary_report(), report(3, state=PostgresState.NONE))

    witness = members(primary_snapshot(state=state, reports=reports))["n3"]

    assert (witness["role"], witness["state"]) == ("witness", "running")
    assert witness["port"] is None


def test_a_member_that_has_not_come_yet_is_announced() -> None:
    third = member(3, witness=True, joined=False)
    snapshot = primary_snapshot(state=cluster_state(members=(member(1), third)))

    found = members(snapshot)["n3"]

    assert found["role"] == "announced"
    assert answers.raft_peers(snapshot)["peers"][1]["joined"] is False


def test_the_state_machine_is_told_with_its_reasons() -> None:
    state = answers.cluster_state(standby_snapshot())

    assert state["decision"]["reason"] == "following"
    assert state["decision"]["sentence"] == "the standby follows the primary"
    assert state["assignment"] is not None
    assert state["assignment"]["node"] == "n1"
    assert state["synchronous"]["names"] == ["n2_a2", "n3_a3"]
    assert state["synchronous"]["num_sync"] == 1


def test_the_state_machine_before_the_first_assignment_is_complete() -> None:
    snapshot = primary_snapshot(
        state=cluster_state(assignment=None, opened=None),
        routes=RouteSnapshot(primary_reason="the cluster has no primary yet"),
    )

    state = answers.cluster_state(snapshot)

    assert state["assignment"] is None
    assert state["synchronous"]["names"] == []
    assert state["routes"]["primary_reason"] == "the cluster has no primary yet"


def test_raft_peers_are_all_members_with_their_suffrage() -> None:
    snapshot = primary_snapshot()
    learning = primary_snapshot(
        raft=snapshot.raft.__class__(
            role="leader",
            term=5,
            leader=MemberId(1),
            voters=(MemberId(1),),
            learners=(MemberId(2),),
            committed=1,
            applied=1,
            last_index=1,
        )
    )

    peers = answers.raft_peers(snapshot)["peers"]

    assert [p["id"] for p in peers] == ["n1", "n2", "n3"]
    assert [p["leader"] for p in peers] == [True, False, False]
    assert [p["matched_index"] for p in peers] == [None, 42, 40]
    assert peers[1]["address"] == "127.0.0.2:8300"
    assert [p["suffrage"] for p in answers.raft_peers(learning)["peers"]] == [
        "voter",
        "learner",
        "none",
    ]


def test_raft_state_tells_how_many_have_to_agree() -> None:
    state = answers.raft_state(primary_snapshot())

    assert (state["leader"], state["leader_id"], state["quorum"]) == ("n1", 1, 2)
    assert (state["committed_index"], state["applied_index"]) == (42, 41)


def test_an_unknown_leader_is_null() -> None:
    snapshot = primary_snapshot(
        state=cluster_state(members=(member(2), member(3))),
    )

    assert answers.raft_state(snapshot)["leader"] is None


def test_replication_compares_each_standby_with_the_primary() -> None:
    snapshot = primary_snapshot(
        reports=received(
            primary_report(
                wal_end=end(1_000),
                replication=(
                    replace(row(2, 960), write_lsn=Lsn(968), replay_lag_ms=250),
                ),
                vitals=Vitals(probe_ms=2, slots=(SLOT,)),
            ),
            report(2, replay_lsn=Lsn(900), wal_end=end(950), following=NodeId("n1")),
        )
    )

    answer = answers.replication(snapshot)

    assert (answer["primary"], answer["wal_end"]) == ("n1", "0/3E8")
    assert [s["node"] for s in answer["standbys"]] == ["n2", "n3"]
    assert answer["standbys"][0] == {
        "node": "n2",
        "state": "streaming",
        "sync_role": "quorum_standby",
        "following": "n1",
        "wal_end": "0/3B6",
        "write_lsn": "0/3C8",
        "flush_lsn": "0/3C0",
        "replay_lsn": "0/384",
        "lag_bytes": 100,
        "lag_seconds": 0.25,
        "slot": "pgbastion_n2",
        "progress": None,
    }
    assert answer["standbys"][1]["state"] == "unknown"
    assert answer["standbys"][1]["lag_seconds"] is None
    assert answer["slots"] == [
        {
            "name": "pgbastion_n2",
            "kind": "physical",
            "active": True,
            "restart_lsn": "0/320",
            "wal_status": "reserved",
            "retained_bytes": 200,
        }
    ]


@pytest.mark.parametrize(
    ("lag_ms", "replayed", "wanted"),
    [(40, 900, 0.04), (None, 1_000, 0.0), (None, 900, None)],
    ids=["while it writes", "idle and equal", "idle and behind"],
)
def test_a_lag_in_seconds_is_told_where_it_can_be(
    lag_ms: int | None, replayed: int, wanted: float | None
) -> None:
    rows = (replace(row(2), replay_lag_ms=lag_ms),)
    reports = received(
        primary_report(wal_end=end(1_000), replication=rows),
        report(2, replay_lsn=Lsn(replayed)),
    )

    answer = answers.replication(primary_snapshot(reports=reports))

    assert answer["standbys"][0]["lag_seconds"] == wanted


def test_the_state_tells_when_operators_changed_what() -> None:
    never = answers.cluster_state(primary_snapshot())
    policy = Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500)
    state = cluster_state(
        policy=policy,
        policy_at="2026-01-01T00:00:00Z",
        replication_at="2026-01-02T00:00:00Z",
        paused_at="2026-01-03T00:00:00Z",
    )
    told = answers.cluster_state(primary_snapshot(state=state))

    assert (never["synchronous"]["changed_at"], never["paused_at"]) == (None, None)
    assert told["policy"] is not None
    assert told["policy"]["changed_at"] == "2026-01-01T00:00:00Z"
    assert told["synchronous"]["changed_at"] == "2026-01-02T00:00:00Z"
    assert told["paused_at"] == "2026-01-03T00:00:00Z"


def test_history_has_one_line_for_each_timeline_that_was_left() -> None:
    lines = patroni.history(primary_snapshot())

    assert lines == [
        [2, None, "lease_ran_out", change(2, "n2").at, "n2"],
        [3, 90, "lease_ran_out", change(3, "n1").at, "n1"],
    ]


def test_patroni_tells_the_positions_of_a_standby() -> None:
    answer = patroni.patroni(standby_snapshot())

    assert answer["role"] == "replica"
    assert answer["xlog"] == {
        "received_location": 950,
        "replayed_location": 900,
        "paused": False,
    }
    assert (answer["state"], answer["replication_state"]) == ("running", "streaming")
    assert (answer["patroni"]["scope"], answer["patroni"]["name"]) == ("main", "n2")


def test_patroni_tells_that_a_restart_is_due() -> None:
    due = received(primary_report(pending_restart=("shared_buffers",)))

    assert patroni.patroni(primary_snapshot(reports=due))["pending_restart"] is True
    assert "pending_restart" not in patroni.patroni(primary_snapshot())


@pytest.mark.parametrize(
    ("mode", "word"),
    [
        (ReplicationMode.QUORUM, "quorum_standby"),
        (ReplicationMode.SYNC, "sync_standby"),
    ],
)
def test_a_standby_that_commits_wait_for_says_so_in_patronis_word(
    mode: ReplicationMode, word: str
) -> None:
    there = standby_snapshot()
    snapshot = replace(there, state=replace(there.state, mode=mode))

    words = {"sync_standby", "quorum_standby"}
    for answer in (answers.health(snapshot), patroni.patroni(snapshot)):
        assert {key: answer.get(key) for key in words & set(answer)} == {word: True}
    assert not words & set(answers.health(primary_snapshot()))


def test_the_cluster_tells_of_a_pause_while_there_is_one() -> None:
    paused = primary_snapshot(state=cluster_state(paused=True))

    assert answers.cluster(paused)["pause"] is True
    assert "pause" not in answers.cluster(primary_snapshot())


@pytest.mark.parametrize("answer", READS.values(), ids=READS)
@pytest.mark.parametrize(
    "snapshot",
    [
        primary_snapshot(),
        standby_snapshot(),
        primary_snapshot(
            reports={}, state=cluster_state(assignment=None, opened=None, members=())
        ),
        primary_snapshot(
            reports=received(report(1, wal_end=None, postgres_version=160_003))
        ),
    ],
    ids=["primary", "standby", "before the first command", "without WAL"],
)
def test_every_answer_can_be_rendered_in_every_state(
    answer: Callable[[NodeSnapshot], Any], snapshot: NodeSnapshot
) -> None:
    found = answer(snapshot)
    plain = list(found) if isinstance(found, Iterator) else found

    assert json.loads(json.dumps(plain)) is not None


def test_a_split_brain_shows_in_health_and_cluster() -> None:
    claim = Claim(node=NodeId("n2"), kind=ClaimKind.NEVER_ASSIGNED)
    snapshot = primary_snapshot(claims=(claim,))

    for answer in (answers.health(snapshot), answers.cluster(snapshot)):
        assert answer["split_brain"] == [
            {
                "node": "n2",
                "claim": "never_assigned",
                "epoch": 0,
                "text": "n2 runs as a primary that nobody assigned",
            }
        ]
