"""What `pgbastion init` asks a person, and that nodes start from what it wrote."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.waits import CLUSTER_READY_S, wait_for
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(150)]

PROGRAM = str(Path(sys.executable).with_name("pgbastion"))
ANSWER_S = 30.0


def dialogue(arguments: Sequence[str], answers: Sequence[tuple[str, str]]) -> str:
    """Run the program on a terminal, answer each question, return all it said."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, close_fds=True
    ) as process:
        os.close(slave)
        try:
            said = ""
            for question, answer in answers:
                said += read_until(master, question)
                os.write(master, f"{answer}\n".encode())
            said += read_until(master, None)
            assert process.wait(ANSWER_S) == 0, said
        finally:
            process.kill()
            os.close(master)
    return said


def read_until(terminal: int, words: str | None) -> str:
    """Return what comes up to ``words``; None: up to the end."""
    said = ""
    deadline = time.monotonic() + ANSWER_S
    while words is None or f"{words} [" not in said:
        left = deadline - time.monotonic()
        assert left > 0, f"{words!r} was not asked:\n{said}"
        if not select.select([terminal], [], [], left)[0]:
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:  # EIO: nobody has the other end any more
            part = b""
        if not part:
            assert words is None, f"{words!r} was not asked:\n{said}"
            return said
        said += part.decode()
    return said


def initialise(lab: Lab, node: Node, *, first: bool) -> str:
    place = lab.directory / node.name
    peers = ", ".join(each.address for each in lab.nodes.values())
    return dialogue(
        [
            "init",
            f"--config={node.config}",
            f"--raft-dir={place}/raft",
            f"--secret-file={lab.directory}/init-secret",
            f"--unit-dir={lab.directory}",
        ],
        [
            ("Name of this node?", node.name),
            ("Its IP address, for the other nodes?", node.address),
            ("Addresses of all nodes, with commas between?", peers),
            ("Is it the cluster's first node (yes, no)?", "yes" if first else "no"),
            ("Data directory of PostgreSQL?", f"{place}/pg"),
        ],
    )


@contextmanager
def initialised() -> Iterator[tuple[Lab, dict[str, str]]]:
    plan = Plan(postgres_nodes=2, profile="normal")
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            said = {}
            for node in lab.nodes.values():
                node.config.unlink(missing_ok=True)
                said[node.name] = initialise(lab, node, first=node.name == "n1")
            for node in lab.nodes.values():
                node.start()
            yield lab, said
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def test_nodes_start_from_what_was_asked_for_on_a_terminal() -> None:
    with initialised() as (lab, said):

        def members() -> dict[str, Any] | None:
            answer: dict[str, Any] = lab.nodes["n1"].get("/cluster") or {}
            states = {m["name"]: m["state"] for m in answer.get("members", [])}
            return states if states == {"n1": "running", "n2": "streaming"} else None

        wait_for("a primary and its standby", members, CLUSTER_READY_S)
        unit = (lab.directory / "pgbastion.service").read_text()

    assert "copy" in said["n1"]
    assert "mode 0600, then " in said["n2"]
    assert f"ExecStart={PROGRAM} start" in unit
