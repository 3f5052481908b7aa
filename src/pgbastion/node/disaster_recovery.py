"""Lets a cluster begin again on one node, from its log, its data, or a backup of state.

All of it is done to a Raft directory whose daemon does not run.
"""

import hashlib
import json
import os
import secrets as random
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pgbastion.config.model import Config
from pgbastion.consensus.directory import (
    Beginning,
    RaftDirectory,
    read_directory,
    write_beginning,
)
from pgbastion.control.disaster_recovery import (
    begin_again,
    begin_from_data,
    fresh_id,
    replay,
)
from pgbastion.errors import ConfigError, ConsensusError
from pgbastion.model.cluster import (
    ClusterState,
    ReplicationMode,
    decode_state,
    encode_state,
)
from pgbastion.model.commands import Found
from pgbastion.model.ids import Epoch, MemberId, Timeline
from pgbastion.node.parts import own_member, policy_of
from pgbastion.postgres.mark import MARK_NAME, Mark, parse_mark

KEPT_PREFIX: Final = "before-recovery-"
CHANCE_BITS: Final = 16
BACKUP_FORMAT: Final = "pgbastion state 1"
BACKUP_BYTES_MAX: Final = 64 << 20

# What a person has to know before a cluster begins again.
_PUT_OUT: Final = (
    "Every other member ({others}) is put out of the cluster for ever, as it is. Its "
    "daemon and its PostgreSQL must be off, and stay off until its Raft directory was "
    "moved away: as long as they run beside this node, there are two clusters, and two "
    "primaries."
)
_FORGOTTEN: Final = (
    "What was decided and did not reach this node before the others were lost is "
    "forgotten: it knows of entry {index}."
)
_LAST_PRIMARY: Final = (
    "{node} was the last primary that this node knows of, in epoch {epoch}. Commits "
    "that only lost nodes have are lost."
)
_NOBODY_BY_ITSELF: Final = (
    "Nothing proves any more who has every commit, so nobody is promoted by itself: "
    "bring back whoever is left, look who is furthest (cluster_decision in GET "
    "/cluster/state), and choose: pgbastion failover --to NODE --force"
)
_ASYNC: Final = (
    "In async the furthest server that answers is promoted by itself, also while it is "
    "the only one."
)
_ONLY_DATA: Final = (
    "The replicated state is gone: only this node's data directory is left of the "
    "cluster. Its data becomes the cluster's, and commits that are not in it are lost. "
    "Be sure that no other node has a newer one."
)
_HISTORY_GONE: Final = (
    "History, orders and a pause are forgotten; mode and lease are those of the "
    "configuration."
)
_OLD_STATE: Final = (
    "What the cluster decided after {at} is forgotten; the backup has nothing of the "
    "databases themselves."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A new beginning that is ready to be carried out."""

    beginning: Beginning
    state: ClusterState
    former: ClusterState
    """The state that it begins with, membership included; empty: nothing was left."""
    warnings: tuple[str, ...]


def state_of(directory: RaftDirectory, *, up_to: int | None = None) -> ClusterState:
    """Return the replicated state that a directory's log gives.

    Args:
        directory: What was read.
        up_to: The last index that counts; None: every entry.

    Raises:
        ConsensusError: The state that the log starts from cannot be read.
    """
    base: ClusterState | None = ClusterState()
    if directory.base_data:
        base = decode_state(directory.base_data)
    if base is None:
        raise ConsensusError(
            f"the state at entry {directory.base_index} is none that this release reads"
        )
    entries = (e for e in directory.entries if up_to is None or e.index <= up_to)
    return replay(base, ((e.index, e.proposal_id, e.data) for e in entries))


# From one survivor


def plan_recovery(config: Config) -> Plan:
    """Return how this node begins its cluster again, alone.

    Raises:
        ConfigError: There is nothing to begin with.
        ConsensusError: The Raft directory is damaged.
    """
    directory = read_directory(config.raft.data_dir)
    if directory is None:
        return _plan_from_data(config)
    former = state_of(directory)
    if not former.cluster_id:
        raise ConfigError(
            f"{config.raft.data_dir} has no state yet: this node has only just joined. "
            "Recover on another node, or move the directory away and join again"
        )
    beginning, state = _begin(
        config, former, directory.known_ids, directory.cluster_id,
        term=directory.term + 1, index=directory.last_index + 1,
    )  # fmt: skip
    return Plan(
        beginning=beginning,
        state=state,
        former=former,
        warnings=_warnings(former, config.node.name),
    )


def _begin(
    config: Config,
    former: ClusterState,
    known_ids: tuple[int, ...],
    cluster_id: str,
    *,
    term: int,
    index: int,
) -> tuple[Beginning, ClusterState]:
    own = own_member(config)
    ids = {*known_ids, *(int(m.member_id) for m in former.members)}
    own = replace(own, member_id=_fresh_id(former, ids))
    state = begin_again(former, own, index=index, marked=_marked(config))
    beginning = Beginning(
        cluster_id=cluster_id,
        member_id=own.member_id,
        address=own.raft_address,
        index=index,
        term=term,
        removed=tuple(sorted(ids)),
        state=encode_state(state),
    )
    return beginning, state


def _warnings(former: ClusterState, own: str) -> tuple[str, ...]:
    others = ", ".join(m.name for m in former.members if m.name != own) or "nobody"
    warnings = [_PUT_OUT.format(others=others), _FORGOTTEN.format(index=former.index)]
    held = former.assignment
    if held is None:
        return tuple(warnings)
    warnings.append(_LAST_PRIMARY.format(node=held.node, epoch=held.epoch))
    is_async = former.mode is ReplicationMode.ASYNC
    return (*warnings, _ASYNC if is_async else _NOBODY_BY_ITSELF)


def _plan_from_data(config: Config) -> Plan:
    mark, timeline = _mark_of(config)
    own = own_member(config)
    own = replace(own, member_id=_fresh_id(ClusterState(), ()), joined=True)
    found = Found(
        cluster_name=config.cluster.name,
        cluster_id=mark.cluster_id,
        member=own,
        policy=policy_of(config.failover.profile),
        mode=config.replication.mode,
        sync_count=config.replication.sync_count,
        strict=config.replication.strict,
    )
    epoch = _newest_epoch(mark)
    state = begin_from_data(found, data_id=mark.data_id, epoch=epoch, timeline=timeline)
    beginning = Beginning(
        cluster_id=mark.cluster_id,
        member_id=own.member_id,
        address=own.raft_address,
        index=state.index,
        term=1,
        removed=(),
        state=encode_state(state),
    )
    return Plan(
        beginning=beginning,
        state=state,
        former=ClusterState(),
        warnings=(_ONLY_DATA, _PUT_OUT.format(others="all"), _HISTORY_GONE),
    )


def _mark_of(config: Config) -> tuple[Mark, Timeline]:
    section = config.postgresql
    nothing = (
        f"{config.raft.data_dir} is empty, and there is no data directory of a cluster "
        "to begin with: recover on a node that has one, or restore a backup of state"
    )
    if section is None:
        raise ConfigError(nothing)
    try:
        text = (section.data_dir / MARK_NAME).read_text()
    except FileNotFoundError as exc:
        raise ConfigError(nothing) from exc
    histories = (section.data_dir / "pg_wal").glob("*.history")
    newest = max((int(path.stem, 16) for path in histories), default=1)
    return parse_mark(text), Timeline(newest)


def _newest_epoch(mark: Mark) -> Epoch:
    return max(mark.epoch, mark.promoted_epoch, mark.cut_epoch)


def _marked(config: Config) -> Epoch:
    """Return the newest epoch that the data directory took part in; 0: none."""
    try:
        mark, _ = _mark_of(config)
    except ConfigError:
        return Epoch(0)
    return _newest_epoch(mark)


def _fresh_id(state: ClusterState, known_ids: Iterable[int]) -> MemberId:
    now_s = int(datetime.now(UTC).timestamp())
    chance = random.randbits(CHANCE_BITS)
    return fresh_id(state, known_ids, now_s=now_s, chance=chance)


def carry_out(config: Config, plan: Plan) -> Path | None:
    """Begin again; return where the former Raft directory's files are kept.

    Raises:
        ConsensusError: A daemon runs, or the directory cannot be written.
    """
    directory = config.raft.data_dir
    owner = next(p for p in (directory, *directory.parents) if p.exists()).stat()
    kept = _keep(directory)
    write_beginning(directory, plan.beginning)
    if os.geteuid() == 0 and owner.st_uid != 0:
        # The daemon has a user of its own, who has to write there.
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return kept


def _keep(directory: Path) -> Path | None:
    files = [path for path in directory.glob("*") if path.is_file()]
    files = [path for path in files if path.suffix == ".log" or path.name == "identity"]
    if not files:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    kept = directory / f"{KEPT_PREFIX}{stamp}-{random.token_hex(2)}"
    try:
        kept.mkdir(mode=0o700)
        for path in files:
            shutil.copy2(path, kept / path.name)
    except OSError as exc:
        raise ConsensusError(f"cannot keep the former files in {kept}") from exc
    return kept


# A backup of state


def make_backup(config: Config) -> bytes:
    """Return the replicated state of this node as a file for later.

    The daemon may run meanwhile.

    Raises:
        ConfigError: This node has no state.
        ConsensusError: The Raft directory is damaged.
    """
    directory = read_directory(config.raft.data_dir)
    state = None
    if directory is not None:
        state = state_of(directory, up_to=directory.committed)
    if directory is None or state is None or not state.cluster_id:
        raise ConfigError(f"{config.raft.data_dir} has no state of a cluster")
    content: dict[str, Any] = {
        "format": BACKUP_FORMAT,
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "node": config.node.name,
        "cluster_id": directory.cluster_id,
        "cluster_name": state.cluster_name,
        "term": directory.term,
        "known_ids": list(directory.known_ids),
        "state": json.loads(encode_state(state)),
    }
    content["sha256"] = _digest(content)
    return json.dumps(content, indent=1).encode() + b"\n"


def plan_restore(config: Config, backup: Path) -> Plan:
    """Return how this node begins its cluster again from a backup of state.

    Raises:
        ConfigError: The Raft directory is not empty, or the file is none.
    """
    if read_directory(config.raft.data_dir) is not None:
        raise ConfigError(
            f"{config.raft.data_dir} is not empty: a node that has its log needs no "
            "backup (pgbastion raft recover); else move the directory away"
        )
    content, former = _read_backup(backup)
    if former.cluster_name != config.cluster.name:
        raise ConfigError(
            f"cluster.name: {backup} is of the cluster {former.cluster_name}"
        )
    beginning, state = _begin(
        config, former, tuple(content["known_ids"]), content["cluster_id"],
        term=int(content["term"]) + 1, index=former.index + 1,
    )  # fmt: skip
    return Plan(
        beginning=beginning,
        state=state,
        former=former,
        warnings=(
            _OLD_STATE.format(at=content["taken_at"]),
            *_warnings(former, config.node.name),
        ),
    )


def _read_backup(path: Path) -> tuple[Mapping[str, Any], ClusterState]:
    try:
        with path.open("rb") as file:
            raw = file.read(BACKUP_BYTES_MAX)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    try:
        content = json.loads(raw)
        said = content.pop("sha256")
        state = decode_state(json.dumps(content["state"]).encode())
        whole = said == _digest(content) and content["format"] == BACKUP_FORMAT
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ConfigError(f"{path} is not a backup of state, or was cut short") from exc
    if not whole or state is None:
        raise ConfigError(f"{path} is damaged, or of a release that is not known")
    return content, state


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
