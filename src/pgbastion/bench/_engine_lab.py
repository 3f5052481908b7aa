"""Clusters of engines, each in a process of its own, on addresses of the loopback."""

import contextlib
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pgbastion.bench.lab.network import Namespaces
from pgbastion.guard import page as shared_page

WORKER = Path(__file__).with_name("_engine_worker.py")
SECRET = b"the secret of a bench"
ANSWER_S = 10.0
ELECTION_S = 5.0
_PORT_IN_NAMESPACE = 8300


class Engine:
    """One process; killed processes keep their directory and can be started again."""

    def __init__(
        self,
        folder: Path,
        host: str,
        *,
        prefix: Sequence[str] = (),
        port: int | None = None,
        **options: object,
    ) -> None:
        self.host = host
        self.prefix = tuple(prefix)
        self.address = f"{host}:{port or _free_port(host)}"
        self.folder = folder
        self.page = folder / "page"
        folder.mkdir()
        created = shared_page.create(str(self.page))
        created[shared_page.GENERATION] = 1
        created.close()
        self.options = options
        self.failed: str | None = None
        self._ids = itertools.count(1)
        self.start()

    def start(self) -> None:
        """Start the process; ``failed`` says why its engine could not."""
        options = {
            "dir": str(self.folder / "raft"),
            "listen": self.address,
            "secret": SECRET.hex(),
            "tick_ms": 20,
            "heartbeat_ticks": 2,
            "election_ticks": 15,
            "page_path": str(self.page),
            "generation": 1,
        } | self.options
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, str(WORKER), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._first: queue.Queue[dict[str, Any]] = queue.Queue()
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(self.process,)),
            threading.Thread(target=self._read_errors, args=(self.process,)),
        ]
        for thread in self._threads:
            thread.start()
        first = self._first.get(timeout=ANSWER_S)
        self.failed = first.get("failed")

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for text in process.stdout:
            line = json.loads(text)
            if "id" in line:
                self._answers[line["id"]].put(line)
            else:
                self._first.put(line)

    def _read_errors(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        self.errors.extend(process.stderr)

    def send(self, do: str, **arguments: object) -> int:
        """Give a command without waiting for its answer."""
        assert self.process.stdin is not None
        asked = next(self._ids)
        self._answers[asked] = queue.Queue()
        self.process.stdin.write(json.dumps({"id": asked, "do": do} | arguments) + "\n")
        self.process.stdin.flush()
        return asked

    def answer(self, asked: int, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Wait for the answer to a command."""
        return self._answers[asked].get(timeout=timeout_s)

    def poll(self, asked: int) -> dict[str, Any] | None:
        """Return the answer to a command, or None while there is none."""
        try:
            return self._answers[asked].get_nowait()
        except queue.Empty:
            return None

    def ask(self, do: str, **arguments: object) -> Any:
        """Give a command and return (status, payload), or the payload alone."""
        line = self.answer(self.send(do, **arguments))
        if "status" in line:
            return line["status"], line["payload"]
        return line["payload"]

    def status(self) -> dict[str, Any]:
        """Return the engine's status."""
        status: dict[str, Any] = self.ask("status")
        return status

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End the process the hard way, and take its last lines."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait for the process's end; return its exit code."""
        code = self.process.wait(timeout=ANSWER_S)
        for thread in self._threads:
            thread.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return code


class Lab:
    """Engines that form one cluster; member ids count from 1."""

    def __init__(
        self, folder: Path, subnet: str, network: Namespaces | None = None
    ) -> None:
        self.folder = folder
        self.subnet = subnet
        self.network = network
        self.engines: dict[int, Engine] = {}

    def add(self, member_id: int, **options: object) -> Engine:
        """Start an engine without identity."""
        name, host = f"n{member_id}", f"{self.subnet}.{member_id}"
        if self.network is not None:
            host = self.network.addresses[name]
            options = {
                **options,
                "prefix": self.network.command(name),
                "port": _PORT_IN_NAMESPACE,
            }
        engine = Engine(self.folder / name, host, **options)  # type: ignore[arg-type]
        self.engines[member_id] = engine
        return engine

    def form(self, size: int, **options: object) -> None:
        """Make a cluster of ``size`` voters."""
        for member_id in range(1, size + 1):
            self.add(member_id, **options)
        self.engines[1].ask("form", member_id=1)
        until(lambda: self.leader() == 1, "the first member leads")
        for member_id in range(2, size + 1):
            self.admit(member_id)

    def admit(self, member_id: int) -> None:
        """Let an engine that runs in as a voter."""
        engine = self.engines[member_id]
        peers = [
            (other, known.address)
            for other, known in self.engines.items()
            if other != member_id
        ]
        engine.ask("join", member_id=member_id, peers=peers)
        leader = self.engines[self.leader()]
        change = {"member_id": member_id, "address": engine.address}
        until(
            lambda: leader.ask("change", op="add_learner", **change)[0] == "ok",
            "a learner is added",
        )
        until(
            lambda: leader.ask("change", op="promote", **change)[0] == "ok",
            "a learner is promoted",
        )

    def up(self) -> dict[int, Engine]:
        """Return the engines whose process runs."""
        return {
            member_id: engine
            for member_id, engine in self.engines.items()
            if engine.process.poll() is None and engine.failed is None
        }

    def leader(self) -> int:
        """Return who leads in the newest term; 0: nobody."""
        found = [
            (status["term"], status["member_id"])
            for status in (engine.status() for engine in self.up().values())
            if status["role"] == "leader"
        ]
        return max(found, default=(0, 0))[1]

    def elected(self) -> int:
        """Wait for a leader that can commit; return it."""
        until(
            lambda: any(
                engine.ask("propose", data="ping", timeout_ms=500)[0] == "ok"
                for engine in self.up().values()
            ),
            "a proposal is committed",
        )
        return self.leader()

    def close(self) -> None:
        """End every process."""
        for engine in self.engines.values():
            if engine.process.poll() is None:
                engine.signal(signal.SIGCONT)
                engine.kill()
            else:
                engine.wait()


@contextlib.contextmanager
def lab(folder: Path, subnet: str, network: Namespaces | None = None) -> Iterator[Lab]:
    """Give a lab, and leave nothing of it behind."""
    made = Lab(folder, subnet, network)
    try:
        yield made
    finally:
        made.close()


def until(
    holds: Callable[[], bool],
    what: str,
    *,
    within_s: float = ELECTION_S,
    every_s: float = 0.02,
) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: It did not within that time.
    """
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(every_s)


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host.strip("[]"), 0))
        port: int = probe.getsockname()[1]
        return port
