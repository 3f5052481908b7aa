"""The shipped unit under a real systemd: PROCESS.md's table of what ends what."""

import os
import signal
from collections.abc import Iterator

import pytest

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.settings import Plan
from support.lab_clients import post
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
SOON_S = 30.0
# WatchdogSec, and the start of another daemon.
WATCHDOG_S = 30.0 + 30.0


@pytest.fixture(scope="module")
def systemd() -> Iterator[Systemd]:
    # A lease that outlasts any start of a daemon: what ends PostgreSQL is no lease.
    plan = Plan(postgres_nodes=1, profile="wide", namespaces=False)
    try:
        with (
            Lab(plan, keep_logs_in=KEPT_LOGS) as lab,
            Systemd(lab, lab.node("n1")).running() as made,
        ):
            yield made
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


@pytest.fixture(autouse=True)
def started(systemd: Systemd) -> None:
    systemd.done("start", UNIT)
    is_primary(systemd)


def is_primary(systemd: Systemd) -> None:
    waits.wait_for(
        "a primary",
        lambda: (systemd.node.get("/cluster") or {}).get("primary") == "n1",
        READY_S,
    )


def is_another(systemd: Systemd, former: processes.Process, within_s: float) -> None:
    """Wait until another daemon is ready in the former one's place."""

    def ready() -> bool:
        now = systemd.daemon()
        active = systemd.show("ActiveState") == "active"
        return now not in (None, former) and active

    waits.wait_for("another daemon", ready, within_s)
    assert not processes.is_alive(former)
    is_primary(systemd)


def running(systemd: Systemd) -> tuple[processes.Process, processes.Process]:
    daemon, server = systemd.daemon(), systemd.node.postmaster()
    assert daemon is not None
    assert server is not None
    return daemon, server


def test_the_unit_is_starting_until_there_is_a_primary(systemd: Systemd) -> None:
    systemd.done("stop", UNIT)
    systemd.done("start", "--no-block", UNIT)
    seen = []

    def active() -> bool:
        # In this order: what is served was so before systemd was asked.
        serves = (systemd.node.get("/cluster") or {}).get("primary") == "n1"
        seen.append((systemd.show("ActiveState"), serves))
        return seen[-1][0] == "active"

    waits.wait_for("an active unit", active, READY_S, every_s=0.05)
    assert ("activating", False) in seen
    is_primary(systemd)
    assert systemd.show("NRestarts") == "0"


def test_a_reload_takes_a_changed_file_and_refuses_a_broken_one(
    systemd: Systemd,
) -> None:
    node, (daemon, server) = systemd.node, running(systemd)
    text = node.config.read_text()
    try:
        node.config.write_text(text + "log: {level: debug}\n")
        systemd.done("reload", UNIT)
        waits.wait_for(
            "the change",
            lambda: "applied: log.level" in node.log.read_text(),
            SOON_S,
        )
        node.config.write_text(text + "nonsense: 1\n")
        assert systemd.control("reload", UNIT).returncode != 0
    finally:
        node.config.write_text(text)
        systemd.done("reload", UNIT)
    assert running(systemd) == (daemon, server)
    assert systemd.show("ActiveState") == "active"


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGKILL])
def test_a_daemon_that_is_replaced_leaves_postgresql_running(
    systemd: Systemd, number: signal.Signals
) -> None:
    daemon, server = running(systemd)

    systemd.done("kill", "--kill-who=main", f"--signal={number.name}", UNIT)

    is_another(systemd, daemon, SOON_S)
    assert systemd.node.postmaster() == server


def test_a_daemon_that_hangs_is_replaced_by_the_watchdog(systemd: Systemd) -> None:
    """Stopped, it neither ends by itself nor hears a signal that a handler would."""
    daemon, _ = running(systemd)
    restarts = int(systemd.show("NRestarts"))
    processes.send(daemon, signal.SIGSTOP)

    is_another(systemd, daemon, WATCHDOG_S)
    assert int(systemd.show("NRestarts")) == restarts + 1


def test_a_stop_stops_postgresql(systemd: Systemd) -> None:
    daemon, server = running(systemd)

    systemd.done("stop", UNIT)

    assert not processes.is_alive(daemon)
    assert not processes.is_alive(server)
    assert systemd.node.postgres() == []
    assert (systemd.show("ActiveState"), systemd.show("Result")) == (
        "inactive",
        "success",
    )


def test_a_stop_under_pause_leaves_postgresql_to_the_next_daemon(
    systemd: Systemd,
) -> None:
    daemon, server = running(systemd)
    post(systemd.lab, systemd.node, "/cluster/pause")
    try:
        systemd.done("stop", UNIT)
        assert not processes.is_alive(daemon)
        assert systemd.node.postmaster() == server
        systemd.done("start", UNIT)
        is_primary(systemd)
        assert systemd.node.postmaster() == server
    finally:
        post(systemd.lab, systemd.node, "/cluster/resume")


def test_a_file_that_cannot_be_used_is_not_tried_again(systemd: Systemd) -> None:
    node = systemd.node
    text = node.config.read_text()
    systemd.done("stop", UNIT)
    node.config.write_text("nonsense: 1\n")
    try:
        assert systemd.control("start", UNIT).returncode != 0
        assert systemd.show("ExecMainStatus") == "78"
        assert systemd.show("ActiveState") == "failed"
    finally:
        node.config.write_text(text)
        systemd.done("reset-failed", UNIT)


def test_listening_sockets_are_kept_while_the_daemon_is_replaced(
    systemd: Systemd,
) -> None:
    """Clients that come meanwhile wait in the kernel's queue."""
    daemon, _ = running(systemd)
    assert int(systemd.show("NFileDescriptorStore")) > 0

    systemd.done("kill", "--kill-who=main", "--signal=USR2", UNIT)

    is_another(systemd, daemon, SOON_S)
    assert int(systemd.show("NFileDescriptorStore")) > 0
