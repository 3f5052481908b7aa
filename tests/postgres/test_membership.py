"""Nodes come and go in a cluster of real daemons: every change is one command."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.waits import wait_for
from pgbastion.cli.exits import Exit
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

COMMAND_S = 60.0
JOINED_S = 30.0
END_S = 20.0
READY_S = 60.0
PROGRAM = Path(sys.executable).with_name("pgbastion")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Give three nodes with PostgreSQL; the witnesses n4, n5 and n6 are not started."""
    plan = Plan(postgres_nodes=3, witnesses=3, profile="normal", namespaces=False)
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as one:
            for name in ("n1", "n2", "n3"):
                one.node(name).start()
            yield one
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


@pytest.fixture(autouse=True)
def _as_before(lab: Lab) -> None:
    """Bring back who was removed by an earlier test; witnesses have left by then."""
    for node in lab.servers():
        if node.daemon() is None:
            shutil.rmtree(node.directory / "raft")
            node.start()
    wait_for("three voters", lambda: voters(lab) == 3, READY_S)
    wait_for("two standbys", lambda: standbys(lab) == 2, READY_S)


def peers(lab: Lab) -> dict[str, dict[str, Any]]:
    """Return the members as the first node that answers knows them."""
    for node in lab.nodes.values():
        answer = node.get("/raft/peers")
        if answer is not None:
            return {peer["id"]: peer for peer in answer["peers"]}
    return {}


def voters(lab: Lab) -> int:
    return sum(peer["suffrage"] == "voter" for peer in peers(lab).values())


def standbys(lab: Lab) -> int:
    primary = lab.reported_primary()
    return len(lab.streaming(primary)) if primary is not None else 0


def command(node: Node, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with a node's configuration."""
    return subprocess.run(
        [PROGRAM, *words, "--config", node.config],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


def removed(lab: Lab, node: Node) -> str:
    """Take a node out from another one; its daemon has to end by itself."""
    other = next(n for n in lab.nodes.values() if n is not node and n.daemon())
    done = command(other, "remove-node", "--name", node.name, "--yes")
    assert done.returncode == 0, done.stderr
    wait_for(f"the end of {node.name}", lambda: node.exit_code() is not None, END_S)
    assert node.exit_code() == Exit.REMOVED
    assert "was removed from its cluster" in node.log.read_text()
    assert not node.processes()
    assert node.name not in peers(lab)
    return done.stdout


def test_from_three_to_six_and_back(lab: Lab) -> None:
    """Beyond five voters a node follows without a vote, until one leaves."""
    for number in (4, 5, 6):
        lab.node(f"n{number}").start()
    wait_for("five voters", lambda: voters(lab) == 5, JOINED_S)
    wait_for("a sixth node", lambda: len(peers(lab)) == 6, JOINED_S)
    learner = next(n for n, p in peers(lab).items() if p["suffrage"] == "learner")
    said = command(lab.node("n1"), "status").stdout
    assert "votes: 1 without a vote: no more than 5 vote" in said

    gone = next(name for name in ("n4", "n5", "n6") if name != learner)
    removed(lab, lab.node(gone))

    wait_for("the sixth to vote", lambda: voters(lab) == 5, JOINED_S)
    assert peers(lab)[learner]["suffrage"] == "voter"
    for name in {"n4", "n5", "n6"} - {gone}:
        removed(lab, lab.node(name))
    assert voters(lab) == 3
    assert "votes:" not in command(lab.node("n1"), "status").stdout


def test_a_standby_s_slot_and_access_go_with_it(lab: Lab) -> None:
    primary = lab.node(lab.primary())
    node = next(n for n in lab.servers() if n is not primary)

    removed(lab, node)

    def forgotten() -> bool:
        slots = primary.query("SELECT slot_name FROM pg_replication_slots")
        lines = primary.query("SELECT address FROM pg_hba_file_rules")
        assert slots is not None
        assert lines is not None
        named = any(node.name in slot for (slot,) in slots)
        return not named and (node.address,) not in lines

    wait_for("its slot and its lines to go", forgotten, JOINED_S)
    said = command(primary, "status").stdout
    assert "votes: 2 voters stand the loss of none" in said

    # Started again as it is, it is told that it has left, and ends.
    node.start()
    wait_for("its end", lambda: node.exit_code() is not None, END_S)
    assert node.exit_code() == Exit.REMOVED
    assert node.name not in peers(lab)


def test_what_must_not_be_is_refused_and_says_why(lab: Lab) -> None:
    primary = lab.node(lab.primary())
    dead, alive = (n for n in lab.servers() if n is not primary)

    unknown = command(alive, "remove-node", "--name", "n9", "--yes")
    assert unknown.returncode == Exit.NO
    assert "no member n9; the members are" in unknown.stderr

    dead.kill()
    wait_for("silence", lambda: is_silent(primary, dead), END_S)
    costly = command(primary, "remove-node", "--name", alive.name, "--yes")
    assert costly.returncode == Exit.NO
    assert "are no majority" in costly.stderr
    assert voters(lab) == 3


def is_silent(asked: Node, node: Node) -> bool:
    answer = asked.get("/cluster")
    states = {m["name"]: m["state"] for m in answer["members"]} if answer else {}
    return states.get(node.name) == "unknown"


def test_a_wiped_node_comes_back_with_another_id(lab: Lab) -> None:
    """RAFT.md, rule 6: nobody says a word, and the old id is gone for ever."""
    primary = lab.node(lab.primary())
    node = next(n for n in lab.servers() if n is not primary)
    old_id = peers(lab)[node.name]["member_id"]
    node.kill()
    shutil.rmtree(node.directory / "raft")
    shutil.rmtree(node.data_dir)

    node.start()

    def new_voter() -> bool:
        found = peers(lab).get(node.name, {})
        return found.get("suffrage") == "voter" and found["member_id"] > old_id

    wait_for("a vote for its new id", new_voter, JOINED_S)
    wait_for("its copy to stream", lambda: standbys(lab) == 2, READY_S)
    state = primary.get("/raft/state")
    assert len(state["voters"]) == 3
    assert old_id not in [*state["voters"], *state["learners"]]


def test_the_primary_and_raft_leader_is_removed_by_one_command(lab: Lab) -> None:
    primary = lab.node(lab.primary())
    assert primary.get("/raft/state")["role"] == "leader"
    wait_for("a standby that may take over", lambda: may_hand_over(primary), READY_S)

    said = removed(lab, primary)

    assert "is the primary; " in said
    wait_for("the other standby", lambda: standbys(lab) == 1, READY_S)
    assert lab.primary() != primary.name
    wait_for("a leader", lambda: leader(lab) not in (None, primary.name), JOINED_S)


def may_hand_over(primary: Node) -> bool:
    """Tell whether a standby is known to have every commit."""
    return command(primary, "switchover", "--dry-run").returncode == 0


def leader(lab: Lab) -> str | None:
    return next((n for n, peer in peers(lab).items() if peer["leader"]), None)
