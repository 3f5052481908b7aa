"""Compare the proxy's data paths with HAProxy and with no proxy at all.

Every kind of work runs on every way in turn, for several rounds, so that a machine
that is busy for a while is busy for all of them. The table has medians, and the ratios
that the goals are about.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Final

from rich.console import Console
from rich.table import Table

from pgbastion.bench._proxy_idle import measure_idle_bytes
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
    """One kind of work, and the goals of issue and contract beside it."""

    name: str
    unit: str
    measure: Callable[[Bench, Way], float]
    goal: str


def _clients(number: int) -> Callable[[Bench, Way], float]:
    return lambda bench, way: bench.pgbench(way, "-c", str(number))


def _cpu_per_thousand(bench: Bench, way: Way) -> float:
    """Return ms of the proxy's processor time for a thousand transactions."""
    before = way.cpu_seconds()
    rate = bench.pgbench(way, "-c", "8")
    return (way.cpu_seconds() - before) * 1e6 / (rate * bench.seconds)


WORKS: Final = {
    "select8": Work(
        "pgbench -S, 8 clients", "tps", _clients(8),
        "kernel >= 1.15 x haproxy, >= 0.80 x direct; userspace >= 0.85 x haproxy",
    ),
    "select64": Work(
        "pgbench -S, 64 clients", "tps", _clients(64), "kernel >= 1.15 x haproxy"
    ),
    "latency": Work(
        "one client", "us", Bench.latency_us, "kernel adds <= 1.0 x what haproxy adds"
    ),
    "copy-out": Work("COPY out", "MB/s", Bench.copy_out, ">= 0.95 x haproxy"),
    "copy-in": Work("COPY in", "MB/s", Bench.copy_in, ">= 0.95 x haproxy"),
    "connect": Work(
        "pgbench -C, 4 clients", "tps",
        lambda bench, way: bench.pgbench(way, "-C", "-c", "4"),
        ">= 0.95 x haproxy",
    ),
    "cpu": Work(
        "processor time, 1000 transactions", "ms", _cpu_per_thousand,
        "kernel <= 0.3 x haproxy",
    ),
}  # fmt: skip
_IDLE: Final = "idle"


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments ask for and print the table."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _end)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    chosen = options.works.split(",")
    try:
        with tempfile.TemporaryDirectory(prefix="pgb-bench-proxy-") as name:
            Path(name).chmod(0o755)
            found = _measure(options, Path(name), chosen, console)
    except (CannotRun, LabError) as why:
        sys.exit(f"not run: {why}")
    _print(console, found, options.rounds)
    if _IDLE in chosen:
        _print_idle(console, options.sessions)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench proxy", description=__doc__)
    known = [*WORKS, _IDLE]
    parser.add_argument("--works", default=",".join(known), help=f"of {known}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one pgbench")
    parser.add_argument("--copy-mb", type=int, default=700)
    parser.add_argument("--sessions", type=int, default=5_000, help="idle ones")
    parser.add_argument("--version", default="newest", help="of PostgreSQL")
    options = parser.parse_args(arguments)
    unknown = set(options.works.split(",")) - set(known)
    if unknown:
        parser.error(f"unknown works: {', '.join(sorted(unknown))}")
    return options


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _measure(
    options: argparse.Namespace, directory: Path, chosen: list[str], console: Console
) -> dict[tuple[str, str], list[float]]:
    """Return what each work gave on each way, by (work, way)."""
    works = [name for name in WORKS if name in chosen]
    found: dict[tuple[str, str], list[float]] = {}
    if not works:
        return found
    bin_dir = choose(options.version, directory / "programs")
    server = PlainServer(bin_dir, directory / "one", _SERVER, _SERVER_PORT, _PASSWORD)
    bench = Bench(bin_dir, options.seconds, options.copy_mb)
    try:
        server.start()
        _prepare(bench)
        with open_ways(_SERVER, _SERVER_PORT, directory) as ways:
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


def _print(
    console: Console, found: dict[tuple[str, str], list[float]], rounds: int
) -> None:
    ways = list(dict.fromkeys(way for _, way in found))
    table = Table(title=f"medians of {rounds} rounds")
    table.add_column("work")
    for way in ways:
        table.add_column(way, justify="right")
    for ratio in ("kernel/haproxy", "userspace/haproxy", "kernel/direct"):
        table.add_column(ratio, justify="right")
    table.add_column("goal")
    for work in dict.fromkeys(work for work, _ in found):
        middle = {way: median(found[work, way]) for way in ways}
        shown = [f"{middle[way]:,.0f}" for way in ways]
        ratios = [
            _ratio(middle, above, below)
            for above, below in (
                ("kernel", "haproxy"),
                ("userspace", "haproxy"),
                ("kernel", "direct"),
            )
        ]
        kind = WORKS[work]
        table.add_row(f"{kind.name}, {kind.unit}", *shown, *ratios, kind.goal)
    if found:
        console.print(table)


def _ratio(middle: dict[str, float], above: str, below: str) -> str:
    if not middle.get(below) or above not in middle:
        return "-"
    return f"{middle[above] / middle[below]:.2f}"


def _print_idle(console: Console, sessions: int) -> None:
    """Print the memory that idle sessions add to each proxy's process."""
    table = Table(title=f"memory (PSS) that {sessions:,} idle sessions add")
    table.add_column("way")
    table.add_column("MB", justify="right")
    table.add_column("goal")
    goal = (
        "at most 1.5 x what haproxy adds; a stand-in server takes the backend's place"
    )
    for name, added in measure_idle_bytes(sessions).items():
        table.add_row(name, f"{added / _MB:.1f}", goal if name != "haproxy" else "")
    console.print(table)
