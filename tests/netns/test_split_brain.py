"""A second primary, from every side: the primary port closes everywhere, and says so.

Each kind is resolved by the steps of docs/howto/split-brain.md.
"""

import time
from collections.abc import Iterator

import psycopg
import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.injections import cut_from_nodes
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan
from support.lab_clients import ended, post, refusal, sessions, text_of
from support.lab_faults import Clusters, a_standby, started_by_hand

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

CLOSED_S = 2.0
# What the machine may need besides, when it does other work as well.
SLACK_S = 1.0
OPEN_S = 30.0


@pytest.fixture(scope="module")
def three() -> Iterator[Clusters]:
    clusters = Clusters(Plan())
    yield clusters
    clusters.close()


def closed_for_split(lab: Lab, node: Node) -> bool:
    return "split brain" in refusal(lab, node).lower()


def wait_closed(
    lab: Lab, held: dict[str, psycopg.Connection[object]], rogue: Node
) -> None:
    """Wait until every node has closed its primary port and says why."""

    def closed() -> bool:
        return all(ended(session) for session in held.values()) and all(
            closed_for_split(lab, node) for node in lab.nodes.values()
        )

    waits.wait_for("the primary port to close", closed, CLOSED_S + SLACK_S, 0.02)
    for node in lab.nodes.values():
        said = node.get("/cluster")
        if said is None and node is rogue:
            continue
        assert said["primary"] is None
        assert rogue.name in {claim["node"] for claim in said["split_brain"]}
        health = node.get("/health")
        assert rogue.name in {claim["node"] for claim in health["split_brain"]}
        assert "pgbastion_split_brain 1.0" in text_of(lab, node, "/metrics")
        assert '"event": "split_brain"' in node.log.read_text(encoding="utf-8")


def wait_open(lab: Lab) -> None:
    """Wait until every node takes writers again and every standby streams."""
    lab.wait_steady(OPEN_S)

    def is_open() -> bool:
        return all(refusal(lab, node) == "" for node in lab.nodes.values())

    waits.wait_for("the primary port to open", is_open, OPEN_S)
    assert all("split_brain" not in n.get("/health") for n in lab.nodes.values())


def test_a_promotion_out_of_band_closes_the_port_and_is_undone(
    three: Clusters,
) -> None:
    with three.running() as lab:
        lab.wait_steady()
        primary, epoch, rogue = lab.primary(), lab.epoch(), a_standby(lab)
        with sessions(lab) as held:
            rogue.query("SELECT pg_promote(false)")
            wait_closed(lab, held, rogue)
        wait_open(lab)
        assert (lab.primary(), lab.epoch()) == (primary, epoch)


def test_a_server_started_by_hand_closes_the_port_until_it_ends(
    three: Clusters,
) -> None:
    with three.running() as lab:
        lab.wait_steady()
        primary, rogue = lab.primary(), a_standby(lab)
        with sessions(lab) as held:
            held.pop(rogue.name)
            rest = {n: node for n, node in lab.nodes.items() if n != rogue.name}
            with started_by_hand(lab, rogue):
                everybody, lab.nodes = lab.nodes, rest
                try:
                    wait_closed(lab, held, rogue)
                    # Nobody can end it but a human: it stays so until then.
                    time.sleep(CLOSED_S + SLACK_S)
                    assert all(closed_for_split(lab, n) for n in rest.values())
                finally:
                    lab.nodes = everybody
        rogue.start()
        wait_open(lab)
        assert lab.primary() == primary


def test_two_claimed_epochs_close_the_port_until_one_ends(three: Clusters) -> None:
    """Under pause a holder that was cut off stays what it is."""
    with three.running() as lab:
        lab.wait_steady()
        rogue, successor = lab.node(lab.primary()), a_standby(lab)
        post(lab, successor, "/cluster/pause")
        with cut_from_nodes(lab, rogue.name):
            order = {"to": successor.name, "force": True}

            def ordered() -> bool:
                return "error" not in post(lab, successor, "/cluster/failover", order)

            waits.wait_for("the order to be taken", ordered, OPEN_S, 0.5)
            waits.wait_for(
                "the successor",
                lambda: lab.reported_primary([successor]) == successor.name,
                OPEN_S,
            )
            others = [n for n in lab.nodes.values() if n is not rogue]
            assert all(refusal(lab, node) == "" for node in others)
        wait_closed(lab, {}, rogue)
        post(lab, successor, "/cluster/resume")
        wait_open(lab)
        assert lab.primary() == successor.name
