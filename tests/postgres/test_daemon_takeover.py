"""The founder's directory holds a PostgreSQL already: it is taken over as it is."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import POSTGRES_PORT, PRIMARY_PORT, Plan
from pgbastion.bench.lab.waits import DAEMON_STOP_S, wait_for
from support.lab_faults import KEPT_LOGS
from support.stranger import THEIR_RULE, Stranger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

PRIMARY_S = 20.0
TAKEN_OVER = Path(__file__).parents[1] / "scenarios" / "explanations" / "taken_over.txt"


@pytest.fixture
def lab() -> Iterator[Lab]:
    plan = Plan(postgres_nodes=1, profile="fast", namespaces=False)
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as one:
            yield one
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


@pytest.fixture
def stranger(lab: Lab) -> Stranger:
    made = Stranger(lab, lab.node("n1"))
    made.make()
    return made


def serves(node: Node) -> bool:
    assert not node.has_failed(), node.log.read_text()[-2_000:]
    answer = node.get("/cluster")
    return answer is not None and answer["primary"] == node.name


def value(node: Node, sql: str, port: int = PRIMARY_PORT) -> object:
    with node.connect(port) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def command(name: str, node: Node) -> str:
    """Return what a command says about the node."""
    program = Path(sys.executable).with_name("pgbastion")
    done = subprocess.run(
        [program, name, "--config", node.config],
        env={**os.environ, "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=PRIMARY_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def reported(node: Node) -> dict[str, object]:
    """Return what the node's API says of the node as a member; empty: nothing."""
    answer = node.get("/cluster") or {"members": []}
    return next((m for m in answer["members"] if m["name"] == node.name), {})


def waits_for_a_restart(node: Node) -> bool:
    said = reported(node)
    return bool(said.get("taken_over")) and "wal_log_hints" in str(
        said.get("pending_restart_settings")
    )


def is_guarded(node: Node) -> bool:
    said = reported(node)
    return bool(said) and not said.get("taken_over")


def refusal(node: Node) -> str:
    """Start the daemon, which refuses, and return what it said."""
    node.start()
    wait_for("the daemon's end", lambda: node.exit_code() is not None, DAEMON_STOP_S)
    assert node.exit_code() not in (0, None)
    return node.log.read_text()


def test_a_stopped_server_begins_the_first_epoch(lab: Lab, stranger: Stranger) -> None:
    node = lab.node("n1")
    stranger.start()
    with node.connect() as connection:
        connection.execute("CREATE TABLE theirs AS SELECT 1 AS one")
    stranger.stop()
    node.start()
    wait_for("a primary", lambda: serves(node), PRIMARY_S)

    assert value(node, "SELECT one FROM theirs") == 1
    assert value(node, "SHOW work_mem") == "7MB"
    assert value(node, "SHOW max_connections") == "130"
    roles = "SELECT count(*) FROM pg_roles WHERE rolname IN ('replicator', 'rewinder')"
    assert value(node, roles) == 2
    rules = (stranger.data / "pg_hba.conf").read_text()
    assert 0 < rules.index("# pgbastion: end") < rules.index(THEIR_RULE)
    assert node.get("/health")["timeline"] == 2


def test_a_running_primary_goes_on_as_the_first(lab: Lab, stranger: Stranger) -> None:
    """LEASE.md, section 7: nothing is stopped, the guard is armed."""
    node = lab.node("n1")
    stranger.start()
    before = node.postmaster()
    assert before is not None
    node.start()
    wait_for("a primary", lambda: serves(node), PRIMARY_S)

    assert node.postmaster() == before
    assert node.get("/health")["timeline"] == 1
    assert node.get("/health")["lease_left_ms"] > 0
    with node.connect(PRIMARY_PORT) as connection:
        connection.execute("CREATE TABLE ours AS SELECT 2 AS two")
    assert "wal_log_hints" in node.log.read_text()
    wait_for("its own word on it", lambda: waits_for_a_restart(node), PRIMARY_S)
    said = command("status", node)
    assert "wait for a restart: " in said
    assert "wal_log_hints" in said
    assert "was found running" in said
    assert "found running and taken over" in command("check", node)
    # As the golden explanation has it, which a simulated cluster is given the fact for.
    golden = TAKEN_OVER.read_text(encoding="utf-8").splitlines()
    explained = command("explain", node).splitlines()
    assert explained[0].partition(";")[0] == golden[0].partition(";")[0]
    assert explained[0].partition("Next: ")[2] == golden[0].partition("Next: ")[2]
    assert golden[-1] in explained

    # Its first restart is in place; from then on the guard is its parent.
    os.kill(before.pid, signal.SIGKILL)
    wait_for("a new postmaster", lambda: node.postmaster() not in (before, None), 20)
    wait_for("a primary again", lambda: node.query("SELECT 1"), PRIMARY_S)
    wait_for("its proxy", lambda: serves(node), PRIMARY_S)
    wait_for("the guard's child", lambda: is_guarded(node), PRIMARY_S)
    assert value(node, "SELECT two FROM ours") == 2
    assert "found running" not in command("check", node) + command("status", node)
    assert node.stop() == 0


def test_the_guard_ends_an_adopted_server_whose_lease_ran_out(
    lab: Lab, stranger: Stranger
) -> None:
    node = lab.node("n1")
    stranger.start()
    node.start()
    wait_for("a primary", lambda: serves(node), PRIMARY_S)
    daemon = node.daemon()
    assert daemon is not None

    os.kill(daemon.pid, signal.SIGKILL)

    wait_for("the guard's kill", lambda: node.postmaster() is None, PRIMARY_S)


def test_a_standbys_directory_is_refused(lab: Lab, stranger: Stranger) -> None:
    node = lab.node("n1")
    (stranger.data / "standby.signal").touch()
    before = sorted(p.name for p in stranger.data.iterdir())

    said = refusal(node)

    assert "it is a standby" in said
    assert sorted(p.name for p in stranger.data.iterdir()) == before


def test_another_password_is_named(lab: Lab, stranger: Stranger) -> None:
    node = lab.node("n1")
    passwords = lab.directory / "passwords"
    passwords.write_text("postgres:another password\n")

    said = refusal(node)

    assert "role postgres: its password is not the one in password_file" in said
    assert not (stranger.data / "pgbastion.cluster").exists()


def test_only_the_founder_takes_anything_over(lab: Lab, stranger: Stranger) -> None:
    node = lab.node("n1")
    text = node.config.read_text()
    node.config.write_text(text.replace("bootstrap: true", "bootstrap: false"))

    said = refusal(node)

    assert f"{stranger.data} holds a PostgreSQL that is not of this cluster" in said


def test_a_server_that_was_started_beside_the_guard_is_fenced(
    lab: Lab, stranger: Stranger
) -> None:
    """LEASE.md, section 7: no lease that can be proven, so fence first."""
    node = lab.node("n1")
    node.start()
    wait_for("a primary", lambda: serves(node), PRIMARY_S)
    assert node.stop() == 0
    stranger.start()
    beside = node.postmaster()
    assert beside is not None

    node.start()
    wait_for("a primary again", lambda: serves(node), PRIMARY_S)

    assert node.postmaster() not in (beside, None)
    assert "unguarded_server_fenced" in node.log.read_text()


def test_a_port_that_somebody_else_has_is_named(lab: Lab, stranger: Stranger) -> None:
    node = lab.node("n1")
    with socket.create_server((node.address, POSTGRES_PORT)):
        said = refusal(node)

    assert f"PostgreSQL cannot listen on {node.address}:{POSTGRES_PORT}" in said
    assert not (stranger.data / "pgbastion.cluster").exists()
