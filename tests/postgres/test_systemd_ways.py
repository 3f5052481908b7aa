"""The shipped drop-ins under a real systemd: a witness, and everything as one user."""

import os
import signal
from pathlib import Path

import pytest

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.servers import os_user
from pgbastion.bench.lab.settings import Plan
from pgbastion.cli.unit import AMBIENT, render_one_user, render_witness
from pgbastion.platform.linux import NICE_FIRST
from support.lab_faults import KEPT_LOGS
from support.systemd import UNIT, Systemd, has_systemd

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
    pytest.mark.skipif(not has_systemd(), reason="not run: there is no systemd"),
]

READY_S = 90.0
# linux/capability.h
NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_BPF": 39}
CHMOD_OWN = 0o600


def rights_of(process: processes.Process) -> tuple[int, int, int]:
    """Return who a process runs as, and what it may: effective, bounding set."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    status = dict(line.split(":", 1) for line in text.splitlines())
    return (
        int(status["Uid"].split()[0]),
        int(status["CapEff"], 16),
        int(status["CapBnd"], 16),
    )


def nice_of(process: processes.Process) -> int:
    return os.getpriority(os.PRIO_PROCESS, process.pid)


def may_go_first(process: processes.Process) -> bool:
    """Tell whether the unit's limit is in force: a container's systemd may not."""
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    line = next(line for line in limits if line.startswith("Max nice priority"))
    return int(line.split()[3]) >= 20 - NICE_FIRST


def give(systemd: Systemd, user: str) -> int:
    """Give the node's files, and copies of its secrets, to the user; return its uid."""
    lab, node = systemd.lab, systemd.node
    text = node.config.read_text()
    for name in ("secret", "token", "passwords"):
        own = node.directory / name
        own.write_bytes((lab.directory / name).read_bytes())
        own.chmod(CHMOD_OWN)
        text = text.replace(f"{lab.directory / name}\n", f"{own}\n")
    node.config.write_text(text)
    done = systemd.run("chown", "-R", f"{user}:", str(node.directory))
    assert done.returncode == 0, done.stderr
    return node.directory.stat().st_uid


def test_a_witness_runs_as_its_user_with_no_privilege() -> None:
    try:
        with Lab(
            Plan(postgres_nodes=1, witnesses=1, namespaces=False),
            keep_logs_in=KEPT_LOGS,
        ) as lab:
            lab.node("n1").start()
            witness = Systemd(lab, lab.node("n2"), drop_in=render_witness())
            with witness.running() as systemd:
                # As the drop-in says.
                shell = ("--shell", "/usr/sbin/nologin")
                made = systemd.run(
                    "useradd", "--system", "--no-create-home", *shell, "pgbastion"
                )
                assert made.returncode == 0, made.stderr
                uid = give(systemd, "pgbastion")

                systemd.done("start", UNIT)

                lab.wait_steady(READY_S)
                daemon = systemd.daemon()
                assert daemon is not None
                assert rights_of(daemon) == (uid, 0, 0)
                assert not may_go_first(daemon) or nice_of(daemon) == NICE_FIRST
                assert (systemd.node.get("/health") or {})["role"] == "witness"
                systemd.done("stop", UNIT)
                assert systemd.show("Result") == "success"
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def test_daemon_guard_and_postgresql_run_as_one_user() -> None:
    ambient = sum(1 << NUMBERS[name] for name in AMBIENT)
    try:
        with Lab(
            Plan(postgres_nodes=1, profile="wide", namespaces=False),
            keep_logs_in=KEPT_LOGS,
        ) as lab:
            node = lab.node("n1")
            with Systemd(lab, node, drop_in=render_one_user(os_user())).running() as it:
                uid = give(it, os_user())

                it.done("start", UNIT)

                lab.wait_steady(READY_S)
                daemon, guard, server = it.daemon(), node.guard(), node.postmaster()
                assert daemon is not None
                assert guard is not None
                assert server is not None
                assert rights_of(daemon) == (uid, ambient, ambient)
                assert rights_of(guard)[0] == uid
                assert rights_of(server)[:2] == (uid, 0)
                assert not may_go_first(server)
                if may_go_first(daemon):
                    assert nice_of(daemon) == nice_of(guard) == NICE_FIRST
                    assert nice_of(server) == 0

                it.done(
                    "kill", "--kill-who=main", f"--signal={signal.SIGUSR2.name}", UNIT
                )
                waits.wait_for(
                    "another daemon", lambda: it.daemon() not in (None, daemon), READY_S
                )
                lab.wait_steady(READY_S)
                assert node.postmaster() == server

                it.done("stop", UNIT)
                assert node.postgres() == []
                assert it.show("Result") == "success"
    except CannotRun as why:
        pytest.skip(f"not run: {why}")
