"""Patroni, etcd and HAProxy on the laboratory's hosts, for a comparison.

The same hosts, servers, faults, writers and checks; only the programs that keep the
cluster alive differ. There is no Keepalived: the writers go to a surviving HAProxy by
themselves, as they do with pgbastion, so the address's share of a gap is left out.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.network import Network
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.processes import Process
from pgbastion.bench.lab.servers import as_os_user, os_user
from pgbastion.bench.lab.settings import POSTGRES_PORT, PRIMARY_PORT, Plan
from pgbastion.bench.lab.waits import PROCESS_GONE_S

_PROGRAMS: Final = ("etcd", "haproxy")
_REST_PORT: Final = 8008
_ETCD_PORT: Final = 2379
_PEER_PORT: Final = 2380


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Patroni's three time-outs and what it does about a dead postmaster; seconds."""

    ttl: int
    loop_wait: int
    retry_timeout: int
    primary_start_timeout: int


# What Patroni comes with, and the least that it accepts.
TIMINGS: Final = {
    "patroni-defaults": Timing(
        ttl=30, loop_wait=10, retry_timeout=10, primary_start_timeout=300
    ),
    "patroni-tuned": Timing(
        ttl=20, loop_wait=1, retry_timeout=3, primary_start_timeout=0
    ),
}


class PatroniNode(Node):
    """A node with etcd, Patroni and HAProxy; its daemon is Patroni."""

    def __init__(
        self, name: str, network: Network, directory: Path, password: str
    ) -> None:
        """Name the node; ``commands`` are to be filled in."""
        super().__init__(name, network, directory, password, {})
        self.commands: dict[str, list[str]] = {}
        self._programs: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start those of the three that do not run."""
        for name, command in self.commands.items():
            if self._find(name) is None:
                self._programs.append(self.run([*as_os_user(), *command]))

    def daemon(self) -> Process | None:
        """Return Patroni."""
        return self._find("patroni")

    def guard(self) -> Process | None:
        """Return None: there is no such process."""
        return None

    def exit_code(self) -> int | None:
        """Return None: nothing is known of a program that runs in the background."""
        return None

    def kill(self) -> None:
        """Kill every process of the node until none is left."""
        processes.kill_until_none(self.processes)
        for program in self._programs:
            program.wait(PROCESS_GONE_S)
        self._programs.clear()

    def get(self, path: str) -> Any:
        """Answer in pgbastion's words what the laboratory asks for."""
        if path != "/cluster":
            return None
        answer = self.ask(path, _REST_PORT)
        if answer is None:
            return None
        leaders = [m for m in answer["members"] if m["role"] == "leader"]
        running = [m for m in leaders if m["state"] == "running"]
        return {
            "primary": running[0]["name"] if running else None,
            # A promotion is a new timeline, which is the nearest thing to an epoch.
            "epoch": running[0].get("timeline", 0) if running else 0,
        }

    def _find(self, name: str) -> Process | None:
        settings = self.commands[name][-1]
        for process in self.network.processes(self.name):
            if processes.command_line(process).rstrip().endswith(settings):
                return process
        return None


class PatroniLab(Lab):
    """A cluster kept by Patroni; its timing is named by the plan's profile."""

    def __init__(
        self, plan: Plan, program: str, keep_logs_in: Path | None = None
    ) -> None:
        """Name the laboratory; ``program`` is Patroni's, usable by `os_user`.

        Raises:
            CannotRun: A program is missing.
        """
        missing = [name for name in _PROGRAMS if shutil.which(name) is None]
        if missing or shutil.which(program) is None:
            raise CannotRun(f"missing programs: {', '.join(missing) or program}")
        super().__init__(plan, keep_logs_in)
        self._program = program

    def _make_node(self, name: str) -> Node:
        node = PatroniNode(name, self.network, self.directory, self.password)
        own = node.directory
        own.mkdir()
        files = {
            "patroni": (own / "patroni.yaml", self._patroni(node)),
            "haproxy": (own / "haproxy.cfg", self._haproxy()),
            "etcd": (own / "etcd.yaml", self._etcd(node)),
        }
        for path, text in files.values():
            path.write_text(text)
        for path in (own, *(path for path, _ in files.values())):
            if os.geteuid() == 0:
                shutil.chown(path, os_user())
        node.commands = {
            "etcd": ["etcd", "--config-file", str(files["etcd"][0])],
            "haproxy": ["haproxy", "-db", "-f", str(files["haproxy"][0])],
            "patroni": [self._program, str(files["patroni"][0])],
        }
        return node

    def _all_vote(self, name: str) -> bool:
        # Its store is started with all its members.
        return name in self.nodes

    def _etcd(self, node: Node) -> str:
        peers = {
            name: f"http://{self.network.addresses[name]}:{_PEER_PORT}"
            for name in self.plan.names
        }
        client = f"http://{node.address}:{_ETCD_PORT}"
        return _yaml(
            {
                "name": node.name,
                "data-dir": str(node.directory / "etcd"),
                "listen-peer-urls": peers[node.name],
                "initial-advertise-peer-urls": peers[node.name],
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "initial-cluster": ",".join(f"{n}={url}" for n, url in peers.items()),
                "initial-cluster-state": "new",
                # Its default differs when the settings come from a file.
                "enable-grpc-gateway": True,
                "log-level": "error",
            }
        )

    def _patroni(self, node: Node) -> str:
        timing = TIMINGS[self.plan.profile]
        password = self.password
        roles = {
            "superuser": "postgres",
            "replication": "replicator",
            "rewind": "rewinder",
        }
        return _yaml(
            {
                "scope": "lab",
                "name": node.name,
                "restapi": _listen(node, _REST_PORT),
                "etcd3": {
                    "hosts": [
                        f"{self.network.addresses[name]}:{_ETCD_PORT}"
                        for name in self.plan.names
                    ]
                },
                "bootstrap": {
                    "dcs": {
                        "ttl": timing.ttl,
                        "loop_wait": timing.loop_wait,
                        "retry_timeout": timing.retry_timeout,
                        "primary_start_timeout": timing.primary_start_timeout,
                        "synchronous_mode": "quorum",
                        "synchronous_node_count": self.sync_count(),
                        "postgresql": {"use_pg_rewind": True, "use_slots": True},
                    },
                    "initdb": [{"encoding": "UTF8"}, "data-checksums"],
                },
                "postgresql": {
                    **_listen(node, POSTGRES_PORT),
                    "data_dir": str(node.data_dir),
                    "bin_dir": str(self.bin_dir),
                    "pgpass": str(node.directory / "pgpass"),
                    "authentication": {
                        use: {"username": role, "password": password}
                        for use, role in roles.items()
                    },
                    "pg_hba": [
                        "local all all scram-sha-256",
                        "host all all all scram-sha-256",
                        "host replication all all scram-sha-256",
                    ],
                    "parameters": {
                        "unix_socket_directories": str(node.directory),
                        "shared_buffers": "128MB",
                    },
                },
                "watchdog": {"mode": "off"},
            }
        )

    def _haproxy(self) -> str:
        servers = "\n".join(
            f"    server {name} {self.network.addresses[name]}:{POSTGRES_PORT}"
            f" check port {_REST_PORT}"
            for name in self.plan.names
        )
        return f"""
defaults
    mode tcp
    timeout connect 4s
    timeout client 30m
    timeout server 30m
    timeout check 5s
listen primary
    bind *:{PRIMARY_PORT}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{servers}
"""


def _listen(node: Node, port: int) -> dict[str, str]:
    where = f"{node.address}:{port}"
    return {"listen": where, "connect_address": where}


def _yaml(document: dict[str, Any]) -> str:
    text = StringIO()
    YAML().dump(document, text)
    return text.getvalue()
