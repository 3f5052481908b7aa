"""An operator's orders on their way into the log."""

from dataclasses import replace

import pytest

from pgbastion.api.ports import Done, Refused, Unknown
from pgbastion.control.apply import Outcome
from pgbastion.model.cluster import OrderKind
from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport
from pgbastion.model.wal import Lsn
from pgbastion.node.ordering import Ordering
from pgbastion.testing.views import (
    assignment,
    cluster_state,
    end,
    primary_report,
    report,
)
from support.proposing import FakeHost

pytestmark = pytest.mark.anyio

N1, N2, N3, N9 = NodeId("n1"), NodeId("n2"), NodeId("n3"), NodeId("n9")


def whole() -> FakeHost:
    return FakeHost(
        primary_report(),
        report(2, replay_lsn=Lsn(90)),
        report(3, replay_lsn=Lsn(100)),
    )


def headless(*reports: NodeReport) -> FakeHost:
    """Return a cluster whose primary is gone."""
    host = FakeHost(*reports)
    host.state = cluster_state(assignment=assignment(revoked=True))
    return host


def ordering(host: FakeHost) -> Ordering:
    return Ordering(host, fresh_ms=60_000, drain_ms=lambda: 700)  # type: ignore[arg-type]


async def test_a_switchover_without_a_name_goes_to_the_best() -> None:
    host = whole()

    outcome = await ordering(host).switch_over(None, None, cause="me")

    assert isinstance(outcome, Done)
    order = host.order
    assert (order.order, order.target, order.drain_ms) == (
        OrderKind.SWITCHOVER,
        N3,
        700,
    )
    assert order.at < order.expires_at
    assert outcome.facts == {"id": order.order_id, "to": N3}


async def test_a_switchover_takes_the_drain_that_it_is_given() -> None:
    host = whole()

    await ordering(host).switch_over(N2, 0, cause="me")

    assert (host.order.target, host.order.drain_ms) == (N2, 0)


@pytest.mark.parametrize("to", [N1, N9])
async def test_what_cannot_be_done_is_refused_and_not_proposed(to: NodeId) -> None:
    host = whole()

    switchover = await ordering(host).switch_over(to, None, cause="me")
    failover = await ordering(host).fail_over(to, force=True, cause="me")

    assert isinstance(switchover, Refused)
    assert isinstance(failover, Refused)
    assert switchover.code == failover.code == "unfit"
    assert host.proposed == []


@pytest.mark.parametrize(
    ("meant", "code"), [(None, None), (N1, None), (N2, "other_primary")]
)
async def test_an_order_may_say_which_primary_it_means(
    meant: NodeId | None, code: str | None
) -> None:
    refused = ordering(whole()).not_primary(meant)

    assert (None if refused is None else refused.code) == code


async def test_before_the_first_primary_none_can_be_meant() -> None:
    host = FakeHost()
    host.state = cluster_state(assignment=None)

    refused = ordering(host).not_primary(N1)

    assert refused is not None
    assert refused.message == "n1 is not the primary: nobody had the role yet"


async def test_a_switchover_needs_somebody_who_can_take_the_role() -> None:
    outcome = await ordering(FakeHost(primary_report())).switch_over(
        None, None, cause="me"
    )

    assert isinstance(outcome, Refused)
    assert outcome.code == "no_candidate"
    assert outcome.message.endswith(": n2 is silent; n3 is silent")


async def test_nobody_vouches_for_the_death_of_a_living_primary() -> None:
    host = whole()

    await ordering(host).fail_over(N2, force=True, cause="me")

    assert (host.order.order, host.order.force) == (OrderKind.FAILOVER, False)


async def test_a_failover_that_may_lose_commits_needs_force() -> None:
    behind = (primary_report(wal_end=end(350)), report(2))

    refused = headless(*behind)
    outcome = await ordering(refused).fail_over(N2, force=False, cause="me")
    forced = headless(*behind)
    await ordering(forced).fail_over(N2, force=True, cause="me")

    assert isinstance(outcome, Refused)
    assert outcome.code == "commits_may_be_lost"
    assert "250 bytes" in outcome.message
    assert refused.proposed == []
    assert forced.order.force


async def test_a_failover_that_loses_nothing_needs_no_force() -> None:
    host = headless(report(2), report(3))

    outcome = await ordering(host).fail_over(N2, force=False, cause="me")

    assert isinstance(outcome, Done)
    assert host.order.target == N2


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [(None, Unknown), (Outcome.ORDER_OPEN, Refused), (Outcome.WRONG_EPOCH, Refused)],
)
async def test_what_became_of_the_proposal_is_told(
    outcome: Outcome | None, kind: type
) -> None:
    host = whole()
    host.outcome = outcome

    assert isinstance(await ordering(host).switch_over(N2, None, cause="me"), kind)


@pytest.mark.parametrize(("leader", "end"), [(1, "ordered"), (0, "a Raft leader")])
async def test_whoever_gets_no_outcome_hears_whether_somebody_leads(
    leader: int, end: str
) -> None:
    host = whole()
    host.outcome, host.leader = None, leader

    outcome = await ordering(host).switch_over(N2, None, cause="me")

    assert isinstance(outcome, Unknown)
    assert outcome.message.endswith(end)


async def test_a_node_in_no_cluster_yet_knows_that_nothing_came_of_it() -> None:
    host = whole()
    host.state = replace(host.state, cluster_id="")

    outcome = await ordering(host).switch_over(N2, None, cause="me")

    assert isinstance(outcome, Refused)
    assert (outcome.code, host.proposed) == ("no_cluster_yet", [])
