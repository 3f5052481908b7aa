"""Asks the cluster to explain itself; where nobody answers, looks at this machine."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pgbastion.cli.client import Client, Target
from pgbastion.cli.problems import CommandError, UnreachableError
from pgbastion.cli.replacing import find_daemon
from pgbastion.cli.target import target_of
from pgbastion.config.model import Config
from pgbastion.config.reading import understand

EXPLAIN: str = "/cluster/explain"


def ask_cluster(config: Path, url: str | None) -> Mapping[str, Any]:
    """Return the explanation of the Raft leader, else of whichever node answers.

    The leader alone knows what it waits for.

    Raises:
        UnreachableError: No node answers.
    """
    target = target_of(config, url, os.environ)
    explanation = _explain(Client(target))
    leader_url = explanation.get("leader_url")
    if not leader_url or explanation.get("leader") == explanation.get("node"):
        return explanation
    leader = Target(urls=(leader_url,), token=target.token, trust=target.trust)
    try:
        return _explain(Client(leader))
    except CommandError:
        # What the other one knows is better than nothing.
        return explanation


def _explain(client: Client) -> Mapping[str, Any]:
    explanation = client.get(EXPLAIN)
    if not isinstance(explanation, dict) or "lines" not in explanation:
        raise UnreachableError(f"{client.url} does not explain itself: another release")
    return explanation


def look_here(config: Path, url: str | None, trouble: str) -> tuple[str, ...]:
    """Return what can be said without any daemon, from this machine alone."""
    if url is not None:
        return (f"{trouble}. Next: start the daemon there, or ask another node.",)
    first = f"{trouble}. Next: start the daemon here: systemctl start pgbastion."
    found = understand(config)
    return (first, "on this machine:", *(f"  {line}" for line in _local(found)))


def _local(config: Config) -> Iterator[str]:
    pid = find_daemon(config.raft.data_dir)
    if pid is None:
        yield f"no daemon has {config.raft.data_dir} locked"
    else:
        yield f"a daemon runs as process {pid} and does not answer: look at its log"
    if config.postgresql is None:
        yield "this node is a witness: it has no PostgreSQL"
        return
    yield _postmaster(config.postgresql.data_dir)


def _postmaster(data_dir: Path) -> str:
    try:
        line = (data_dir / "postmaster.pid").read_text(encoding="utf-8").split("\n")[0]
        os.kill(int(line), 0)
    except FileNotFoundError:
        return f"no PostgreSQL runs on {data_dir}"
    except ProcessLookupError:
        return f"the PostgreSQL of {data_dir} has ended without an orderly stop"
    except PermissionError:
        return f"this user may not see whether a PostgreSQL runs on {data_dir}"
    except (OSError, ValueError) as exc:
        return f"whether a PostgreSQL runs on {data_dir} cannot be told: {exc}"
    return f"PostgreSQL runs on {data_dir} as process {line}; its guard minds the lease"
