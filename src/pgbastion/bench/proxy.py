"""Compare the proxy's data paths with HAProxy and with no proxy at all.

Every kind of work runs on every way in turn, for several rounds, so that a machine
that is busy for a while is busy for all of them. The table has medians, the ratios
that the goals are about, and what was not run; a picture of it is written beside.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from pgbastion.bench._proxy_churn import measure_churn
from pgbastion.bench._proxy_goals import MET, MISSED, NOT_RUN, Goal
from pgbastion.bench._proxy_idle import measure_idle
from pgbastion.bench._proxy_plot import render_plot
from pgbastion.bench._proxy_stall import measure_stall
from pgbastion.bench._proxy_ways import Way, open_ways
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.servers import PlainServer, choose

_SERVER: Final = "127.35.250.2"
_SERVER_PORT: Final = 15_442
_PASSWORD: Final = "bench"  # noqa: S105 - of a server that lives for minutes
_WIDTH: Final = 150
_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the clients' programs are, and how long a run takes."""

    bin_dir: Path
    seconds: float
    copy_mb: int

    def pgbench(self, way: Way, *arguments: str) -> float:
        """Return transactions a second."""
        done = self.run(
            way, "pgbench", "-n", "-S", "-T", str(round(self.seconds)), *arguments
        )
        for line in done.splitlines():
            if line.startswith("tps"):
                return float(line.split()[2])
        raise LabError(f"pgbench printed no rate: {done}")

    def latency_us(self, way: Way) -> float:
        """Return the mean time of one transaction of one client."""
        return 1e6 / self.pgbench(way, "-c", "1")

    def copy_out(self, way: Way) -> float:
        """Return MB a second from the server to the client."""
        rows = self.copy_mb * 1000
        table = f"select repeat('x', 999) from generate_series(1, {rows})"  # noqa: S608
        return self._copy(way, f"copy ({table}) to stdout")

    def copy_in(self, way: Way) -> float:
        """Return MB a second from the client to the server, which drops them."""
        with tempfile.TemporaryFile(dir="/dev/shm") as rows:
            for _ in range(self.copy_mb):
                rows.write((b"y" * 999 + b"\n") * 1000)
            rows.seek(0)
            return self._copy(way, "copy sink from stdin where false", rows.fileno())

    def _copy(self, way: Way, sql: str, rows: int | None = None) -> float:
        began = time.monotonic()
        self.run(way, "psql", "-Xq", "-o", "/dev/null", "-c", sql, rows=rows)
        return self.copy_mb / (time.monotonic() - began)

    def run(
        self, way: Way, program: str, *arguments: str, rows: int | None = None
    ) -> str:
        """Run a client program through ``way``; return what it printed.

        Args:
            way: Where to connect.
            program: Its name in ``bin_dir``.
            arguments: Its arguments besides those that say where to connect.
            rows: A file descriptor for its standard input.

        Raises:
            LabError: It failed; the message has its own.
        """
        where = ["-h", way.host, "-p", str(way.port), "-U", "postgres"]
        done = subprocess.run(
            [str(self.bin_dir / program), *where, *arguments, "postgres"],
            env={**os.environ, "PGPASSWORD": _PASSWORD, "PGSSLMODE": "disable"},
            stdin=subprocess.DEVNULL if rows is None else rows,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"{program} through {way.name}: {done.stderr.strip()}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work, and its goals."""

    name: str
    unit: str
    measure: Callable[[Bench, Way], float]
    goals: tuple[Goal, ...]


def _clients(number: int) -> Callable[[Bench, Way], float]:
    return lambda bench, way: bench.pgbench(way, "-c", str(number))


def _cpu_per_thousand(bench: Bench, way: Way) -> float:
    """Return ms of the proxy's processor time for a thousand transactions."""
    before = way.cpu_seconds()
    rate = bench.pgbench(way, "-c", "8")
    return (way.cpu_seconds() - before) * 1e6 / (rate * bench.seconds)


_AS_FAST: Final = (
    Goal("kernel", "haproxy", 0.95),
    Goal("userspace", "haproxy", 0.95),
)
WORKS: Final = {
    "select8": Work(
        "pgbench -S, 8 clients", "tps", _clients(8),
        (
            Goal("kernel", "haproxy", 1.15),
            Goal("kernel", "direct", 0.8),
            Goal("userspace", "haproxy", 0.85),
        ),
    ),
    "select64": Work(
        "pgbench -S, 64 clients", "tps", _clients(64),
        (Goal("kernel", "haproxy", 1.15),),
    ),
    "latency": Work(
        "one client", "us", Bench.latency_us,
        (Goal("kernel", "haproxy", 1.0, at_most=True, added=True),),
    ),
    "copy-out": Work("COPY out", "MB/s", Bench.copy_out, _AS_FAST),
    "copy-in": Work("COPY in", "MB/s", Bench.copy_in, _AS_FAST),
    "connect": Work(
        "pgbench -C, 4 clients", "tps",
        lambda bench, way: bench.pgbench(way, "-C", "-c", "4"),
        _AS_FAST,
    ),
    "cpu": Work(
        "processor time, 1000 transactions", "ms", _cpu_per_thousand,
        (Goal("kernel", "haproxy", 0.3, at_most=True),),
    ),
}  # fmt: skip
_IDLE: Final = "idle"
_STALL: Final = "stall"
_IDLE_GOAL: Final = 1.5
_CLOSED_GOAL_S: Final = 1.0
_STALL_GOAL_BYTES: Final = 8 * _MB
_GROWTH_GOAL: Final = 1.1

Found = dict[tuple[str, str], list[float]]


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments ask for and print the tables."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    missing: dict[str, str] = {}
    try:
        if options.churn:
            _print_churn(console, options.churn, missing)
        else:
            _run(options, console, missing)
    except (CannotRun, LabError) as why:
        sys.exit(f"not run: {why}")
    for name, reason in missing.items():
        console.print(f"not run: {name}: {reason}")


def _run(
    options: argparse.Namespace, console: Console, missing: dict[str, str]
) -> None:
    chosen = options.works.split(",")
    for name in (*WORKS, _IDLE, _STALL):
        if name not in chosen:
            missing[name] = "it was not asked for"
    with tempfile.TemporaryDirectory(prefix="pgb-bench-proxy-") as name:
        Path(name).chmod(0o755)
        found = _measure(options, Path(name), console, missing)
    _print(console, found, options)
    if _IDLE in chosen:
        _print_idle(console, options.sessions, missing)
    if _STALL in chosen:
        _print_stall(console, options.stall_seconds, missing)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench proxy", description=__doc__)
    known = [*WORKS, _IDLE, _STALL]
    parser.add_argument("--works", default=",".join(known), help=f"of {known}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one pgbench")
    parser.add_argument("--copy-mb", type=int, default=700)
    parser.add_argument("--sessions", type=int, default=5_000, help="idle ones")
    parser.add_argument(
        "--stall-seconds", type=float, default=20.0, help="how long a reader stalls"
    )
    parser.add_argument(
        "--churn", type=float, default=0.0, metavar="MINUTES",
        help="only this: memory while clients come and go",
    )  # fmt: skip
    parser.add_argument(
        "--plot", type=Path, default=Path("bench-proxy.svg"), help="where to draw it"
    )
    parser.add_argument("--version", default="newest", help="of PostgreSQL")
    options = parser.parse_args(arguments)
    unknown = set(options.works.split(",")) - set(known)
    if unknown:
        parser.error(f"unknown works: {', '.join(sorted(unknown))}")
    return options


def _measure(
    options: argparse.Namespace,
    directory: Path,
    console: Console,
    missing: dict[str, str],
) -> Found:
    """Return what each work gave on each way, by (work, way)."""
    works = [name for name in WORKS if name in options.works.split(",")]
    found: Found = {}
    if not works:
        return found
    bin_dir = choose(options.version, directory / "programs")
    server = PlainServer(bin_dir, directory / "one", _SERVER, _SERVER_PORT, _PASSWORD)
    bench = Bench(bin_dir, options.seconds, options.copy_mb)
    try:
        server.start()
        _prepare(bench)
        with open_ways(_SERVER, _SERVER_PORT, directory, missing) as ways:
            for number in range(options.rounds):
                for work in works:
                    for name, way in ways.items():
                        value = WORKS[work].measure(bench, way)
                        found.setdefault((work, name), []).append(value)
                console.print(f"round {number + 1} of {options.rounds} is over")
    finally:
        server.stop()
    return found


def _prepare(bench: Bench) -> None:
    direct = Way("direct", _SERVER, _SERVER_PORT)
    bench.run(direct, "pgbench", "-i", "-q", "-s", "10")
    bench.run(direct, "psql", "-Xq", "-c", "create unlogged table sink (body text)")


def _print(console: Console, found: Found, options: argparse.Namespace) -> None:
    if not found:
        return
    ways = list(dict.fromkeys(way for _, way in found))
    table = Table(title=f"medians of {options.rounds} rounds")
    table.add_column("work")
    for way in ways:
        table.add_column(way, justify="right")
    table.add_column("ratio")
    table.add_column("goal")
    table.add_column("")
    rows = []
    for work in dict.fromkeys(work for work, _ in found):
        kind = WORKS[work]
        medians = {way: median(found[work, way]) for way in ways}
        rows.append((f"{kind.name}, {kind.unit}", medians))
        table.add_row(
            rows[-1][0],
            *(f"{medians[way]:,.0f}" for way in ways),
            "\n".join(_ratio(medians, goal) for goal in kind.goals),
            "\n".join(str(goal) for goal in kind.goals),
            "\n".join(goal.judge(medians) for goal in kind.goals),
        )
    console.print(table)
    title = f"medians of {options.rounds} rounds, HAProxy = 1"
    options.plot.write_text(render_plot(title, rows, "haproxy"))
    console.print(f"drawn: {options.plot}")


def _ratio(medians: dict[str, float], goal: Goal) -> str:
    if goal.judge(medians) == NOT_RUN:
        return "-"
    base = medians["direct"] if goal.added else 0.0
    bound = medians[goal.beside] - base
    return f"{(medians[goal.way] - base) / bound:.2f}" if bound else "-"


def _print_idle(console: Console, sessions: int, missing: dict[str, str]) -> None:
    """Print the memory of idle sessions, and how soon they are closed."""
    found = measure_idle(sessions, missing)
    table = Table(
        title=f"{sessions:,} idle sessions; a stand-in takes the server's place"
    )
    for heading in ("way", "MB (PSS) they add", f"<= {_IDLE_GOAL} x haproxy"):
        table.add_column(heading)
    table.add_column("s until all are closed at a failover")
    table.add_column(f"<= {_CLOSED_GOAL_S:g} s")
    beside = found.get("haproxy")
    for name, idle in found.items():
        memory = closed = ""
        if name != "haproxy":
            memory = NOT_RUN
            if beside is not None:
                memory = _verdict(idle.added_bytes <= _IDLE_GOAL * beside.added_bytes)
        if idle.closed_s is not None:
            closed = _verdict(idle.closed_s <= _CLOSED_GOAL_S)
        took = "" if idle.closed_s is None else f"{idle.closed_s:.2f}"
        table.add_row(name, f"{idle.added_bytes / _MB:.1f}", memory, took, closed)
    console.print(table)


def _print_stall(console: Console, seconds: float, missing: dict[str, str]) -> None:
    """Print what is kept for a reader that stalls."""
    found = measure_stall(seconds, missing)
    table = Table(title=f"kept for a reader that stalls for {seconds:g} s, MB")
    for heading in ("way", "after 1 s", "at the end", "more than direct", "goal", ""):
        table.add_column(heading)
    direct = found["direct"].last_bytes
    for name, stall in found.items():
        more = stall.last_bytes - direct
        table.add_row(
            name,
            f"{stall.first_bytes / _MB:.1f}",
            f"{stall.last_bytes / _MB:.1f}",
            f"{more / _MB:.1f}",
            *(
                ("", "")
                if name in ("direct", "haproxy")
                else ("<= 8", _verdict(more <= _STALL_GOAL_BYTES))
            ),
        )
    console.print(table)


def _print_churn(console: Console, minutes: float, missing: dict[str, str]) -> None:
    """Print what the memory of our proxies does while clients come and go."""
    found = measure_churn(minutes, missing, console.print)
    table = Table(title=f"clients that come and go for {minutes:g} min")
    headings = "way", "sessions", "MB once warm", "most", "at the end", "descriptors"
    for heading in (*headings, f"end <= {_GROWTH_GOAL} x warm"):
        table.add_column(heading)
    for name, churn in found.items():
        table.add_row(
            name,
            f"{churn.sessions:,}",
            *(
                f"{size / _MB:.1f}"
                for size in (churn.warm_bytes, churn.most_bytes, churn.last_bytes)
            ),
            f"{churn.samples[0][2]} .. {churn.samples[-1][2]}",
            _verdict(churn.last_bytes <= _GROWTH_GOAL * churn.warm_bytes),
        )
    console.print(table)


def _verdict(reached: bool) -> str:  # noqa: FBT001 - it is the subject
    return MET if reached else MISSED
