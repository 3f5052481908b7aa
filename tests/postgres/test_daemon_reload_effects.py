"""Tags, callbacks and keys of failovers, changed one by one in a running cluster."""

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.waits import wait_for
from support.lab_clients import post
from support.lab_faults import KEPT_LOGS, a_standby

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # Each key waits for what it does to a cluster: too long for every run.
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
]

SOON_S = 30.0
# As long as nobody changes these, no case would end within its time.
PATIENT = {"fence_timeout": "10m", "stop_timeout": "10m"}
MEGABYTE = b"x" * (1 << 20)


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    plan = Plan(
        postgres_nodes=2,
        witnesses=1,
        namespaces=False,
        sections={"failover": PATIENT, "callbacks": {"timeout": "10m"}},
    )
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            lab.start()
            yield lab
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


@pytest.fixture
def lab(running: Lab) -> Lab:
    """Give the cluster in which the standby can take the role over."""
    running.wait_steady()
    wait_for("a fit standby", lambda: is_fit(running, a_standby(running)), SOON_S)
    return running


def reload(node: Node) -> None:
    before = node.log.read_text().count('"reloaded"')
    daemon = node.daemon()
    assert daemon is not None
    processes.send(daemon, signal.SIGHUP)
    wait_for(
        "a reload", lambda: node.log.read_text().count('"reloaded"') > before, SOON_S
    )


@contextlib.contextmanager
def changed(node: Node, section: str, **keys: object) -> Iterator[None]:
    """Have a running daemon read other keys for the length of the block."""
    text = node.config.read_text()
    document = YAML().load(text)
    document.setdefault(section, {}).update(keys)
    with node.config.open("w") as file:
        YAML().dump(document, file)
    try:
        reload(node)
        yield
    finally:
        node.config.write_text(text)
        if node.daemon() is not None:
            reload(node)


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP)
    return str(path)


# Tags


def is_fit(lab: Lab, node: Node) -> bool:
    asked = {"to": node.name, "dry_run": True}
    return "error" not in post(lab, node, "/cluster/switchover", asked)


def is_synchronous(lab: Lab, node: Node) -> bool:
    members = lab.node(lab.primary()).get("/cluster")["members"]
    role = next(m["role"] for m in members if m["name"] == node.name)
    return bool(role == "quorum_standby")


def takes_readers(_: Lab, node: Node) -> bool:
    return "error" not in (node.get("/replica") or {"error": ""})


def is_untagged(lab: Lab, node: Node) -> bool:
    """Tell whether the primary's node knows of no tag; its proxy goes by the same."""
    members = lab.node(lab.primary()).get("/cluster")["members"]
    return "tags" not in next(m for m in members if m["name"] == node.name)


@pytest.mark.parametrize(
    ("tag", "value", "holds"),
    [
        ("nofailover", True, is_fit),
        ("failover_priority", 0, is_fit),
        ("nosync", True, is_synchronous),
        ("noloadbalance", True, takes_readers),
        ("replica_weight", 3, is_untagged),
    ],
)
def test_a_tag_counts_after_a_reload(
    lab: Lab, tag: str, value: object, holds: Callable[[Lab, Node], bool]
) -> None:
    standby = a_standby(lab)
    wait_for("it without the tag", lambda: holds(lab, standby), SOON_S)

    with changed(standby, "tags", **{tag: value}):
        wait_for(f"{tag} to count", lambda: not holds(lab, standby), SOON_S)

    wait_for("it without the tag again", lambda: holds(lab, standby), SOON_S)


# Callbacks


@contextlib.contextmanager
def fenced(lab: Lab, node: Node) -> Iterator[None]:
    """Change a standby's role and back."""
    assert "error" not in post(lab, node, "/cluster/fence", {"node": node.name})
    try:
        yield
    finally:
        post(lab, node, "/cluster/unfence", {"node": node.name})


def test_a_callback_is_called_after_a_reload(lab: Lab, tmp_path: Path) -> None:
    standby, called = a_standby(lab), tmp_path / "called"
    program = script(tmp_path / "callback", f'echo "$@" >> {called}')

    with changed(standby, "callbacks", on_role_change=program), fenced(lab, standby):
        wait_for("the call", called.exists, SOON_S)

    assert called.read_text().splitlines()[0] == "on_role_change fenced lab"


def test_a_callback_has_less_time_after_a_reload(lab: Lab, tmp_path: Path) -> None:
    standby = a_standby(lab)
    before = standby.log.read_text().count('"callback_failed"')
    keys = {
        "on_role_change": script(tmp_path / "callback", "exec sleep 600"),
        "timeout": "1s",
    }

    with changed(standby, "callbacks", **keys), fenced(lab, standby):
        wait_for(
            "its end",
            lambda: standby.log.read_text().count('"callback_failed"') > before,
            SOON_S,
        )


# Failovers


def test_a_standby_may_lag_more_after_a_reload(lab: Lab) -> None:
    primary, standby = lab.node(lab.primary()), a_standby(lab)
    receiver = standby.query("SELECT pid FROM pg_stat_wal_receiver")
    assert receiver
    process = processes.find(int(receiver[0][0]))
    assert process is not None

    def would_take_over() -> bool:
        foreseen = primary.get("/cluster/explain")["if_node_died"]
        own = next(f for f in foreseen if f["node"] == primary.name)
        return bool(own["prospect"] == "other_primary")

    post(lab, primary, "/cluster/replication", {"mode": "async"})
    try:
        wait_for("a successor", would_take_over, SOON_S)
        processes.send(process, signal.SIGSTOP)
        with primary.connect() as connection:
            for _ in range(3):
                connection.execute(
                    "SELECT pg_logical_emit_message(false, 'test', %s)", [MEGABYTE]
                )
        wait_for("no successor", lambda: not would_take_over(), SOON_S)
        with changed(primary, "failover", max_lag_threshold="100MiB"):
            wait_for("a successor after all", would_take_over, SOON_S)
    finally:
        processes.send(process, signal.SIGCONT)
        post(lab, primary, "/cluster/replication", {"mode": "quorum"})


def test_a_primary_is_restarted_in_place_after_a_reload(lab: Lab) -> None:
    primary, epoch = lab.node(lab.primary()), lab.epoch()
    server = primary.postmaster()
    assert server is not None

    with changed(primary, "failover", primary_restart_timeout="60s"):
        processes.kill([server])
        wait_for(
            "another server",
            lambda: primary.postmaster() not in (None, server),
            SOON_S,
        )
        lab.wait_steady()
        assert (lab.primary(), lab.epoch()) == (primary.name, epoch)


def test_a_stop_has_less_time_after_a_reload(lab: Lab) -> None:
    standby = a_standby(lab)
    with standby.connect() as connection:
        backend = processes.find(connection.info.backend_pid)
        assert backend is not None
        with changed(standby, "failover", stop_timeout="1s"):
            # A fast stop would wait for it, and so would this one for ten minutes.
            processes.send(backend, signal.SIGSTOP)
            assert standby.stop() == 0
    standby.start()


def test_a_fencing_program_counts_after_a_reload(lab: Lab, tmp_path: Path) -> None:
    primary = lab.node(lab.primary())
    others = [node for node in lab.nodes.values() if node is not primary]
    asked = tmp_path / "asked"
    keys = {
        "fence_command": script(
            tmp_path / "fence", f'echo "$@" >> {asked}; exec sleep 600'
        ),
        "fence_timeout": "1s",
    }
    with contextlib.ExitStack() as stack:
        for node in others:
            stack.enter_context(changed(node, "failover", **keys))
        primary.kill()
        try:
            wait_for("the program", asked.exists, SOON_S)
            wait_for(
                "its end",
                lambda: any('"fence_failed"' in n.log.read_text() for n in others),
                SOON_S,
            )
        finally:
            primary.start()
    assert asked.read_text().splitlines()[0] == f"off {primary.name} {primary.address}"


# PostgreSQL


def test_a_setting_of_the_nodes_own_file_counts_after_a_reload(lab: Lab) -> None:
    node = a_standby(lab)
    keys = {"parameters": {"shared_buffers": "128MB", "work_mem": "9MB"}}

    def work_mem() -> object:
        rows = node.query("SHOW work_mem")
        return rows[0][0] if rows else None

    with changed(node, "postgresql", **keys):
        wait_for("the setting", lambda: work_mem() == "9MB", SOON_S)
    wait_for("the default", lambda: work_mem() == "4MB", SOON_S)


def test_a_line_of_access_counts_after_a_reload(lab: Lab) -> None:
    node = a_standby(lab)
    query = "SELECT 1 FROM pg_hba_file_rules WHERE database = '{nowhere}'"

    with changed(node, "postgresql", hba=["host nowhere all 10.9.9.0/24 reject"]):
        wait_for("the line", lambda: node.query(query), SOON_S)
    wait_for("no such line", lambda: node.query(query) == [], SOON_S)


def test_no_wal_is_kept_for_a_silent_node_after_a_reload(lab: Lab) -> None:
    primary, standby = lab.node(lab.primary()), a_standby(lab)

    def slots() -> object:
        return primary.query("SELECT 1 FROM pg_replication_slots WHERE NOT temporary")

    wait_for("its slot", slots, SOON_S)
    with changed(primary, "postgresql", member_slots_ttl="5s"):
        standby.kill()
        try:
            wait_for("no slot", lambda: slots() == [], SOON_S)
        finally:
            standby.start()
    lab.wait_standby(standby.name)
    wait_for("its slot again", slots, SOON_S)
