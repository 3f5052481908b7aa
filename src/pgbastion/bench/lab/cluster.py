"""A cluster in the laboratory: built, waited for, checked, and removed altogether.

The order matters at the end as well: frozen disks are thawed, then every process is
killed, then hosts, mounts and files go.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.checker import ServerCheck, compare
from pgbastion.bench.lab.clocks import SteeredClocks
from pgbastion.bench.lab.disks import LoopDisk
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.leftovers import PREFIX, remove_leftovers, sign
from pgbastion.bench.lab.network import (
    CLIENT,
    WATCH,
    Loopback,
    Namespaces,
    Network,
    free_subnet,
)
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.servers import choose
from pgbastion.bench.lab.settings import (
    POSTGRES_PORT,
    PRIMARY_PORT,
    Plan,
    Secrets,
    render,
)
from pgbastion.bench.lab.workload import Place, Sampler, Writers, schema
from pgbastion.model.cluster import VOTERS_MAX

_DISK_BYTES: Final = 1 << 30
_KEPT: Final = ("*.log", "*.yaml", "*.txt", "n*/pg/log/*", "n*/pg/*.conf")


class Lab:
    """A cluster that follows a `Plan`; a context manager.

    ``keep_logs_in`` is a directory to which the logs go when the block fails.
    """

    def __init__(self, plan: Plan, keep_logs_in: Path | None = None) -> None:
        """Name the laboratory; nothing is built before the block is entered."""
        self.plan = plan
        self.kept: Path | None = None
        self._keep_in = keep_logs_in
        self._stack = ExitStack()
        self.nodes: dict[str, Node] = {}
        self.disks: dict[str, LoopDisk] = {}
        self.clocks: dict[str, SteeredClocks] = {}

    def __enter__(self) -> Self:
        """Build hosts and files; no daemon is started.

        Raises:
            CannotRun: This machine lacks what the plan needs.
        """
        remove_leftovers()
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
        """Keep the logs if something failed, then end and remove everything."""
        if error is not None and not isinstance(error, CannotRun):
            self.keep_logs()
        self._stack.close()

    def start(self) -> None:
        """Start every node, wait for a complete cluster and make the tables.

        Raises:
            LabError: The cluster was not ready in time.
        """
        for node in self.nodes.values():
            node.start()
        self.wait_steady(waits.CLUSTER_READY_S)
        with self.node(self.primary()).connect() as connection:
            for statement in schema(self.password):
                connection.execute(statement.encode())

    def node(self, name: str) -> Node:
        """Return the node of that name."""
        return self.nodes[name]

    def servers(self) -> list[Node]:
        """Return the nodes that have PostgreSQL."""
        return [n for n in self.nodes.values() if not self.plan.is_witness(n.name)]

    def reported_primary(self, asked: Iterable[Node] | None = None) -> str | None:
        """Return whom the first node that answers calls primary."""
        for node in asked if asked is not None else self.nodes.values():
            answer = node.get("/cluster")
            if answer is not None:
                primary = answer.get("primary")
                return str(primary) if primary is not None else None
        return None

    def primary(self) -> str:
        """Return the name of the primary.

        Raises:
            LabError: There is none.
        """
        name = self.reported_primary()
        if name is None:
            raise LabError("the cluster reports no primary")
        return name

    def epoch(self) -> int:
        """Return the epoch that the first node that answers reports."""
        for node in self.nodes.values():
            answer = node.get("/cluster")
            if answer is not None:
                return int(answer["epoch"])
        raise LabError("no node answers")

    def streaming(self, primary: str) -> list[str]:
        """Return the standbys that stream from ``primary``."""
        source = self.node(primary).address
        query = (
            "SELECT 1 FROM pg_stat_wal_receiver"
            " WHERE status = 'streaming' AND sender_host = %s"
        )
        others = [node for node in self.servers() if node.name != primary]
        return [node.name for node in others if node.query(query, source)]

    def synchronous_count(self, primary: str) -> int:
        """Return how many streaming standbys commits on ``primary`` may wait for."""
        rows = self.node(primary).query(
            "SELECT count(*) FROM pg_stat_replication"
            " WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')"
        )
        return int(rows[0][0]) if rows else 0

    def sync_count(self) -> int:
        """Return how many standbys a commit has to reach by the plan."""
        if self.plan.mode == "async":
            return 0
        wanted = self.plan.sync_count
        return wanted if isinstance(wanted, int) else self.plan.postgres_nodes // 2

    def wait_steady(self, within_s: float = waits.STEADY_S) -> None:
        """Wait until all vote, all standbys stream and enough are synchronous."""

        def steady() -> bool:
            ended = [node.name for node in self.nodes.values() if node.has_failed()]
            if ended:
                raise LabError(f"the daemon ended on {', '.join(ended)}")
            primary = self.reported_primary()
            if primary is None:
                return False
            complete = len(self.streaming(primary)) == len(self.servers()) - 1
            enough = self.synchronous_count(primary) >= self.sync_count()
            return complete and enough and self._all_vote(primary)

        self._wait("a primary and all its standbys", steady, within_s)

    def _all_vote(self, name: str) -> bool:
        answer = self.node(name).get("/raft/state")
        return answer is not None and len(answer["voters"]) == min(
            len(self.nodes), VOTERS_MAX
        )

    def wait_standby(self, name: str, within_s: float = waits.REJOINED_S) -> None:
        """Wait until ``name`` is a standby that streams from the primary."""

        def streams() -> bool:
            primary = self.reported_primary()
            if primary is None or primary == name:
                return False
            return name in self.streaming(primary)

        self._wait(f"{name} to stream as a standby", streams, within_s)

    def writers(
        self, via: Iterable[str] | None = None, *, count: int | None = None
    ) -> Writers:
        """Return a workload through the proxies of the nodes ``via``, default all."""
        names = list(via) if via is not None else list(self.nodes)
        where = [f"{self.node(name).address}:{PRIMARY_PORT}" for name in names]
        return Writers(self._place(CLIENT), where, writers=count)

    def sampler(self) -> Sampler:
        """Return a sampler at every PostgreSQL; cuts never hide a node from it."""
        at = {node.name: f"{node.address}:{POSTGRES_PORT}" for node in self.servers()}
        return Sampler(self._place(WATCH), at)

    def check(self, writers: Writers) -> dict[str, ServerCheck]:
        """Compare the rows of a workload that has ended on every server.

        Raises:
            LabError: A server did not answer, or has not replayed in time.
        """
        rows = self.node(self.primary()).query("SELECT pg_current_wal_lsn()")
        if not rows:
            raise LabError("the primary does not answer")
        acknowledged = [row.id for row in writers.acknowledged()]
        checks = {}
        for node in self.servers():
            self._wait_replayed(node, str(rows[0][0]))
            stored = node.query(
                "SELECT id FROM lab_writes WHERE id >= %s", writers.first_id
            )
            if stored is None:
                raise LabError(f"{node.name} does not answer")
            ids = [int(number) for (number,) in stored]
            checks[node.name] = compare(
                node.name, ids, acknowledged, writers.attempted()
            )
        return checks

    @property
    def tag(self) -> str:
        """What the hosts' names have in common."""
        return self.directory.name.removeprefix(PREFIX)

    @property
    def password(self) -> str:
        """The password of every role in the cluster."""
        return self._secrets.password

    def keep_logs(self) -> Path | None:
        """Copy logs and settings to where they are kept, and return that directory."""
        if self._keep_in is None or self.kept is not None:
            return self.kept
        self.kept = self._keep_in / self.directory.name
        found = {
            source.relative_to(self.directory): source
            for pattern in _KEPT
            for source in self.directory.glob(pattern)
            if source.is_file()
        }
        for node in self.nodes.values():
            found |= {Path(node.name, log.name): log for log in node.run_logs()}
        for place, source in found.items():
            (self.kept / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, self.kept / place)
        return self.kept

    def _build(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.directory.chmod(0o755)
        sign(self.directory)
        self._stack.callback(shutil.rmtree, self.directory)
        self.network = self._make_network()
        self._stack.callback(self.network.close)
        self._stack.callback(_end_all_below, self.directory)
        self._secrets = Secrets.write(self.directory)
        self.bin_dir = choose(self.plan.version, self.directory / "programs")
        for name in self.plan.names:
            self._add_node(name)

    def _make_node(self, name: str) -> Node:
        """Write the node's file and return the node."""
        settings = render(
            self.plan, name, self.network.addresses, self.bin_dir, self.directory
        )
        node = Node(
            name, self.network, self.directory, self.password, self.plan.environment
        )
        if name in self.plan.clock_off_s:
            self._steer_clocks(node, self.plan.clock_off_s[name])
        node.directory.mkdir()
        node.config.write_text(settings)
        return node

    def _add_node(self, name: str) -> None:
        node = self._make_node(name)
        if name in self.plan.own_disk:
            self._mount_disk(node)
        self._stack.callback(node.remove_run_files)
        self._stack.callback(node.end)
        if name in self.disks:
            # A process that waits for a frozen disk cannot be killed.
            self._stack.callback(self.disks[name].thaw)
        self.nodes[name] = node

    def _mount_disk(self, node: Node) -> None:
        """Give the node a disk of its own; without one, faults of disks cannot run."""
        image = self.directory / f"{node.name}.image"
        with suppress(CannotRun):
            disk = LoopDisk(image, node.directory, _DISK_BYTES)
            self._stack.callback(disk.remove)
            self.disks[node.name] = disk

    def _steer_clocks(self, node: Node, off_s: int) -> None:
        """Give the node clocks of its own; only wrong ones must not be missing."""
        try:
            clocks = SteeredClocks(self.directory, node.name)
        except CannotRun:
            if off_s:
                raise
            return
        clocks.set_wall(off_s)
        node.wrapper = clocks.command()
        self.clocks[node.name] = clocks

    def _make_network(self) -> Network:
        if self.plan.namespaces:
            return Namespaces(self.plan.names, self.tag, self.plan.families)
        return Loopback(self.plan.names, self.tag, free_subnet())

    def _place(self, host: str) -> Place:
        return Place(
            prefix=tuple(self.network.command(host)),
            password=self.password,
            directory=self.directory,
        )

    def _wait(self, what: str, question: Callable[[], bool], within_s: float) -> None:
        try:
            waits.wait_for(what, question, within_s)
        except LabError as error:
            raise LabError(f"{error}\n{self._last_words()}") from error

    def _last_words(self) -> str:
        """Return what every node says of itself, for the message of a failed wait."""
        lines = []
        for node in self.nodes.values():
            ended = node.exit_code()
            state = node.get("/health") if ended is None else f"ended {ended}"
            lines.append(f"{node.name}: {json.dumps(state)}")
            if node.log.exists():
                text = node.log.read_text(errors="replace")
                lines += [f"    {line}" for line in text.splitlines()[-5:]]
        return "\n".join(lines)

    def _wait_replayed(self, node: Node, lsn: str) -> None:
        def replayed() -> bool:
            rows = node.query(
                "SELECT NOT pg_is_in_recovery()"
                " OR pg_last_wal_replay_lsn() >= %s::pg_lsn",
                lsn,
            )
            return bool(rows and rows[0][0])

        self._wait(f"{node.name} to replay {lsn}", replayed, waits.REPLAYED_S)


def _end_all_below(directory: Path) -> None:
    processes.kill_until_none(lambda: processes.working_below(directory))
