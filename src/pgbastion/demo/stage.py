"""Three nodes of a demonstration: made, started, asked, and removed altogether."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.network import CLIENT, Loopback, Namespaces, Network
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import PRIMARY_PORT
from pgbastion.bench.lab.waits import wait_for
from pgbastion.bench.lab.workload import Place, schema
from pgbastion.config.rundir import run_directory
from pgbastion.demo import files, leftovers
from pgbastion.demo.addresses import Addresses, reserve_addresses
from pgbastion.demo.programs import find_programs, os_user

READY_S: Final = 90.0
_END_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the nodes say at one instant."""

    cluster: dict[str, Any]
    """The answer of the first node that answered; empty: none did."""
    health: dict[str, dict[str, Any]]
    """By node; a silent one is missing."""

    @property
    def primary(self) -> str | None:
        """Who takes writes."""
        found = self.cluster.get("primary")
        return str(found) if found else None

    @property
    def epoch(self) -> int:
        """The newest epoch that is known."""
        return int(self.cluster.get("epoch") or 0)

    def member(self, name: str) -> dict[str, Any]:
        """Return what is said of a node; empty: nothing."""
        members = self.cluster.get("members", [])
        return next((m for m in members if m["name"] == name), {})

    @property
    def synchronous(self) -> list[str]:
        """The standbys that stream and that commits wait for."""
        return [
            name
            for name in files.NAMES
            if self.member(name).get("state") == "streaming"
            and self.member(name).get("role") in ("sync_standby", "quorum_standby")
        ]

    @property
    def complete(self) -> bool:
        """Whether there is a primary, and every standby confirms its commits."""
        return (
            self.primary is not None and len(self.synchronous) == len(files.NAMES) - 1
        )


class Stage:
    """A cluster of three nodes; a context manager.

    Args:
        profile: The timings.
        namespaces: Give each node a network of its own, so that it can be cut off.
    """

    def __init__(self, *, profile: str, namespaces: bool = False) -> None:
        self.profile = profile
        self._namespaces = namespaces
        self._stack = ExitStack()
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Self:
        """Make files and addresses; nothing is started.

        Raises:
            DemoError: An address, a program or a user is missing.
            ConfigError: There is no place in memory for the nodes' run files.
            CannotRun: This user may not make networks.
        """
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process and remove every file, however the block ended.

        If the cluster failed, the ends of its logs are printed before they go.
        """
        if isinstance(error, LabError):
            print(self._last_words(), file=sys.stderr)
        with _uninterrupted():
            self._stack.close()

    def start(self) -> None:
        """Start the three daemons."""
        for node in self.nodes.values():
            node.start()

    def expect_start(self, *, within_s: float) -> None:
        """Fail if the cluster cannot start any more.

        Raises:
            LabError: A daemon has ended, or no time is left.
        """
        ended = [n.name for n in self.nodes.values() if n.exit_code() is not None]
        if ended:
            raise LabError(f"ended at the start: the daemons of {', '.join(ended)}")
        if within_s <= 0:
            raise LabError(f"not within {READY_S:g} s: a primary")

    def wait_complete(self, within_s: float) -> Picture:
        """Wait until there is a primary with two synchronous standbys.

        Raises:
            LabError: It takes too long, or a daemon has ended.
        """

        def complete() -> Picture | None:
            self.expect_start(within_s=within_s)
            picture = self.look()
            return picture if picture.complete else None

        return wait_for("a primary and two synchronous standbys", complete, within_s)

    def look(self) -> Picture:
        """Ask every node that runs what it sees."""
        health: dict[str, dict[str, Any]] = {}
        cluster: dict[str, Any] = {}
        for node in self.nodes.values():
            if node.daemon() is None:
                continue
            said = node.get("/health")
            if said is None:
                continue
            health[node.name] = said
            seen = node.get("/cluster") or {}
            # A node that was cut off knows less than the others.
            if int(seen.get("epoch") or 0) >= int(cluster.get("epoch") or 0) and (
                not cluster.get("primary") or seen.get("primary")
            ):
                cluster = seen
        return Picture(cluster=cluster, health=health)

    def make_tables(self, primary: str) -> None:
        """Make the tables and roles of the write load."""
        node = self.nodes[primary]
        with node.connect() as connection, connection.transaction():
            for statement in schema(self.keys.password):
                connection.execute(statement.encode())

    @property
    def write_load(self) -> tuple[Place, list[str]]:
        """Where a write load runs, and the proxies that it writes through."""
        place = Place(
            prefix=tuple(self._network.command(CLIENT)),
            password=self.keys.password,
            directory=self.directory,
        )
        ports = [f"{node.address}:{PRIMARY_PORT}" for node in self.nodes.values()]
        return place, ports

    def cut_off(self, name: str) -> None:
        """Lose everything between a node and all others, in both directions."""
        for other in self._others(name):
            self._network.cut(name, other)
            self._network.cut(other, name)

    def heal(self, name: str) -> None:
        """End `cut_off`."""
        for other in self._others(name):
            self._network.heal(name, other)
            self._network.heal(other, name)

    def _others(self, name: str) -> list[str]:
        return [*(each for each in self.nodes if each != name), CLIENT]

    def _build(self) -> None:
        leftovers.remove_leftovers()
        if self._namespaces and os.geteuid() != 0:
            raise CannotRun("cutting a node off needs root, for network namespaces")
        addresses = None if self._namespaces else self._reserve()
        # Where the daemons would refuse to start, say so before anything is made.
        run_directory(files.NAMES[0], Path("/"), os.environ)
        self.directory = files.make_directory()
        self._stack.callback(leftovers.remove, self.directory)
        leftovers.sign(self.directory)
        self._network = self._make_network(addresses)
        self._stack.callback(self._end_processes)
        user = os_user()
        self.keys = files.write_keys(self.directory)
        files.write_settings(
            files.Plan(
                directory=self.directory,
                addresses=self._network.addresses,
                bin_dir=find_programs(user, self.directory / "programs"),
                os_user=user,
                profile=self.profile,
            )
        )
        for name in files.NAMES:
            self.nodes[name] = Node(
                name, self._network, self.directory, self.keys.password, {}
            )

    def _reserve(self) -> Addresses:
        addresses = reserve_addresses()
        self._stack.callback(addresses.release)
        return addresses

    def _make_network(self, addresses: Addresses | None) -> Network:
        tag = leftovers.tag_of(self.directory)
        if addresses is not None:
            return Loopback(files.NAMES, tag, addresses.prefix)
        network = Namespaces(files.NAMES, tag)
        self._stack.callback(network.close)
        return network

    def _end_processes(self) -> None:
        """Ask all daemons to end at one time; `leftovers.remove` kills what stays."""
        daemons = [d for node in self.nodes.values() if (d := node.daemon())]
        for daemon in daemons:
            processes.send(daemon, signal.SIGTERM)
        try:
            wait_for(
                "the daemons to end",
                lambda: not any(node.daemon() for node in self.nodes.values()),
                _END_S,
            )
        except LabError:
            # Nothing of theirs is kept: the kill that follows is as good.
            return

    def _last_words(self) -> str:
        lines = []
        for node in self.nodes.values():
            ended = node.exit_code()
            lines.append(f"{node.name}: " + (f"ended {ended}" if ended else "runs"))
            lines += [f"    {line}" for line in _tail(node.log)]
        return "\n".join(lines)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Go on through a second Ctrl-C: what is left to do takes a bounded time."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-8:]
    except OSError:
        return []
