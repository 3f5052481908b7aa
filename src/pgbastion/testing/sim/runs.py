"""One run a seed: shape, faults and the end, all drawn from the seed."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final

from pgbastion.config.timings import Profile
from pgbastion.control.node import duty, find
from pgbastion.ha import loop as product_loop
from pgbastion.model.actions import Decision
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.views import ClusterView, NodeView
from pgbastion.testing.sim.cluster import Cluster, Shape
from pgbastion.testing.sim.faults import plan_faults
from pgbastion.testing.sim.loop import node_time
from pgbastion.testing.sim.world import Tally, World, ms

FAULTS_MS: Final = 120_000
FAULTS_LEAST: Final = 3
RECOVERY_LEASES: Final = 6
RECOVERY_MS: Final = 20_000
"""L1: so many leases and milliseconds after the last fault, writes are accepted."""


def shape_of(seed: int) -> Shape:
    """Draw the shape of a seed's cluster."""
    random = Random(f"shape {seed}")
    servers, witnesses = random.choice(((3, 0), (3, 0), (2, 1), (3, 2), (5, 0)))
    profile = random.choices(list(Profile), (3, 4, 3))[0]
    mode = random.choices(list(ReplicationMode), (2, 3, 10))[0]
    return Shape(
        servers=servers,
        witnesses=witnesses,
        profile=profile,
        mode=mode,
        sync_count=random.choice((None, None, None, 1, 2)),
        strict=random.random() < 0.12,
        joining=random.choice((0, 0, 0, 1)),
        late_promotions=random.choice((0.0, 0.1, 0.5)),
        write_ms={Profile.FAST: 300, Profile.NORMAL: 500, Profile.WIDE: 1_500}[profile],
    )


def run_seed(seed: int, trace: Callable[[str], None] | None = None) -> Tally:
    """Run one seed to its end.

    Raises:
        Violation: A promise was broken.
    """
    world = World(seed, trace)
    with node_time(), counting(world.tally), quiet():
        cluster = Cluster(world, shape_of(seed))
        try:
            plan_faults(cluster, least=FAULTS_LEAST, until_ms=FAULTS_MS - 10_000)
            world.run(ms(FAULTS_MS))
            end(cluster)
        finally:
            cluster.close()
    return world.tally


def end(cluster: Cluster) -> None:
    """Mend everything, wait for the stated time, and look at L1."""
    world = cluster.world
    world.say("judge", "all faults end")
    cluster.begin_final_phase()
    lease_ms = cluster.timings.lease_ms
    world.run(world.now_ns + ms(RECOVERY_LEASES * lease_ms + RECOVERY_MS))
    cluster.final_phase = True
    world.run(world.now_ns + ms(12 * cluster.shape.write_ms))
    cluster.judge.ended()


@contextmanager
def counting(tally: Tally) -> Iterator[None]:
    """Count the reasons and transitions that decisions reach."""
    decide_node, decide_cluster = product_loop.decide_node, product_loop.decide_cluster

    def node(view: NodeView) -> Decision:
        decision = decide_node(view)
        tally.reasons[decision.reason.value] += 1
        if not view.witness and view.state.member(view.member_id) is not None:
            tally.transitions[f"{duty(view)} <- {find(view)}"] += 1
        return decision

    def cluster(view: ClusterView) -> Decision:
        decision = decide_cluster(view)
        tally.reasons[decision.reason.value] += 1
        return decision

    replaced: Any = product_loop
    replaced.decide_node, replaced.decide_cluster = node, cluster
    try:
        yield
    finally:
        replaced.decide_node, replaced.decide_cluster = decide_node, decide_cluster


@contextmanager
def quiet() -> Iterator[None]:
    """Have the daemons' log say nothing: a trace says more."""
    log = logging.getLogger("pgbastion")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
