"""The checks of one node while the primary role moves and its sessions end."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pgbastion.bench import _api_sessions
from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.faults import FAULTS
from pgbastion.bench.lab.network import CLIENT
from pgbastion.bench.lab.settings import API_PORT, PRIMARY_PORT, Plan
from pgbastion.bench.lab.workload import USER
from pgbastion.bench.lab.writers import PASSWORD_VARIABLE

LEAD_IN_S: Final = 3.0
# Who asks has this machine's processors first, also before the daemons: elsewhere it
# would have its own, and here it would wait for a thousand processes to end.
_ASKER_FIRST: Final = ("nice", "-n", "-20")
_CONNECTIONS_BESIDE: Final = 100
_OPEN_ONE_S: Final = 0.1
_END_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one run is to be like.

    ``node`` is whose checks are asked and whose proxy carries the sessions: the old
    primary's ("old"), or a standby's ("standby").
    """

    fault: str
    node: str
    sessions: int
    rate: float
    for_s: float
    anew: bool


def run_failover(asked: Asked, keep_logs: Path) -> list[dict[str, Any]]:
    """Hit a cluster of three with the fault; return the figures of each path.

    Raises:
        LabError: The cluster missed a bound.
        CannotRun: This machine lacks what a laboratory needs.
    """
    connections = asked.sessions + _CONNECTIONS_BESIDE
    plan = Plan(parameters={"shared_buffers": "128MB", "max_connections": connections})
    with Lab(plan, keep_logs_in=keep_logs) as lab:
        lab.start()
        old = lab.primary()
        node = old
        if asked.node != "old":
            node = next(name for name in lab.streaming(old))
            _keep_apart(lab, old)
        with _sessions(lab, node, asked.sessions):
            lines = _measure(lab, node, old, asked)
        new = lab.primary()
        if new == old:
            raise LabError(f"{old} is still the primary: nothing was measured")
    role = "old primary" if node == old else "new primary" if node == new else "standby"
    told = {"fault": asked.fault, "asked": role, "sessions": asked.sessions}
    return [{**told, **line} for line in lines]


def _keep_apart(lab: Lab, old: str) -> None:
    """Give the old primary one processor and everybody else the others.

    On machines of their own they would not share any: here the end of a thousand
    servers' processes would keep everybody waiting, whatever the daemon does.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return
    for node in lab.nodes.values():
        own = {first} if node.name == old else set(others)
        for process in node.processes():
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(OSError):
                    os.sched_setaffinity(int(thread.name), own)
    os.sched_setaffinity(0, others)


def _measure(lab: Lab, node: str, old: str, asked: Asked) -> list[dict[str, Any]]:
    url = f"http://{lab.node(node).address}:{API_PORT}"
    options = ["--anew"] if asked.anew else []
    numbers = [str(asked.rate), str(asked.for_s)]
    command = ["-m", "pgbastion.bench", "api", url, *numbers, *options]
    asker = subprocess.Popen(
        [*lab.network.command(CLIENT), *_ASKER_FIRST, sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(LEAD_IN_S)
        with FAULTS[asked.fault].inject(lab, old):
            out, _ = asker.communicate(timeout=asked.for_s + _END_S)
    finally:
        asker.kill()
        asker.wait()
    if asker.returncode:
        raise LabError(f"the checks were not asked to the end: {out}")
    lab.wait_steady()
    return [json.loads(line) for line in out.splitlines()]


@contextmanager
def _sessions(lab: Lab, node: str, count: int) -> Iterator[None]:
    """Hold so many sessions with the primary through the node's proxy."""
    holder = subprocess.Popen(
        [
            *lab.network.command(CLIENT),
            *(sys.executable, "-m", _api_sessions.__name__),
            *(lab.node(node).address, str(PRIMARY_PORT), USER, str(count)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, PASSWORD_VARIABLE: lab.password},
    )
    assert holder.stdout is not None, "a pipe was asked for"
    assert holder.stdin is not None, "a pipe was asked for"
    try:
        if holder.stdout.readline().strip() != _api_sessions.READY:
            raise LabError(f"{count} sessions could not be opened")
        within_s = waits.STEADY_S + count * _OPEN_ONE_S
        waits.wait_for("the sessions", lambda: _carried(lab, node) >= count, within_s)
        yield
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stdin.close()


def _carried(lab: Lab, node: str) -> int:
    answer = lab.node(node).get("/connections")
    return int(answer["connections"]) if answer is not None else 0
