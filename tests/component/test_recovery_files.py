"""Raft directories that are read, kept, damaged and begun again; backups of state."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgbastion.cli import recovering
from pgbastion.cli.problems import CommandError
from pgbastion.config.model import Config
from pgbastion.consensus import _engine
from pgbastion.consensus.directory import (
    Beginning,
    read_directory,
    write_beginning,
)
from pgbastion.control.disaster_recovery import begin_again
from pgbastion.errors import ConfigError, ConsensusError
from pgbastion.model.cluster import ClusterState, encode_state
from pgbastion.model.ids import DataId, Epoch, MemberId, NodeId
from pgbastion.node.disaster_recovery import (
    carry_out,
    make_backup,
    plan_recovery,
    plan_restore,
    state_of,
)
from pgbastion.node.membership import refuse_copied_directory
from pgbastion.postgres.mark import MARK_NAME, Mark, render_mark
from pgbastion.testing.views import cluster_state, member
from support.configs import understood

OWN = member(2, member_id=MemberId(70))
DAEMON = 65_534
"""A user that is not this one."""


def began() -> ClusterState:
    return begin_again(cluster_state(next_member_id=MemberId(4)), OWN, index=90)


def beginning(**changes: Any) -> Beginning:
    made = Beginning(
        cluster_id="ab" * 16,
        member_id=70,
        address="127.0.0.2:8300",
        index=90,
        term=6,
        removed=(1, 2, 3),
        state=encode_state(began()),
    )
    return replace(made, **changes)


def test_a_new_beginning_is_read_back(tmp_path: Path) -> None:
    write_beginning(tmp_path, beginning())

    found = read_directory(tmp_path)

    assert found is not None
    assert (found.cluster_id, found.member_id) == ("ab" * 16, 70)
    assert (found.voters, found.learners) == ((70,), ())
    assert found.known_ids == (1, 2, 3, 70)
    assert (found.term, found.committed, found.base_index) == (6, 90, 90)
    assert found.base_data == encode_state(began())
    assert not found.entries
    assert found.torn is None


def test_a_new_beginning_takes_the_place_of_a_log(tmp_path: Path) -> None:
    """Also a second time: one that was interrupted is begun once more."""
    write_beginning(tmp_path, beginning())
    write_beginning(
        tmp_path, beginning(member_id=900, index=200, term=9, removed=(1, 2, 3, 70))
    )

    found = read_directory(tmp_path)

    assert found is not None
    assert (found.member_id, found.voters) == (900, (900,))
    assert (found.base_index, found.term) == (200, 9)


def test_an_empty_directory_has_nobody(tmp_path: Path) -> None:
    assert read_directory(tmp_path) is None
    assert read_directory(tmp_path / "absent") is None


@pytest.mark.parametrize("senseless", [{"member_id": 2}, {"index": 0}, {"term": 0}])
def test_a_senseless_beginning_is_refused(tmp_path: Path, senseless: Any) -> None:
    given = {**vars_of(beginning()), **senseless}
    with pytest.raises(_engine.EngineError):
        _engine.begin_cluster(str(tmp_path), **given)


def vars_of(made: Beginning) -> dict[str, Any]:
    return {
        "cluster_id": bytes.fromhex(made.cluster_id),
        "member_id": made.member_id,
        "address": made.address,
        "index": made.index,
        "term": made.term,
        "removed": list(made.removed),
        "data": made.state,
    }


# Plans


@pytest.fixture
def n2(tmp_path: Path) -> Config:
    """Give the configuration of n2, whose directories are empty."""
    made = understood(
        node={"name": "n2", "address": "127.0.0.2"},
        raft={"data_dir": str(tmp_path / "raft"), "tls_enabled": False},
        postgresql={"data_dir": str(tmp_path / "pg")},
    )
    (tmp_path / "raft").mkdir()
    return made


def lived(n2: Config) -> None:
    """Give n2 the log of a cluster of three."""
    state = cluster_state(next_member_id=MemberId(4), index=90)
    content = beginning(member_id=2, removed=(), state=encode_state(state))
    write_beginning(n2.raft.data_dir, content)


def test_a_survivor_begins_again_under_an_id_of_its_own(n2: Config) -> None:
    lived(n2)
    plan = plan_recovery(n2)

    kept = carry_out(n2, plan)

    found = read_directory(n2.raft.data_dir)
    assert found is not None
    assert found.cluster_id == "ab" * 16
    assert found.voters == (plan.beginning.member_id,)
    assert {1, 2, 3} < set(found.known_ids)
    assert state_of(found) == plan.state
    assert kept is not None
    former = read_directory(kept)
    assert former is not None
    assert former.member_id == 2


def test_what_may_be_lost_is_said_before(n2: Config) -> None:
    lived(n2)
    told = " ".join(plan_recovery(n2).warnings)

    assert "(n1, n3) is put out of the cluster for ever" in told
    assert "n1 was the last primary that this node knows of, in epoch 3" in told
    assert "nobody is promoted by itself" in told


def test_two_new_beginnings_have_two_ids(n2: Config) -> None:
    lived(n2)

    ids = {plan_recovery(n2).beginning.member_id for _ in range(5)}

    assert len(ids) == 5


def test_a_node_that_has_only_just_joined_recovers_nothing(n2: Config) -> None:
    write_beginning(n2.raft.data_dir, beginning(state=encode_state(ClusterState())))

    with pytest.raises(ConfigError, match="only just joined"):
        plan_recovery(n2)


def test_with_nothing_but_data_the_data_counts(n2: Config, tmp_path: Path) -> None:
    mark = Mark(
        cluster_id="cd" * 16,
        data_id=DataId("d2"),
        node=NodeId("n2"),
        epoch=Epoch(9),
        promoted_epoch=Epoch(4),
    )
    (tmp_path / "pg" / "pg_wal").mkdir(parents=True)
    (tmp_path / "pg" / MARK_NAME).write_text(render_mark(mark))
    (tmp_path / "pg" / "pg_wal" / "0000000C.history").touch()

    plan = plan_recovery(n2)
    carry_out(n2, plan)

    assert plan.state.cluster_id == "cd" * 16
    assert plan.state.epoch > 9
    assert plan.state.highest_timeline > 12
    assert plan.state.opened is not None
    assert (plan.state.opened.node, plan.state.opened.data_id) == ("n2", "d2")
    assert "only this node's data directory is left" in plan.warnings[0]
    found = read_directory(n2.raft.data_dir)
    assert found is not None
    assert state_of(found) == plan.state


def test_with_nothing_at_all_nothing_is_recovered(n2: Config) -> None:
    with pytest.raises(ConfigError, match="no data directory of a cluster"):
        plan_recovery(n2)


def test_a_backup_is_restored_into_an_empty_directory(
    n2: Config, tmp_path: Path
) -> None:
    lived(n2)
    backup = tmp_path / "state.json"
    recovering.save(n2, backup)
    assert backup.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="is not empty"):
        plan_restore(n2, backup)
    n2.raft.data_dir.rename(tmp_path / "lost")

    plan = plan_restore(n2, backup)
    assert carry_out(n2, plan) is None

    found = read_directory(n2.raft.data_dir)
    assert found is not None
    assert found.cluster_id == "ab" * 16
    assert state_of(found) == plan.state
    assert [m.name for m in plan.state.members] == ["n2"]
    assert "is forgotten" in plan.warnings[0]


def test_there_is_no_backup_of_nothing(n2: Config) -> None:
    with pytest.raises(ConfigError, match="has no state"):
        make_backup(n2)


def changed(key: str, value: object) -> Callable[[bytes], bytes]:
    return lambda raw: json.dumps({**json.loads(raw), key: value}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-40],
        lambda raw: raw.replace(b'"epoch": 3', b'"epoch": 4'),
        lambda _: b"",
        lambda _: b"[]",
        lambda _: b"{}",
        lambda _: b"null",
        changed("format", "another"),
        changed("sha256", 5),
        changed("state", None),
        changed("term", 99),
    ],
)
def test_a_backup_that_is_not_whole_is_refused(
    n2: Config, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    lived(n2)
    backup = tmp_path / "state.json"
    backup.write_bytes(damage(make_backup(n2)))
    n2.raft.data_dir.rename(tmp_path / "lost")

    with pytest.raises(ConfigError, match=r"state\.json"):
        plan_restore(n2, backup)


def test_a_backup_of_another_cluster_is_refused(n2: Config, tmp_path: Path) -> None:
    lived(n2)
    backup = tmp_path / "state.json"
    backup.write_bytes(make_backup(n2))
    n2.raft.data_dir.rename(tmp_path / "lost")
    other = understood(
        cluster={"name": "other"},
        raft={"data_dir": str(tmp_path / "raft"), "tls_enabled": False},
    )

    with pytest.raises(ConfigError, match="is of the cluster main"):
        plan_restore(other, backup)


@pytest.mark.root
@pytest.mark.parametrize("there", [True, False])
def test_what_root_begins_is_its_daemon_s_user_s(
    n2: Config, tmp_path: Path, *, there: bool
) -> None:
    """The daemon may have a user of its own, and has to write there."""
    lived(n2)
    plan = plan_recovery(n2)
    if not there:
        n2.raft.data_dir.rename(tmp_path / "lost")
    os.chown(n2.raft.data_dir if there else tmp_path, DAEMON, DAEMON)

    carry_out(n2, plan)

    made = [n2.raft.data_dir, *n2.raft.data_dir.rglob("*")]
    assert len(made) > 3
    assert {path.name for path in made if path.stat().st_uid != DAEMON} == set()


# Another node's


def test_a_machine_that_was_copied_from_a_member_is_refused(n2: Config) -> None:
    """It would vote under that member's id."""
    lived(n2)
    known = "127.0.0.2:8300"
    clone = member(4, member_id=MemberId(0))

    with pytest.raises(ConfigError, match=r"is of the node n2 at .* and this is n4"):
        refuse_copied_directory(n2.raft.data_dir, clone, known_address=known)


@pytest.mark.parametrize(
    "changed", [{}, {"name": NodeId("other")}, {"host": "127.0.0.77"}]
)
def test_a_name_or_an_address_alone_may_be_changed(n2: Config, changed: Any) -> None:
    lived(n2)
    own = replace(member(2), **changed)

    refuse_copied_directory(n2.raft.data_dir, own, known_address="127.0.0.2:8300")


# Looking


def test_a_whole_directory_is_described(n2: Config) -> None:
    lived(n2)

    found = recovering.verify(n2)

    assert found["member_id"] == 2
    assert found["members"] == ["n1", "n2", "n3"]
    assert found["snapshot_index"] == found["last_index"] == 90
    assert found["torn_write"] is None


def test_a_flipped_bit_is_found_and_its_place_named(n2: Config) -> None:
    lived(n2)
    [segment] = n2.raft.data_dir.glob("*.log")
    raw = bytearray(segment.read_bytes())
    raw[200] ^= 1
    segment.write_bytes(raw)

    with pytest.raises(ConsensusError, match=segment.name):
        recovering.verify(n2)
    assert segment.read_bytes() == raw


def test_an_empty_directory_is_no_whole_one(n2: Config) -> None:
    with pytest.raises(CommandError, match="no member"):
        recovering.verify(n2)
