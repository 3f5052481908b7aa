"""The worst days, step by step as OPERATIONS.md has them, with real nodes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import PRIMARY_PORT, Plan
from pgbastion.bench.lab.waits import wait_for
from pgbastion.cli.exits import Exit
from support.lab_faults import KEPT_LOGS

COMMAND_S = 60.0
END_S = 30.0
READY_S = 60.0
FULL = bool(os.environ.get("PGBASTION_TEST_FULL"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480 if FULL else 240)]

PROGRAM = Path(sys.executable).with_name("pgbastion")


@pytest.fixture
def lab() -> Iterator[Lab]:
    plan = Plan(postgres_nodes=3, profile="normal", namespaces=False)
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as one:
            one.start()
            yield one
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def command(node: Node, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PROGRAM, *words, "--config", node.config],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


def done(node: Node, *words: str) -> str:
    """Run a command that has to succeed, and return what it says."""
    ran = command(node, *words)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def write(node: Node, number: int) -> None:
    """Write a row through the proxy of a node, which has to acknowledge it."""
    with node.connect(PRIMARY_PORT) as connection:
        connection.execute("INSERT INTO kept VALUES (%s)", (number,))


def rows(node: Node) -> list[int] | None:
    found = node.query("SELECT number FROM kept ORDER BY number")
    return None if found is None else [number for (number,) in found]


def is_whole(lab: Lab) -> bool:
    primary = lab.reported_primary()
    state = lab.node(primary).get("/raft/state") if primary is not None else None
    if primary is None or state is None:
        return False
    return len(lab.streaming(primary)) == 2 and len(state["voters"]) == 3


def put_out(node: Node) -> None:
    """Move the Raft directory of a node away, as the steps say."""
    raft = node.directory / "raft"
    raft.rename(raft.with_name("raft.old"))


def decided(node: Node) -> str:
    """Return the reason of what the node decided last for the cluster."""
    state = node.get("/cluster/state")
    return str(state["cluster_decision"]["reason"]) if state else ""


def test_one_survivor_and_then_a_backup_of_state(lab: Lab) -> None:
    """Loss of the majority; then loss of every Raft directory."""
    first = lab.node(lab.primary())
    with first.connect() as connection:
        connection.execute("CREATE TABLE kept (number int PRIMARY KEY)")
    backup = lab.directory / "state.json"
    done(first, "raft", "backup", str(backup))
    write(first, 1)
    survivor, other = (n for n in lab.servers() if n is not first)

    # A majority answers: nothing has to be recovered.
    survivor.kill()
    refused = command(survivor, "raft", "recover", "--yes")
    assert refused.returncode == Exit.NO
    assert "they are a majority" in refused.stderr
    write(first, 2)

    try:
        lose_the_majority(lab, survivor, first, other)
        if FULL:
            lose_every_log(lab, backup)
            lose_the_backup_too(lab)
    except BaseException:
        # Not the fixture's own failure, which would keep them by itself.
        lab.keep_logs()
        raise


def lose_the_majority(lab: Lab, survivor: Node, first: Node, other: Node) -> None:
    for node in (first, other):
        node.kill()
    # Without --yes nobody can be asked here, and nothing changes.
    unasked = command(survivor, "raft", "recover")
    assert unasked.returncode == Exit.USAGE
    assert "put out of the cluster for ever" in unasked.stdout
    assert "nothing was changed" in done(survivor, "raft", "recover", "--dry-run")
    assert not list((survivor.directory / "raft").glob("before-recovery-*"))
    said = done(survivor, "raft", "recover", "--yes")
    assert "the only one of cluster lab" in said
    assert list((survivor.directory / "raft").glob("before-recovery-*/*.log"))
    assert "voters" in done(survivor, "raft", "verify")

    survivor.start()
    wait_for(
        "a survivor that cannot prove anything",
        lambda: decided(survivor) == "commits_may_be_missing",
        READY_S,
    )
    # An old voter as it was is told that it is put out, and ends.
    other.start()
    wait_for("its end", lambda: other.exit_code() is not None, END_S)
    assert other.exit_code() == Exit.REMOVED
    put_out(other)
    other.start()
    wait_for("both to follow", lambda: len(members(survivor)) == 2, READY_S)
    assert survivor.get("/cluster")["primary"] is None

    # It was streaming from the old primary to the end: it has everything.
    chosen = other
    wait_for("its answer", lambda: surveyed(survivor, chosen), READY_S)
    choose(survivor, chosen)
    wait_for("its rows", lambda: rows(chosen) == [1, 2], 20)
    put_out(first)
    first.start()
    wait_for("all three", lambda: is_whole(lab), READY_S)
    write(first, 3)


def members(node: Node) -> list[str]:
    answer = node.get("/cluster")
    return [m["name"] for m in answer["members"]] if answer else []


def surveyed(asked: Node, node: Node) -> bool:
    """Tell whether a person can read how far a node's data is."""
    state = asked.get("/cluster/state")
    return bool(state) and f"{node.name}: " in state["cluster_decision"]["detail"]


def choose(asked: Node, node: Node) -> None:
    """Have a node promoted; one that is still starting is refused for a moment."""
    order = ("failover", "--to", node.name, "--force", "--yes")
    wait_for(
        "the order", lambda: command(asked, *order).returncode == 0, READY_S, every_s=1
    )


def lose_every_log(lab: Lab, backup: Path) -> None:
    """Restore the whole cluster from a state that is older than the last failover."""
    alive = lab.servers()[0]
    refused = command(alive, "raft", "restore", str(backup), "--yes")
    assert refused.returncode == Exit.CONFIG
    assert "is not empty" in refused.stderr
    last = begin_again(lab, "restore", str(backup))
    wait_for("all members", lambda: len(members(last)) == 3, READY_S)
    wait_for("its answer", lambda: surveyed(last, last), READY_S)
    assert last.get("/cluster")["primary"] is None
    choose(last, last)
    is_whole_and_takes(lab, last, 4)


def lose_the_backup_too(lab: Lab) -> None:
    """Begin again from a data directory alone: its node is the primary at once."""
    last = begin_again(lab, "recover")
    is_whole_and_takes(lab, last, 5)
    assert lab.primary() == last.name


def begin_again(lab: Lab, *words: str) -> Node:
    """Lose every log, run the command on the last primary, and start all nodes."""
    last = lab.node(lab.primary())
    for node in lab.servers():
        node.kill()
        shutil.rmtree(node.directory / "raft")

    said = done(last, "raft", *words, "--yes")
    assert "the only one of cluster lab" in said
    for node in (last, *(n for n in lab.servers() if n is not last)):
        node.start()
    return last


def is_whole_and_takes(lab: Lab, last: Node, number: int) -> None:
    """Wait for all nodes and write one row more, which all of them get."""
    wait_for("all three", lambda: is_whole(lab), READY_S)
    write(last, number)
    for node in lab.servers():
        wait_for(f"all rows on {node.name}", partial(has_all, node, number), END_S)
    with pytest.raises(psycopg.errors.UniqueViolation):
        write(last, number)


def has_all(node: Node, last: int) -> bool:
    return rows(node) == list(range(1, last + 1))
