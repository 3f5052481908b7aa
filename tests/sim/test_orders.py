"""Whole simulated clusters under orders, with faults in the middle of them.

The judge looks after every event: no promise may be broken, whatever comes of an order.
"""

from collections.abc import Callable, Iterator

import pytest

from pgbastion.model.cluster import ClusterState, Order, OrderKind, OrderOutcome
from pgbastion.model.commands import Command, GiveOrder, Pause, SetFence
from pgbastion.model.ids import NodeId
from pgbastion.testing.sim.scripts import THREE
from pgbastion.testing.sim.stage import Stage
from support.simulated import propose, settle, staged

LIMIT_MS = 30_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(THREE) as made:
        settle(made)
        yield made


def give(kind: OrderKind, to: int) -> Callable[[ClusterState], Command]:
    def order(state: ClusterState) -> GiveOrder:
        made = Order(
            order_id="o1",
            order=kind,
            target=NodeId(f"n{to}"),
            epoch=state.epoch,
            drain_ms=0,
            force=False,
            cause="an operator",
            at="",
            expires_at="9999",
        )
        return GiveOrder(order=made)

    return order


def fence(
    number: int, *, fenced: bool, force: bool
) -> Callable[[ClusterState], Command]:
    def wish(state: ClusterState) -> SetFence:
        del state
        return SetFence(
            node=NodeId(f"n{number}"),
            fenced=fenced,
            force=force,
            drain_ms=0,
            cause="an operator",
            at="",
        )

    return wish


def newest(stage: Stage) -> Order:
    return stage.cluster.judge.state.orders[-1]


def until_begun(stage: Stage) -> None:
    def begun() -> bool:
        orders = stage.cluster.judge.state.orders
        return bool(orders) and orders[-1].begun

    stage.until(begun, limit_ms=LIMIT_MS)


def until_settled(stage: Stage) -> Order:
    def settled() -> bool:
        orders = stage.cluster.judge.state.orders
        return bool(orders) and orders[-1].outcome is not None

    stage.until(settled, limit_ms=LIMIT_MS)
    return newest(stage)


def holder(stage: Stage) -> str:
    held = stage.cluster.judge.state.assignment
    assert held is not None
    return held.node


def other(stage: Stage) -> int:
    """Return the number of a standby."""
    return 2 if holder(stage) != "n2" else 3


def test_a_switchover_moves_the_role_and_nothing_is_lost(stage: Stage) -> None:
    epoch, to = stage.epoch, other(stage)
    propose(stage.n[1], give(OrderKind.SWITCHOVER, to))

    order = until_settled(stage)

    assert order.outcome is OrderOutcome.DONE
    assert (holder(stage), stage.epoch) == (f"n{to}", epoch + 1)
    stage.until(lambda: stage.opened(epoch + 1), limit_ms=LIMIT_MS)
    stage.mend()


def test_a_target_that_dies_before_the_stop_costs_nothing(stage: Stage) -> None:
    epoch, before, to = stage.epoch, holder(stage), other(stage)
    propose(stage.n[1], give(OrderKind.SWITCHOVER, to))
    until_begun(stage)
    # Its last report is fresh for a moment: the order is far from its stop only if
    # the machine goes at once.
    stage.n[to].power_off()

    order = until_settled(stage)

    if order.outcome is OrderOutcome.FAILED:
        assert (holder(stage), stage.epoch) == (before, epoch)
    else:
        assert order.outcome is OrderOutcome.OTHER_CHOSEN
        assert holder(stage) != f"n{to}"
    stage.n[to].power_on()
    stage.mend()


def test_a_target_that_dies_after_the_stop_leaves_the_role_to_who_has_everything(
    stage: Stage,
) -> None:
    epoch, to = stage.epoch, other(stage)
    propose(stage.n[1], give(OrderKind.SWITCHOVER, to))

    def released() -> bool:
        held = stage.cluster.judge.state.assignment
        return held is not None and held.released

    stage.until(released, limit_ms=LIMIT_MS)
    stage.n[to].power_off()

    order = until_settled(stage)

    assert order.outcome is not None
    if holder(stage) == f"n{to}":
        # It was assigned before it died: the next epoch follows.
        stage.until(lambda: stage.epoch > epoch + 1, limit_ms=LIMIT_MS)
    else:
        assert order.outcome is OrderOutcome.OTHER_CHOSEN
        assert order.detail
    stage.n[to].power_on()
    stage.mend()


def test_a_leader_that_is_lost_in_the_middle_is_replaced_and_the_order_goes_on(
    stage: Stage,
) -> None:
    epoch, to = stage.epoch, other(stage)
    propose(stage.n[1], give(OrderKind.SWITCHOVER, to))
    until_begun(stage)
    leader = stage.leader()
    assert leader is not None
    leader.kill_daemon()

    order = until_settled(stage)

    assert order.outcome in (OrderOutcome.DONE, OrderOutcome.OTHER_CHOSEN)
    assert stage.epoch > epoch
    leader.start_daemon()
    stage.mend()


def test_the_primary_restarts_in_its_epoch(stage: Stage) -> None:
    epoch, before = stage.epoch, holder(stage)
    number = int(before[1:])
    server = stage.n[number].server
    propose(stage.n[1], give(OrderKind.RESTART, number))

    order = until_settled(stage)

    assert order.outcome is OrderOutcome.DONE
    assert (holder(stage), stage.epoch) == (before, epoch)
    assert stage.n[number].server is not server
    stage.mend()


@pytest.mark.parametrize("kind", [OrderKind.RESTART, OrderKind.REINIT])
def test_a_standby_does_what_was_ordered_and_streams_again(
    stage: Stage, kind: OrderKind
) -> None:
    epoch, number = stage.epoch, other(stage)
    data_id = stage.n[number].directory.data_id
    propose(stage.n[1], give(kind, number))

    order = until_settled(stage)

    assert order.outcome is OrderOutcome.DONE
    assert stage.epoch == epoch
    replaced = stage.n[number].directory.data_id != data_id
    assert replaced is (kind is OrderKind.REINIT)
    stage.mend()


def test_a_daemon_that_dies_after_the_word_does_it_once(stage: Stage) -> None:
    number = other(stage)
    propose(stage.n[1], give(OrderKind.RESTART, number))
    until_begun(stage)
    stage.n[number].kill_daemon()
    stage.wait(500)
    stage.n[number].start_daemon()

    assert until_settled(stage).outcome is OrderOutcome.DONE
    stage.mend()


def pause(*, paused: bool) -> Callable[[ClusterState], Command]:
    def wish(state: ClusterState) -> Pause:
        return Pause(pause_revision=state.pause_revision + 1, paused=paused, at="")

    return wish


def test_a_primary_that_is_fenced_by_force_under_pause_is_followed(
    stage: Stage,
) -> None:
    epoch, before = stage.epoch, holder(stage)
    propose(stage.n[1], pause(paused=True))
    stage.until(lambda: stage.cluster.judge.state.paused, limit_ms=LIMIT_MS)
    propose(stage.n[1], fence(int(before[1:]), fenced=True, force=True))

    stage.until(lambda: stage.opened(epoch + 1), limit_ms=LIMIT_MS)

    assert holder(stage) != before
    assert stage.cluster.judge.state.paused
    stage.mend()


@pytest.mark.parametrize("force", [False, True])
def test_a_fenced_primary_is_followed_and_may_come_back(
    stage: Stage, *, force: bool
) -> None:
    epoch, before = stage.epoch, holder(stage)
    number = int(before[1:])
    propose(stage.n[1], fence(number, fenced=True, force=force))
    stage.until(lambda: stage.epoch > epoch, limit_ms=LIMIT_MS)

    assert holder(stage) != before
    stage.wait(3_000)
    state = stage.cluster.judge.state
    assert state.opened is not None
    assert not any(name.startswith(before) for name in state.opened.sync.names)
    propose(stage.n[1], fence(number, fenced=False, force=False))
    stage.mend()
