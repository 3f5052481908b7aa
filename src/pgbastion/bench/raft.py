"""Measure the consensus engine alone against its goals, and print a table.

Three engines run in processes of their own on the loopback, with the timing of the
profile ``fast``. Nothing of PostgreSQL takes part: what a fault costs a cluster is
measured by the bench of failovers.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from pgbastion.bench._engine_lab import Lab, lab, until
from pgbastion.bench._raft_chaos import WRITES_A_S, Chaos
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.network import Namespaces
from pgbastion.config.timings import PROFILES
from pgbastion.model.profile import Profile

_SUBNET: Final = "127.48.7"
_WIDTH: Final = 120
_TICK_MS: Final = 20
_TIMINGS: Final = PROFILES[Profile.FAST]
_LEADER_S: Final = 10.0
_CUT_S: Final = 12.0
_LOOK_EVERY_S: Final = 0.002
# About the size of a command of the log with its header.
_RECORD: Final = b"x" * 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: milliseconds measured, and the goal in words with its verdict."""

    what: str
    measured: str
    goal: str
    met: bool


def main(arguments: Sequence[str]) -> None:
    """Measure and print; exit code 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="bench raft", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--proposals", type=int, default=200)
    parser.add_argument("--chaos", type=float, default=45.0, help="seconds of it")
    parser.add_argument(
        "--directory", type=Path, help="where the logs lie; its disk is measured"
    )
    parser.add_argument(
        "--plain", action="store_true", help="without TLS between the engines"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.directory) as made:
        rows = _measure(
            Path(made),
            options.kills,
            options.proposals,
            seconds=options.chaos,
            plain=options.plain,
        )
    transport = "plain transport" if options.plain else "TLS"
    table = Table(title=f"Three engines, {transport}, timing of the profile fast")
    for heading in ("figure", "min / median / max", "goal", "met"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row.what, row.measured, row.goal, "yes" if row.met else "NO")
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
    if not all(row.met for row in rows):
        sys.exit("a goal was missed: see the table")


def _measure(
    folder: Path, kills: int, proposals: int, *, seconds: float, plain: bool
) -> list[Row]:
    sync_ms = median(_sync_ms(folder, proposals))
    timing: dict[str, object] = {
        "tick_ms": _TICK_MS,
        "heartbeat_ticks": max(_TIMINGS.heartbeat_ms // _TICK_MS, 1),
        "election_ticks": _TIMINGS.election_ms // _TICK_MS,
        "plain": plain,
    }
    with lab(folder, _SUBNET) as cluster:
        cluster.form(3, **timing)
        return [
            _proposals(cluster, proposals, sync_ms),
            _read_indexes(cluster, proposals),
            _transfers(cluster, kills),
            _interpreter_blocked(cluster),
            _follower_paused(cluster),
            _leaders_killed(cluster, kills),
            _chaos(cluster, seconds),
            *_partitions(folder / "cut", timing),
        ]


def _sync_ms(folder: Path, count: int) -> list[float]:
    """Return what one fdatasync of a small append to a file in ``folder`` takes."""
    path = folder / "probe"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        # As the log does: room is reserved, so that no size changes.
        os.posix_fallocate(descriptor, 0, count * len(_RECORD))

        def append() -> None:
            os.write(descriptor, _RECORD)
            os.fdatasync(descriptor)

        return [_timed_ms(append) for _ in range(count)]
    finally:
        os.close(descriptor)
        path.unlink()


def _proposals(cluster: Lab, count: int, sync_ms: float) -> Row:
    leader = cluster.engines[cluster.leader()]
    data = _RECORD.decode()
    taken = [
        _timed_ms(lambda: _ok(leader.ask("propose", data=data))) for _ in range(count)
    ]
    most_ms = 1.5 * sync_ms + 1.0
    return Row(
        what=f"proposal committed, {count} times",
        measured=_spread(taken),
        goal=f"median {most_ms:.2f} ms: 1.5 x fdatasync ({sync_ms:.2f} ms) + 1 ms",
        met=median(taken) <= most_ms,
    )


def _read_indexes(cluster: Lab, count: int) -> Row:
    leader = cluster.engines[cluster.leader()]
    taken = [_timed_ms(lambda: _ok(leader.ask("read_index"))) for _ in range(count)]
    return _median_row(f"ReadIndex, {count} times", taken, 2.0)


def _transfers(cluster: Lab, count: int) -> Row:
    taken = []
    for _ in range(count):
        old = cluster.leader()
        to = next(m for m in cluster.engines if m != old)
        ask = cluster.engines[old].ask
        taken.append(
            _timed_ms(lambda ask=ask, to=to: _ok(ask("transfer", member_id=to)))  # type: ignore[misc]
        )
        cluster.elected()
    return _median_row(f"transfer, {count} times", taken, 20.0)


def _interpreter_blocked(cluster: Lab) -> Row:
    leader = cluster.engines[cluster.leader()]
    return _unmoved(
        cluster,
        "leader's interpreter blocked for 3 s",
        lambda: leader.ask("block_interpreter", ms=3_000),
    )


def _follower_paused(cluster: Lab) -> Row:
    leader = cluster.leader()
    paused = next(e for m, e in cluster.engines.items() if m != leader)

    def pause() -> None:
        paused.signal(signal.SIGSTOP)
        time.sleep(5.0)
        paused.signal(signal.SIGCONT)
        time.sleep(1.0)

    return _unmoved(cluster, "follower paused for 5 s", pause)


def _leaders_killed(cluster: Lab, count: int) -> Row:
    """Kill the leader; time until another one leads, as the survivors say."""
    taken = []
    for _ in range(count):
        old = cluster.elected()

        def kill(old: int = old) -> None:
            cluster.engines[old].kill()
            until(
                lambda: cluster.leader() not in {0, old},
                "another leader",
                within_s=_LEADER_S,
                every_s=_LOOK_EVERY_S,
            )

        taken.append(_timed_ms(kill))
        cluster.engines[old].start()
    return Row(
        what=f"new leader after kill -9, {count} kills",
        measured=_spread(taken),
        goal="median 700 ms, worst 1300 ms",
        met=median(taken) <= 700.0 and max(taken) <= 1_300.0,
    )


def _chaos(cluster: Lab, seconds: float) -> Row:
    tally = Chaos(cluster, seed=1).run(seconds)
    return Row(
        what=f"chaos of {seconds:g} s, {WRITES_A_S} writes a second, "
        f"{tally.faults} kills and pauses",
        measured=f"{len(tally.acknowledged)} of {tally.attempted} writes acknowledged, "
        f"{tally.lost} lost; {tally.reads} reads, {tally.stale} stale",
        goal="none lost, none stale",
        met=tally.lost == tally.stale == 0 < len(tally.acknowledged),
    )


def _partitions(folder: Path, timing: dict[str, object]) -> list[Row]:
    """Cut every direction between two of three engines in turn."""
    folder.mkdir()
    names = ("n1", "n2", "n3")
    what = f"each one-way partition of {_CUT_S:g} s"
    try:
        network = Namespaces(names, f"raft{os.getpid()}")
    except CannotRun as why:
        return [Row(what=what, measured=f"not run: {why}", goal="", met=True)]
    with closing(network), lab(folder, _SUBNET, network) as cluster:
        cluster.form(3, **timing)
        moved = [
            f"{sender}->{receiver}"
            for sender, receiver in permutations(names, 2)
            if not _cut(cluster, network, sender, receiver).met
        ]
    return [
        Row(
            what=what,
            measured=f"term changed: {', '.join(moved)}"
            if moved
            else "no term changed",
            goal="no change of term",
            met=not moved,
        )
    ]


def _cut(cluster: Lab, network: Namespaces, sender: str, receiver: str) -> Row:
    def cut() -> None:
        network.cut(sender, receiver)
        time.sleep(_CUT_S)
        network.heal(sender, receiver)
        time.sleep(1.0)

    return _unmoved(cluster, f"{sender} not heard by {receiver}", cut)


def _unmoved(cluster: Lab, what: str, fault: Callable[[], object]) -> Row:
    before = _terms(cluster)
    fault()
    after = _terms(cluster)
    return Row(
        what=what,
        measured="same leader, same term"
        if before == after
        else f"(leader, term) {before} -> {after}",
        goal="no change of term",
        met=before == after,
    )


def _terms(cluster: Lab) -> tuple[int, int]:
    leader = cluster.elected()
    return leader, int(cluster.engines[leader].status()["term"])


def _ok(answer: tuple[str, object]) -> None:
    if answer[0] != "ok":
        raise AssertionError(f"an engine answered {answer}")


def _timed_ms(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1_000


def _median_row(what: str, taken: list[float], most_ms: float) -> Row:
    return Row(
        what=what,
        measured=_spread(taken),
        goal=f"median {most_ms:g} ms",
        met=median(taken) <= most_ms,
    )


def _spread(taken: list[float]) -> str:
    return f"{min(taken):.2f} / {median(taken):.2f} / {max(taken):.2f} ms"
