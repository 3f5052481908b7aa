"""How the laboratory ends the servers of a node."""

import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pgbastion.bench.lab.node import Node

# Holds shared memory until it ends by itself.
SERVER = "trap 'rm memory; exit' QUIT; touch memory; while :; do sleep 0.05; done"
BEGUN_S = 10.0


def node_with_server(folder: Path) -> tuple[Node, "subprocess.Popen[bytes]"]:
    network: Any = SimpleNamespace(
        addresses={"n1": "127.0.0.1"}, processes=lambda _name: []
    )
    node = Node("n1", network, folder, "secret", {})
    node.data_dir.mkdir(parents=True)
    # Whoever runs the tests in the background has them ignore it, and a shell that was
    # begun so cannot do otherwise.
    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    try:
        server = subprocess.Popen(["/bin/sh", "-c", SERVER], cwd=node.data_dir)
    finally:
        signal.signal(signal.SIGQUIT, before)
    (node.data_dir / "postmaster.pid").write_text(f"{server.pid}\n")
    end = time.monotonic() + BEGUN_S
    while not (node.data_dir / "memory").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    return node, server


def test_a_server_gives_its_memory_back_before_the_node_is_killed(
    tmp_path: Path,
) -> None:
    node, server = node_with_server(tmp_path)

    node.end()

    assert server.wait() == 0
    assert not (node.data_dir / "memory").exists()


def test_a_frozen_server_is_killed(tmp_path: Path) -> None:
    node, server = node_with_server(tmp_path)
    server.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)

    node.end()

    assert server.wait() == -signal.SIGKILL
    assert (node.data_dir / "memory").exists()
