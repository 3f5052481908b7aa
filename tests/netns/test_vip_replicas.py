"""An address for replicas in a cluster: at one standby, and it leaves a failed one."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.address_sampler import AddressSample, Tables
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.faults import FAULTS
from pgbastion.bench.lab.network import NAME_PREFIX
from pgbastion.bench.lab.settings import REPLICA_PORT, Plan
from support.lab_clients import pgbastion, recovers
from support.lab_faults import KEPT_LOGS

FULL = bool(os.environ.get("PGBASTION_TEST_FULL"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not FULL, reason="a cluster of its own: test-full"),
]

ADDRESS = "10.77.0.60"
SECTION = {
    "addresses": [{"address": f"{ADDRESS}/24", "interface": "eth0", "role": "replica"}]
}
MOVED_S = 20.0
"""Silence, the placement's lease of 5 s, and a machine that is busy otherwise."""
HIT = ("daemon", "daemon-stopped", "cut", "mute", "node-frozen", "frozen", "node")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    try:
        with Lab(Plan(profile="normal", vip=SECTION), keep_logs_in=KEPT_LOGS) as made:
            made.start()
            yield made
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


class Samples(threading.Thread):
    """Where the address is at all nodes, every 10 ms, whoever lives there."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(name="samples")
        namespaces = {name: f"{NAME_PREFIX}{lab.tag}-{name}" for name in lab.nodes}
        self._tables = Tables(namespaces, [ADDRESS])
        self._over = threading.Event()
        self.taken: list[AddressSample] = []

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.taken += self._tables.look()

    def end(self) -> None:
        self._over.set()
        self.join()
        self._tables.close()

    @property
    def newest(self) -> tuple[str, ...]:
        return self.taken[-1].at if self.taken else ()


@contextmanager
def sampled(lab: Lab) -> Iterator[Samples]:
    """Sample for the length of the block; nowhere may two nodes have the address."""
    samples = Samples(lab)
    samples.start()
    try:
        yield samples
    finally:
        samples.end()
    assert len(samples.taken) > 10
    assert [s for s in samples.taken if len(s.at) > 1] == []


def at_a_standby(lab: Lab, samples: Samples, *, other_than: str = "") -> str:
    """Wait until the address is at a standby; return which."""
    # The node that is hit may know of no primary, and say so to whoever reaches it.
    asked = [node for node in lab.nodes.values() if node.name != other_than]

    def found() -> str | None:
        primary = lab.reported_primary(asked)
        at = [n for n in samples.newest if n not in (primary, other_than)]
        return at[0] if at and primary is not None else None

    return waits.wait_for("the address at a standby", found, MOVED_S)


def test_a_replica_address_is_at_a_standby_and_leaves_one_that_is_promoted(
    lab: Lab,
) -> None:
    lab.wait_steady()
    with sampled(lab) as samples:
        holder = at_a_standby(lab, samples)
        assert recovers(lab, ADDRESS, REPLICA_PORT)
        (told,) = lab.node(holder).get("/vip")["replicas"]
        assert (told["address"], told["node"]) == (ADDRESS, holder)

        moved = pgbastion(lab, holder, "vip", "move", "--to", holder)
        assert moved.returncode == 0, moved.stderr
        second = at_a_standby(lab, samples, other_than=holder)

        status = pgbastion(lab, holder, "vip", "status")
        assert f"{ADDRESS} for replicas: held at {second}" in status.stdout


def test_a_replica_address_is_moved_by_hand_and_refused_to_the_primary(
    lab: Lab,
) -> None:
    lab.wait_steady()
    with sampled(lab) as samples:
        holder = at_a_standby(lab, samples)
        primary = lab.primary()

        refused = pgbastion(lab, holder, "vip", "move", ADDRESS, "--to", primary)
        sent = pgbastion(lab, primary, "vip", "move", f"{ADDRESS}/24")

        assert refused.returncode == 1
        assert f"{primary} is the primary" in refused.stderr
        assert sent.returncode == 0, sent.stderr
        second = at_a_standby(lab, samples, other_than=holder)
        assert f"held at {second} (an operator moved it)" in sent.stdout


@pytest.mark.parametrize("fault", HIT)
def test_a_replica_address_moves_and_is_never_at_two_nodes(
    lab: Lab, fault: str
) -> None:
    lab.wait_steady()
    with sampled(lab) as samples:
        holder = at_a_standby(lab, samples)
        with FAULTS[fault].inject(lab, holder):
            second = at_a_standby(lab, samples, other_than=holder)
        lab.wait_standby(holder)
        # It stays where it is: nothing is gained by going back.
        time.sleep(1.0)
        assert samples.newest == (second,)
