"""Simulated clusters brought into situations, and what their nodes say of them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from pgbastion.model.commands import Command
from pgbastion.model.snapshot import GossipSnapshot, NodeSnapshot
from pgbastion.node.addresses import NoAddresses
from pgbastion.node.snapshots import Snapshots
from pgbastion.observe.gaps import GapMeter
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import DataPath, ProxySnapshot
from pgbastion.testing.sim.cluster import Cluster, Shape
from pgbastion.testing.sim.loop import node_time
from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.runs import counting, logging_to
from pgbastion.testing.sim.stage import Stage
from pgbastion.testing.sim.world import World

STEP_MS = 1


class NoProxy:
    """A simulated node carries no sessions."""

    def snapshot(self) -> ProxySnapshot:
        return ProxySnapshot(
            revision=0,
            epoch=0,
            data_path=DataPath.USERSPACE,
            data_path_reason="",
            in_kernel=0,
            kernel_refused_total=0,
            draining=False,
            drain_left_s=0.0,
            primary_usable=True,
            connections=0,
            opening=0,
            held=0,
            held_total=0,
            held_oldest_s=0.0,
            held_seconds_total=0.0,
            accepted_total=0,
            superseded_total=0,
            cancels_total=0,
            cancels_dropped_total=0,
            refused_total={},
            traffic=(),
        )


@contextmanager
def staged(shape: Shape, *, seed: int = 1) -> Iterator[Stage]:
    """Run a cluster of this shape for as long as the script wants."""
    world = World(seed, None)
    with node_time(), counting(world.tally), logging_to(world):
        cluster = Cluster(world, shape)
        try:
            yield Stage(cluster)
        finally:
            cluster.close()


def settle(stage: Stage) -> None:
    stage.until(stage.settled, limit_ms=60_000, step_ms=50)
    stage.wait(1_000)


def take(stage: Stage, machine: Machine) -> NodeSnapshot:
    """Return what the machine's daemon knows now."""
    daemon = machine.daemon
    assert daemon is not None
    snapshots = Snapshots(
        host=daemon.host,
        engine=daemon.engine,
        loop=daemon.main,
        proxy=cast("Proxy", NoProxy()),
        own=daemon.own,
        cluster_name="main",
        addresses=NoAddresses(),
        report_max_ms=3 * machine.setting.timings.probe_ms,
        lag_max_bytes=1 << 20,
        gaps=GapMeter(lambda: 0),
        certificate=lambda: None,
        api_certificate=lambda: None,
        gossip=GossipSnapshot,
    )
    snapshots.routing = daemon.routing
    taken: list[NodeSnapshot] = []
    # In a step of its own, so that the clock is the node's.
    daemon.loop.call_soon(lambda: taken.append(snapshots.take()))
    stage.until(lambda: bool(taken), limit_ms=1_000, step_ms=STEP_MS)
    return taken[0]


def propose(machine: Machine, make: Callable[[Any], Command]) -> None:
    """Have a daemon propose a command made from its state."""
    daemon = machine.daemon
    assert daemon is not None

    def begin() -> None:
        command = make(daemon.host.state)
        daemon.loop.create_task(daemon.host.propose(command, timeout_s=1.0))

    daemon.loop.call_soon(begin)


_VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00"), "TIME"),
    (re.compile(r"lease for [\d.]+ s"), "lease for N s"),
    (re.compile(r"\d+ bytes"), "N bytes"),
    (re.compile(r"\b\d+/[0-9A-F]+\b"), "LSN"),
    (re.compile(r"\b\d+% of (its|the)"), r"N% of \1"),
)


def steady(line: str) -> str:
    """Return a line without what differs from run to run."""
    for pattern, word in _VOLATILE:
        line = pattern.sub(word, line)
    return line
