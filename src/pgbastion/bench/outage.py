"""Let a node miss a lot of WAL, and measure how fast it is back without a human.

Once it is a standby's node, once the primary's, and once the primary's that wrote alone
before it was lost: it has a tail of its own to give up.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.checker import describe
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.injections import cut_from_nodes, node_lost
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan
from pgbastion.clock import boottime_ns

MIB: Final = 1 << 20
BACK_S: Final = 600.0
_WRITTEN: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
_REPLAYED: Final = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint"
_WRITE: Final = "SELECT pg_logical_emit_message(true, 'lab', repeat('x', 1048576))"
# Its commits are flushed here and wait for nobody.
_ALONE: Final = "SET synchronous_commit = local"
_TAIL_MIB: Final = 8


class Victim(StrEnum):
    """Whose node is lost."""

    STANDBY = "standby"
    PRIMARY = "old primary"
    DIVERGED = "old primary with a tail of its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What came of one outage."""

    victim: Victim
    missed_mib: float
    streaming_s: float
    """From its start until it streamed."""
    caught_up_s: float
    """From its start until it had replayed what it had missed."""
    ways: tuple[str, ...]
    """The jobs that it needed before it could stream."""
    lost: str

    def __str__(self) -> str:
        """Return it in one line."""
        rate = self.missed_mib / max(self.caught_up_s, 0.001)
        return (
            f"{self.victim}: missed {self.missed_mib:.0f} MiB of WAL, streams after"
            f" {self.streaming_s:.1f} s ({', '.join(self.ways) or 'follow'}), has all"
            f" after {self.caught_up_s:.1f} s ({rate:.0f} MiB/s),"
            f" {self.lost or 'nothing lost'}"
        )


def _number(node: Node, query: str) -> int:
    rows = node.query(query)
    if not rows or rows[0][0] is None:
        raise LabError(f"{node.name} does not answer")
    return int(rows[0][0])


def _write(node: Node, mib: int) -> None:
    """Write so much WAL on a primary."""
    with node.connect() as session:
        for _ in range(mib):
            session.execute(_WRITE.encode())


def run_outage(lab: Lab, *, mib: int, of: Victim) -> Outage:
    """Take the power from a node while the others write, and wait for its return."""
    lab.wait_steady(BACK_S)
    primary = lab.primary()
    name = lab.streaming(primary)[0] if of is Victim.STANDBY else primary
    victim = lab.node(name)
    others = [node for node in lab.nodes.values() if node is not victim]
    with lab.writers([node.name for node in others]) as writers:
        writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        with _lost(lab, name, diverged=of is Victim.DIVERGED):
            writers.wait_for_write(
                boottime_ns(), waits.WRITES_AGAIN_S[lab.plan.profile]
            )
            serving = lab.node(_serving(lab, others, name))
            before = _number(serving, _WRITTEN)
            _write(serving, mib)
            target = _number(serving, _WRITTEN)
            said = victim.log.stat().st_size
        began_s = time.monotonic()
        lab.wait_standby(name, BACK_S)
        streaming_s = time.monotonic() - began_s
        waits.wait_for(
            f"{name} to have all", lambda: _number(victim, _REPLAYED) >= target, BACK_S
        )
        caught_up_s = time.monotonic() - began_s
    return Outage(
        victim=of,
        missed_mib=(target - before) / MIB,
        streaming_s=streaming_s,
        caught_up_s=caught_up_s,
        ways=_ways(victim, said),
        lost=describe(lab.check(writers)),
    )


@contextmanager
def _lost(lab: Lab, name: str, *, diverged: bool) -> Iterator[None]:
    """Take the power from a node, and give it a tail that nobody else has before."""
    if not diverged:
        with node_lost(lab, name):
            yield
        return
    # The cut heals when the node has been started again: nobody gets the tail.
    with cut_from_nodes(lab, name):
        with lab.node(name).connect() as session:
            session.execute(_ALONE.encode())
            for _ in range(_TAIL_MIB):
                session.execute(_WRITE.encode())
        with node_lost(lab, name):
            yield


def _serving(lab: Lab, others: Sequence[Node], lost: str) -> str:
    """Return the name of the primary, once it is not the one that was lost."""

    def other() -> str | None:
        name = lab.reported_primary(others)
        return name if name != lost else None

    return waits.wait_for("a primary", other, waits.WRITES_AGAIN_S[lab.plan.profile])


def _ways(node: Node, since: int) -> tuple[str, ...]:
    """Return which jobs a node's log names since this place in it."""
    with node.log.open("rb") as log:
        log.seek(since)
        lines = log.read().decode(errors="replace").splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    return tuple(line["job"] for line in said if line["event"] == "job_started")


def main(arguments: Sequence[str]) -> None:
    """Run the outages; exit code 1 if a row is missing."""
    parser = argparse.ArgumentParser(prog="bench outage", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="of WAL")
    parser.add_argument("--profile", default="normal")
    parser.add_argument("--version", default="newest", help="of PostgreSQL")
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/outage"))
    options = parser.parse_args(arguments)
    plan = Plan(profile=options.profile, version=options.version)
    lost = False
    try:
        with Lab(plan, keep_logs_in=options.keep_logs) as lab:
            lab.start()
            for of in Victim:
                outage = run_outage(lab, mib=options.mib, of=of)
                print(outage, flush=True)
                lost = lost or bool(outage.lost)
    except (CannotRun, LabError) as why:
        sys.exit(f"not run to its end: {why}")
    if lost:
        sys.exit(1)
