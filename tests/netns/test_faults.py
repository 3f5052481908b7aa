"""Each fault once, on real nodes in network namespaces with real PostgreSQL.

Whatever happens: no acknowledged row is lost, no two nodes acknowledge at one time,
writes are accepted again, and the node that was hit comes back by itself.
"""

import os
import secrets
import sys
from collections.abc import Iterator

import pytest

from pgbastion.bench.lab.faults import FAULTS
from pgbastion.bench.lab.settings import Plan
from support.lab_faults import Clusters, survive

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

THREE = Plan(
    own_disk=frozenset({"n1", "n2", "n3"}), clock_off_s={"n1": 0, "n2": 0, "n3": 0}
)
WITH_WITNESS = Plan(
    postgres_nodes=2, witnesses=1, version="oldest", clock_off_s={"n2": 3600}
)


@pytest.fixture(scope="module")
def three() -> Iterator[Clusters]:
    clusters = Clusters(THREE)
    yield clusters
    clusters.close()


@pytest.fixture(scope="module")
def two_and_a_witness() -> Iterator[Clusters]:
    """The oldest version; one node's wall clock is an hour off."""
    clusters = Clusters(WITH_WITNESS)
    yield clusters
    clusters.close()


@pytest.mark.parametrize(
    "fault",
    [
        "postmaster",
        "frozen",
        "daemon",
        "guard",
        "daemon-and-guard",
        "daemon-stopped",
        "node",
        "node-frozen",
        "cut",
        "cut-nodes",
        "deaf",
        "mute",
        "disk-frozen",
        "disk-full",
    ],
)
def test_another_node_takes_over(three: Clusters, fault: str) -> None:
    survive(three, fault)


# Each run takes one of these, drawn by a printed seed; a full run takes them all.
ROTATING = (
    "postmaster-frozen",
    "backends-frozen",
    "backend-killed",
    "link-flaps",
    "packet-loss",
    "clock-steps",
    "node-paused",
    "replay-paused",
    "node-and-postmaster",
    "node-and-frozen",
    "majority",
    *(name for name in FAULTS if name.startswith("cold-start")),
)
SEED = int(os.environ.get("PGBASTION_TEST_SEED", secrets.randbelow(1 << 16)))
FULL = bool(os.environ.get("PGBASTION_TEST_FULL"))
TAKEN = ROTATING if FULL else (ROTATING[SEED % len(ROTATING)],)


@pytest.mark.parametrize("fault", TAKEN)
def test_a_fault_in_turn_is_survived(three: Clusters, fault: str) -> None:
    sys.stdout.write(f"repeat: PGBASTION_TEST_SEED={SEED}\n")
    survive(three, fault)


@pytest.mark.parametrize("fault", ["daemon-restart", "standby", "connections"])
def test_the_primary_stays_what_it_is(three: Clusters, fault: str) -> None:
    survive(three, fault)


@pytest.mark.parametrize("fault", ["standby", "node"])
def test_two_nodes_and_a_witness_survive(
    two_and_a_witness: Clusters, fault: str
) -> None:
    survive(two_and_a_witness, fault)
