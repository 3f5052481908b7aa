"""Orders to restart a server or to copy it anew, on their way into the log."""

import pytest

from pgbastion.api.ports import Done, Outcome, Refused, Unknown
from pgbastion.control.apply import Outcome as LogOutcome
from pgbastion.model.cluster import OrderKind
from pgbastion.model.commands import GiveOrder
from pgbastion.model.ids import NodeId
from pgbastion.model.report import PostgresState
from pgbastion.node.ordering import Ordering
from pgbastion.node.restart_and_copy import RestartAndCopy
from pgbastion.testing.views import (
    assignment,
    cluster_state,
    primary_report,
    report,
)
from support.ordering import N1, N2, N3
from support.proposing import FakeHost

pytestmark = pytest.mark.anyio


def whole() -> FakeHost:
    return FakeHost(
        primary_report(),
        report(2, pending_restart=("shared_buffers",)),
        report(3, state=PostgresState.COPYING),
    )


def restart_and_copy(host: FakeHost) -> RestartAndCopy:
    ordering = Ordering(host, fresh_ms=60_000, drain_ms=lambda: 700)  # type: ignore[arg-type]
    return ordering.restart_and_copy


async def restart(host: FakeHost, node: NodeId, **changes: bool) -> Outcome:
    asked = {"pending": False, **changes}
    return await restart_and_copy(host).restart(node, drain_ms=None, **asked)


async def reinit(host: FakeHost, node: NodeId) -> Outcome:
    return await restart_and_copy(host).reinit(node)


@pytest.mark.parametrize("node", [N1, N2])
async def test_a_server_is_restarted_whatever_its_role(node: NodeId) -> None:
    host = whole()

    outcome = await restart(host, node)

    [command] = host.proposed
    assert isinstance(command, GiveOrder)
    order = command.order
    assert (order.order, order.target, order.drain_ms) == (
        OrderKind.RESTART,
        node,
        700,
    )
    assert order.at < order.expires_at
    assert outcome == Done(
        facts={"id": order.order_id, "to": node}, follow=order.order_id
    )


async def test_a_standby_is_copied_anew() -> None:
    host = whole()

    assert isinstance(await reinit(host, N2), Done)

    [command] = host.proposed
    assert isinstance(command, GiveOrder)
    assert command.order.order is OrderKind.REINIT


async def test_only_what_waits_for_a_restart_gets_one_if_that_is_asked_for() -> None:
    refused = await restart(whole(), N1, pending=True)
    done = await restart(whole(), N2, pending=True)

    assert isinstance(refused, Refused)
    assert refused.code == "nothing_pending"
    assert isinstance(done, Done)


async def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    host = whole()
    headless = whole()
    headless.state = cluster_state(assignment=assignment(revoked=True))
    refused = [
        (await restart(host, NodeId("n9")), "not a member"),
        (await restart(host, N3), "copying"),
        (await restart(FakeHost(), N2), "silent"),
        (await reinit(host, N1), "is the primary"),
        (await reinit(host, N3), "copying"),
        (await reinit(FakeHost(), N2), "silent"),
        (await reinit(headless, N2), "no primary"),
    ]

    for outcome, word in refused:
        assert isinstance(outcome, Refused)
        assert outcome.code == "unfit"
        assert word in outcome.message
    assert host.proposed == headless.proposed == []


@pytest.mark.parametrize(
    ("said", "kind"), [(None, Unknown), (LogOutcome.ORDER_OPEN, Refused)]
)
async def test_what_became_of_it_is_told(said: LogOutcome | None, kind: type) -> None:
    host = whole()
    host.outcome = said

    assert isinstance(await restart(host, N2), kind)
