"""One node of the laboratory: its daemon, guard and PostgreSQL, seen from outside."""

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import psycopg

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.network import WATCH, Network
from pgbastion.bench.lab.processes import Process
from pgbastion.bench.lab.servers import SUPERUSER
from pgbastion.bench.lab.settings import API_PORT, POSTGRES_PORT

_RUN_BASES: Final = (
    "/run/pgbastion",
    "/run/user/*/pgbastion",
    "/dev/shm/pgbastion*",  # noqa: S108 - nothing is made there
)
_CONNECT_S: Final = 5
_STATEMENT_MS: Final = 5_000

Row = tuple[Any, ...]


class Node:
    """A node that can be started, looked at and hurt."""

    def __init__(
        self,
        name: str,
        network: Network,
        directory: Path,
        password: str,
        environment: Mapping[str, str],
    ) -> None:
        """Name the node; its configuration file is ``directory/name.yaml``."""
        self.name = name
        self.network = network
        self.address = network.addresses[name]
        self.directory = directory / name
        self.data_dir = self.directory / "pg"
        self.config = directory / f"{name}.yaml"
        self.log = directory / f"{name}.log"
        self._password = password
        self._environment = environment
        self._daemon: subprocess.Popen[bytes] | None = None
        self.wrapper: Sequence[str] = ()
        """Stands before every command that is run on the node."""

    def start(self) -> None:
        """Start the daemon; its standard error is appended to `log`."""
        if self.daemon() is not None:
            raise LabError(f"the daemon of {self.name} runs already")
        if self._daemon is not None:
            # One that was killed may still have threads that have not ended.
            self._daemon.wait(waits.PROCESS_GONE_S)
        program = Path(sys.executable).with_name("pgbastion")
        command = [str(program), "start", "--config", str(self.config)]
        self._daemon = self.run(command)

    def run(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start a program on the node; what it says is appended to `log`."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.network.command(self.name), *self.wrapper, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={
                    **os.environ,
                    **self.network.environment(self.name),
                    **self._environment,
                },
                # Ctrl-C is for the laboratory, which then ends its programs itself.
                start_new_session=True,
            )

    def daemon(self) -> Process | None:
        """Return the daemon that `start` started, if it runs."""
        if self._daemon is None or self._daemon.poll() is not None:
            return None
        return processes.find(self._daemon.pid)

    def exit_code(self) -> int | None:
        """Return how the daemon ended; None: it runs, or was never started."""
        return None if self._daemon is None else self._daemon.poll()

    def has_failed(self) -> bool:
        """Tell whether the daemon ended by itself, not by a signal."""
        return (self.exit_code() or 0) > 0

    def postmaster(self) -> Process | None:
        """Return the postmaster that runs on the data directory."""
        try:
            first = (self.data_dir / "postmaster.pid").read_text().split("\n")[0]
        except OSError:
            return None
        process = processes.find(int(first)) if first.isdecimal() else None
        # The file of a server that was killed may name a stranger's pid.
        return process if process in self._working_here() else None

    def postgres(self) -> list[Process]:
        """Return the processes of PostgreSQL, the postmaster first."""
        head = self.postmaster()
        found = [head, *processes.descendants(head)] if head is not None else []
        return found + [each for each in self._working_here() if each not in found]

    def guard(self) -> Process | None:
        """Return the guard: the parent of the postmaster, or what is called so."""
        head = self.postmaster()
        daemon = self.daemon()
        above = processes.find(processes.parent(head)) if head is not None else None
        if above is not None and above.pid != 1 and above != daemon:
            return above
        for process in self.processes():
            if process != daemon and "guard" in processes.command_line(process):
                return process
        return None

    def processes(self) -> list[Process]:
        """Return every process of the node: daemon, guard, PostgreSQL."""
        found = set(self.network.processes(self.name))
        found.update(processes.working_below(self.directory))
        # The guard is told the run directory on its command line.
        mark = run_name(self.name, self.directory / "raft")
        found.update(processes.with_argument(mark))
        return sorted(found)

    def stop(self) -> int:
        """End the daemon as a service manager does, and return its exit code.

        Raises:
            LabError: It runs on.
        """
        if self._daemon is None:
            raise LabError(f"the daemon of {self.name} was not started")
        self._daemon.send_signal(signal.SIGTERM)
        try:
            return self._daemon.wait(waits.DAEMON_STOP_S)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"the daemon of {self.name} did not end") from error

    def kill(self) -> None:
        """Kill every process of the node until none is left."""
        processes.kill_until_none(self.processes)
        if self._daemon is not None:
            self._daemon.wait(waits.PROCESS_GONE_S)

    def end(self) -> None:
        """End every process of the node, the server by itself where it does that.

        A postmaster that is killed leaves its shared memory to the machine.
        """
        if (daemon := self.daemon()) is not None:
            # It would start the server again.
            processes.send(daemon, signal.SIGKILL)
        head = self.postmaster()
        if head is not None and processes.state(head) not in ("T", "D"):
            processes.send(head, signal.SIGQUIT)
            with suppress(LabError):
                waits.wait_for(
                    "PostgreSQL to end",
                    lambda: not processes.is_alive(head),
                    waits.SERVER_QUITS_S,
                    every_s=0.01,
                )
        self.kill()

    def get(self, path: str) -> Any:
        """Ask the API; return the parsed JSON, None if the node does not answer."""
        return self.ask(path, API_PORT)

    def ask(self, path: str, port: int) -> Any:
        """Return the JSON that an HTTP server of the node gives, None: no answer."""
        connection = http.client.HTTPConnection(
            self.address, port, timeout=waits.API_ANSWER_S
        )
        errors = (OSError, http.client.HTTPException, ValueError)
        with closing(connection), suppress(*errors):
            with self.network.inside(WATCH):
                connection.connect()
            connection.request("GET", path)
            with connection.getresponse() as response:
                return json.loads(response.read())
        return None

    def connect(self, port: int = POSTGRES_PORT) -> psycopg.Connection[Row]:
        """Return a connection to PostgreSQL itself, as superuser.

        Raises:
            psycopg.OperationalError: There is nobody, or nobody who answers.
        """
        target = Target(
            address=self.address, port=port, user=SUPERUSER, password=self._password
        )
        with self.network.inside(WATCH):
            return psycopg.connect(
                target.conninfo(),
                autocommit=True,
                connect_timeout=_CONNECT_S,
                options=f"-c statement_timeout={_STATEMENT_MS}",
            )

    def query(self, sql: str, *values: object) -> list[Row] | None:
        """Return the rows of a query; None: PostgreSQL does not answer."""
        try:
            with self.connect() as connection:
                return connection.execute(sql.encode(), values).fetchall()
        except psycopg.Error:
            return None

    def run_logs(self) -> list[Path]:
        """Return the logs of guard and server, which lie in the run directory."""
        return [
            log
            for directory in run_directories(self.name, self.directory / "raft")
            for log in directory.glob("*.log")
        ]

    def remove_run_files(self) -> None:
        """Remove the run directory of a node all of whose processes have ended."""
        remove_run_directory(self.name, self.directory / "raft")

    def _working_here(self) -> list[Process]:
        return processes.working_below(self.data_dir)


def run_name(name: str, raft_dir: Path) -> str:
    """Return the last part of the run directory's path, which no two nodes share."""
    return f"{name}-{hashlib.sha256(str(raft_dir).encode()).hexdigest()[:8]}"


def run_directories(name: str, raft_dir: Path) -> list[Path]:
    """Return the run directory that such a daemon uses, wherever it made one."""
    mark = run_name(name, raft_dir)
    return [
        found for base in _RUN_BASES for found in Path("/").glob(f"{base[1:]}/{mark}")
    ]


def remove_run_directory(name: str, raft_dir: Path) -> None:
    """Remove the run directory that a daemon with this name and Raft directory uses."""
    for found in run_directories(name, raft_dir):
        shutil.rmtree(found, ignore_errors=True)
