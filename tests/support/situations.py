"""Scripts that bring a simulated cluster into a situation; each returns whom to ask."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from pgbastion.model.cluster import ClusterState, Order, OrderKind
from pgbastion.model.commands import GiveOrder, Pause, SetFence
from pgbastion.model.ids import NodeId
from pgbastion.testing.sim.cluster import Shape
from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.scripts import FIVE_VOTERS, THREE, WITNESSED
from pgbastion.testing.sim.server import Directory
from pgbastion.testing.sim.stage import Stage
from support.simulated import propose, settle

LIMIT_MS = 30_000


def leader_of(stage: Stage) -> Machine:
    stage.until(lambda: stage.leader() is not None, limit_ms=LIMIT_MS, step_ms=10)
    found = stage.leader()
    assert found is not None
    return found


def young(stage: Stage) -> Machine:
    stage.wait(700)
    return stage.n[1]


def healthy(stage: Stage) -> Machine:
    settle(stage)
    return stage.n[1]


def healthy_as_a_standby_tells_it(stage: Stage) -> Machine:
    settle(stage)
    return stage.n[2]


def one_standby_away(stage: Stage) -> Machine:
    settle(stage)
    stage.n[2].power_off()
    stage.wait(8_000)
    return leader_of(stage)


def degraded(stage: Stage) -> Machine:
    settle(stage)
    stage.n[2].power_off()
    stage.n[3].power_off()
    stage.wait(8_000)
    return leader_of(stage)


def strict_waits(stage: Stage) -> Machine:
    return degraded(stage)


def no_candidate(stage: Stage) -> Machine:
    settle(stage)
    stage.n[1].power_off()
    stage.n[2].power_off()
    stage.wait(20_000)
    return leader_of(stage)


def primary_silent(stage: Stage) -> Machine:
    settle(stage)
    stage.n[1].power_off()
    stage.wait(2_500)
    return leader_of(stage)


def failover_under_way(stage: Stage) -> Machine:
    primary_silent(stage)
    stage.until(lambda: stage.epoch == 2, limit_ms=LIMIT_MS)
    return leader_of(stage)


def majority_lost(stage: Stage) -> Machine:
    settle(stage)
    stage.n[1].power_off()
    stage.n[2].power_off()
    stage.wait(8_000)
    return stage.n[3]


def cut_off_primary(stage: Stage) -> Machine:
    settle(stage)
    stage.isolate(stage.n[1])
    stage.wait(8_000)
    return stage.n[1]


def witness_lost(stage: Stage) -> Machine:
    settle(stage)
    stage.n[3].power_off()
    stage.wait(4_000)
    return leader_of(stage)


def _paused(state: ClusterState) -> Pause:
    return Pause(pause_revision=state.pause_revision + 1, paused=True, at="")


def paused(stage: Stage) -> Machine:
    settle(stage)
    propose(stage.n[1], _paused)
    stage.until(lambda: stage.cluster.judge.state.paused, limit_ms=LIMIT_MS)
    return stage.n[1]


def paused_and_the_primary_is_silent(stage: Stage) -> Machine:
    paused(stage)
    stage.n[1].power_off()
    stage.wait(12_000)
    return leader_of(stage)


def standby_copies(stage: Stage) -> Machine:
    n3 = stage.n[3]

    def copying() -> bool:
        return n3.daemon is not None and n3.daemon.executor.job.name == "copy"

    # It joins late: the others are well by then.
    stage.until(copying, limit_ms=60_000, step_ms=5)
    stage.wait(300)
    return stage.n[1]


def data_directory_missing(stage: Stage) -> Machine:
    settle(stage)
    n3 = stage.n[3]
    n3.power_off()
    n3.replace_directory(Directory())
    stage.wait(2_000)
    n3.power_on()
    stage.wait(3_000)
    return stage.n[1]


def _switch(state: ClusterState) -> GiveOrder:
    return GiveOrder(
        order=Order(
            order_id="o1",
            order=OrderKind.SWITCHOVER,
            target=NodeId("n2"),
            epoch=state.epoch,
            drain_ms=60_000,
            force=False,
            cause="an operator",
            at="",
            expires_at="9999",
        )
    )


def switchover_under_way(stage: Stage) -> Machine:
    settle(stage)
    # A target that lags is waited for: the order stays open.
    server = stage.n[2].server
    assert server is not None
    server.freeze()
    propose(stage.n[1], _switch)
    stage.until(lambda: stage.cluster.judge.state.order is not None, limit_ms=LIMIT_MS)
    stage.wait(500)
    return stage.n[1]


def split_brain(stage: Stage) -> Machine:
    """A standby is promoted by hand, behind its daemon's back."""
    settle(stage)
    n2 = stage.n[2]
    assert n2.server is not None
    n2.server.promote(1)

    def told() -> bool:
        daemon = stage.n[1].daemon
        report = daemon.host.reports.get(NodeId("n2")) if daemon is not None else None
        return report is not None and report.report.state == "primary"

    stage.until(told, limit_ms=LIMIT_MS)
    return stage.n[1]


def _fence(state: ClusterState) -> SetFence:
    del state
    return SetFence(
        node=NodeId("n3"),
        fenced=True,
        force=False,
        drain_ms=0,
        cause="an operator",
        at="2026-01-01T00:00:00+00:00",
    )


def fenced(stage: Stage) -> Machine:
    settle(stage)
    propose(stage.n[1], _fence)
    stage.until(lambda: bool(stage.cluster.judge.state.fences), limit_ms=LIMIT_MS)
    stage.wait(3_000)
    return stage.n[1]


Script = Callable[[Stage], Machine]
ALONE = replace(THREE, servers=1, sync_count=None)

SITUATIONS: Mapping[str, tuple[Script, Shape]] = {
    "no_primary_yet": (young, THREE),
    "healthy": (healthy, THREE),
    "healthy_as_a_standby_tells_it": (healthy_as_a_standby_tells_it, THREE),
    "one_node_alone": (healthy, ALONE),
    "one_standby_away": (one_standby_away, FIVE_VOTERS),
    "degraded": (degraded, FIVE_VOTERS),
    "strict_waits": (strict_waits, replace(FIVE_VOTERS, strict=True)),
    "no_candidate": (no_candidate, FIVE_VOTERS),
    "primary_silent": (primary_silent, THREE),
    "failover_under_way": (failover_under_way, THREE),
    "majority_lost": (majority_lost, THREE),
    "cut_off_primary": (cut_off_primary, THREE),
    "witness_lost": (witness_lost, WITNESSED),
    "paused": (paused, THREE),
    "paused_and_the_primary_is_silent": (paused_and_the_primary_is_silent, THREE),
    "standby_copies": (standby_copies, replace(THREE, joining=1)),
    "data_directory_missing": (data_directory_missing, THREE),
    "switchover_under_way": (switchover_under_way, THREE),
    "split_brain": (split_brain, THREE),
    "fenced": (fenced, THREE),
}
