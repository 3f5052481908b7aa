"""What can be done with the Raft directory of this node: look, keep, begin again."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pgbastion.cli.confirming import confirm
from pgbastion.cli.problems import CommandError
from pgbastion.config.load import examine
from pgbastion.config.model import Config
from pgbastion.config.secrets import load_secrets
from pgbastion.consensus.directory import RaftDirectory, read_directory
from pgbastion.consensus.engine import ask_as_guest
from pgbastion.errors import ConfigError, ConsensusError
from pgbastion.ha.messages import Guest, Kind, decode_welcome, encode_guest
from pgbastion.model.cluster import ClusterState, join_host_port
from pgbastion.node.certificates import Certificates
from pgbastion.node.disaster_recovery import (
    Plan,
    carry_out,
    make_backup,
    plan_recovery,
    plan_restore,
    state_of,
)
from pgbastion.node.parts import own_member

ASK_S: Final = 1.0


def load(config: Path) -> Config:
    """Return the configuration; this machine need not be ready for a start.

    Raises:
        ConfigError: It is not understood.
    """
    report = examine(config, os.environ, machine=False)
    if report.config is None:
        raise ConfigError(report.render(report.errors))
    return report.config


# Looking


def verify(config: Config) -> Mapping[str, Any]:
    """Return what is in the Raft directory, after every check of it.

    Raises:
        ConsensusError: It is damaged; the message says where.
        CommandError: Nobody has been there.
    """
    directory = read_directory(config.raft.data_dir)
    if directory is None:
        raise CommandError(f"{config.raft.data_dir} has no member's identity")
    state = state_of(directory)
    return {
        "directory": str(config.raft.data_dir),
        "cluster_id": directory.cluster_id,
        "member_id": directory.member_id,
        "term": directory.term,
        "committed_index": directory.committed,
        "snapshot_index": directory.base_index,
        "entries": len(directory.entries),
        "last_index": directory.last_index,
        "segments": directory.segments,
        "voters": list(directory.voters),
        "learners": list(directory.learners),
        "members": [m.name for m in state.members],
        "epoch": state.epoch,
        "torn_write": _torn(directory),
    }


def _torn(directory: RaftDirectory) -> str | None:
    if directory.torn is None:
        return None
    file, offset = directory.torn
    return f"{file} at offset {offset}: never counted, cut at the next start"


# Beginning again


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Whether to ask before it is done, or to stop there."""

    yes: bool
    dry_run: bool


def recover(config: Config, asking: Asking) -> str:
    """Begin this node's cluster again, alone; return what was done."""
    plan = plan_recovery(config)
    answering = _who_answers(config, plan.former)
    others = [m.name for m in plan.former.members if m.name != config.node.name]
    if answering and 2 * (len(answering) + 1) > len(others) + 1:
        raise CommandError(
            f"{', '.join(answering)} answer, and with this node they are a majority: "
            "nothing has to be recovered. Start this node's daemon"
        )
    more = [f"{name} answers: stop its daemon first." for name in answering]
    return _begin(config, plan, asking, more=more)


def restore(config: Config, backup: Path, asking: Asking) -> str:
    """Begin this node's cluster again from a backup of state; return what was done."""
    plan = plan_restore(config, backup)
    answering = _who_answers(config, plan.former)
    if answering:
        raise CommandError(
            f"{', '.join(answering)} answer: the cluster lives. A node joins it with "
            "an empty Raft directory, without any backup"
        )
    return _begin(config, plan, asking, more=[])


def _begin(config: Config, plan: Plan, asking: Asking, *, more: list[str]) -> str:
    print("\n".join(f"- {line}" for line in (*more, *plan.warnings)))
    if asking.dry_run:
        return f"{config.node.name} would be the only member; nothing was changed"
    confirm("Begin the cluster again on this node alone?", yes=asking.yes)
    kept = carry_out(config, plan)
    where = f"; its former files are in {kept}" if kept else ""
    return (
        f"{config.node.name} is member {plan.beginning.member_id}, the only one of "
        f"cluster {plan.state.cluster_name}{where}. Start its daemon, then move the "
        "Raft directory of each other node away and start that, one by one"
    )


def save(config: Config, path: Path) -> str:
    """Write a backup of the replicated state; return what was done."""
    content = make_backup(config)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        draft.touch(mode=0o600)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc
    return f"{path}: the replicated state, {len(content)} bytes; no data of PostgreSQL"


def _who_answers(config: Config, former: ClusterState) -> list[str]:
    """Return the other members of the cluster whose daemons answer."""
    own = own_member(config)
    addresses = {join_host_port(peer.host, peer.port) for peer in config.peers}
    addresses.update(m.raft_address for m in former.members)
    addresses.discard(own.raft_address)
    guest = Guest(
        member=own, cluster_name=config.cluster.name, founding=False, auto_join=False
    )
    secret = load_secrets(config, os.environ).cluster
    credentials = Certificates(config, secret).credentials

    async def ask(address: str) -> str | None:
        try:
            answer = await ask_as_guest(
                address,
                secret,
                Kind.WHO,
                encode_guest(guest),
                timeout_s=ASK_S,
                credentials=credentials,
            )
        except ConsensusError:
            return None
        welcome = decode_welcome(answer)
        return None if welcome is None or welcome.state != "member" else welcome.node

    async def ask_all() -> list[str | None]:
        return list(await asyncio.gather(*(ask(a) for a in sorted(addresses))))

    return sorted({name for name in asyncio.run(ask_all()) if name is not None})
