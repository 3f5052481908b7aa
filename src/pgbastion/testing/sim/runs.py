"""One run a seed: shape, faults and the end, all drawn from the seed."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from random import Random
from typing import Any, Final

from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node, duty, find
from pgbastion.ha import host as product_host
from pgbastion.ha import loop as product_loop
from pgbastion.ha import observer as product_observer
from pgbastion.model.actions import Decision
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.profile import Profile
from pgbastion.model.report import decode_report
from pgbastion.model.views import ClusterView, NodeView
from pgbastion.observe.logging import FIELDS
from pgbastion.testing.sim.cluster import Cluster, Shape
from pgbastion.testing.sim.faults import plan_faults
from pgbastion.testing.sim.fencing import WORKS
from pgbastion.testing.sim.loop import current_process, node_time
from pgbastion.testing.sim.world import Tally, Violation, World, ms

RUN_MS: Final = 120_000
"""A run is at least so long."""
FAULTS_LEAST: Final = 3
RECOVERY_LEASES: Final = 6
RECOVERY_MS: Final = 20_000
"""L1: so many leases and milliseconds after the last fault, writes are accepted."""
CALM_LEASES: Final = 2
LOOK_MS: Final = 1_000
HURRY_MS: Final = 40
"""How often a node in a hurry looks at its server."""


def shape_of(seed: int) -> Shape:
    """Draw the shape of a seed's cluster."""
    random = Random(f"shape {seed}")
    servers, witnesses = random.choices(((3, 0), (2, 1), (3, 2), (5, 0)), (8, 5, 2, 2))[
        0
    ]
    profile = random.choices(list(Profile), (2, 7, 11))[0]
    mode = random.choices(list(ReplicationMode), (2, 3, 10))[0]
    strict = random.random() < 0.12
    # Strict with more standbys wanted than there are means no writes, as was wished.
    count = random.choice((None, None, None, 1, 1 if strict else 2))
    # From a stream of its own, so that the shapes are what they would be without.
    chance = Random(f"addresses {seed}")
    names = chance.choice(((), (), ("10.0.0.101",), ("10.0.0.101", "10.0.0.102")))
    return Shape(
        servers=servers,
        witnesses=witnesses,
        profile=profile,
        mode=mode,
        sync_count=count,
        strict=strict,
        joining=random.choice((0, 0, 0, 1)),
        late_promotions=random.choice((0.0, 0.0, 0.15)),
        fence_works=random.choice((None, None, WORKS)),
        write_ms={Profile.FAST: 300, Profile.NORMAL: 500, Profile.WIDE: 1_500}[profile],
        addresses=names,
        fallback=chance.random() < 0.5,
    )


def run_seed(seed: int, trace: Callable[[str], None] | None = None) -> Tally:
    """Run one seed to its end.

    Raises:
        Violation: A promise was broken.
    """
    world = World(seed, trace)
    with node_time(), counting(world.tally), logging_to(world):
        cluster = Cluster(world, shape_of(seed))
        try:
            calm_ms = CALM_LEASES * cluster.timings.lease_ms
            faults_ms = RUN_MS - min(calm_ms, RUN_MS // 4)
            plan_faults(cluster, least=FAULTS_LEAST, until_ms=faults_ms)
            cluster.people.plan(until_ms=faults_ms)
            world.run(ms(faults_ms))
            end(cluster)
        finally:
            cluster.close()
    return world.tally


def end(cluster: Cluster) -> None:
    """Mend everything, and look whether all is well within the stated time (L1)."""
    world = cluster.world
    world.say("judge", "all faults end")
    cluster.begin_final_phase()
    lease_ms = cluster.judge.longest_ms
    latest_ns = world.now_ns + ms(RECOVERY_LEASES * lease_ms + RECOVERY_MS)
    while True:
        world.run(world.now_ns + ms(LOOK_MS))
        fault = cluster.judge.unwell()
        if fault is None and world.now_ns >= ms(RUN_MS):
            break
        if fault is not None and world.now_ns >= latest_ns:
            raise Violation("L1", fault)
    cluster.judge.ended()


@contextmanager
def counting(tally: Tally) -> Iterator[None]:
    """Count the reasons and transitions that decisions reach."""

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

    loop: Any = product_loop
    host: Any = product_host
    observer: Any = product_observer
    hurry_ms = product_observer.HURRY_MS
    loop.decide_node, loop.decide_cluster = node, cluster
    # A model tells nothing new so often, and most of a run's time would go there.
    observer.HURRY_MS = HURRY_MS
    # Every node reads the same bytes: once is enough.
    host.decode_report = lru_cache(maxsize=64)(decode_report)
    try:
        yield
    finally:
        loop.decide_node, loop.decide_cluster = decide_node, decide_cluster
        host.decode_report = decode_report
        observer.HURRY_MS = hurry_ms


class _ToTrace(logging.Handler):
    """Adds what the daemons log to the trace."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Add one line."""
        fields = getattr(record, FIELDS, {})
        said = " ".join(f"{name}={value}" for name, value in fields.items())
        self._world.say(current_process(), f"{record.getMessage()} {said}")


@contextmanager
def logging_to(world: World) -> Iterator[None]:
    """Have the daemons log into the trace, or nowhere."""
    log = logging.getLogger("pgbastion")
    level, propagate, handlers = log.level, log.propagate, log.handlers
    log.propagate = False
    log.handlers = [_ToTrace(world)]
    log.setLevel(logging.CRITICAL if world.trace is None else logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate, log.handlers = propagate, handlers
