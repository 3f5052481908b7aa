"""Orders: what the Raft leader and the proxies make of them."""

from dataclasses import replace

import pytest

from pgbastion.control.cluster import decide_cluster
from pgbastion.control.routing import RoutingView, decide_routing
from pgbastion.control.succession import HANDOVER_PATIENCE_MS
from pgbastion.model.actions import (
    Propose,
)
from pgbastion.model.cluster import (
    ClusterState,
    OrderOutcome,
)
from pgbastion.model.commands import (
    Assign,
    SettleOrder,
)
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, SurveyAnswer, SurveyView
from pgbastion.testing.views import (
    NOW_MS,
    answer,
    assignment,
    cluster_view,
    end,
    in_async,
    primary_report,
    raft_view,
    received,
    report,
)
from support.ordering import (
    AT,
    BEGUN,
    LATER,
    N1,
    N2,
    N3,
    ordered,
)

# The leader


def leader(
    state: ClusterState, *answers: SurveyAnswer, **changes: object
) -> ClusterView:
    survey = SurveyView(
        epoch=Epoch(3),
        started_ms=NOW_MS - 20,
        answers=answers,
        asked_ms=NOW_MS - 20,
    )
    reports = received(report(2), report(3))
    made = cluster_view(state=state, survey=survey, reports=reports, at=AT)
    return replace(made, **changes)  # type: ignore[arg-type]


HANDED_OVER = replace(
    BEGUN, assignment=assignment(released=True, revoked=True, ended_at=end(200))
)


def test_an_order_that_is_not_begun_in_time_expires() -> None:
    in_time = cluster_view(state=ordered(), at=LATER)
    late = cluster_view(state=ordered(), at="2026-01-01T00:05:00.001+00:00")

    assert decide_cluster(in_time).reason is Reason.PRIMARY_HAS_LEASE
    assert decide_cluster(late).reason is Reason.ORDER_EXPIRED
    assert decide_cluster(replace(late, state=BEGUN)).reason is Reason.PRIMARY_HAS_LEASE


def test_an_order_of_an_earlier_epoch_is_ended() -> None:
    decision = decide_cluster(cluster_view(state=ordered(epoch=Epoch(2)), at=AT))

    [proposal] = decision.actions
    assert isinstance(proposal, Propose)
    assert isinstance(proposal.command, SettleOrder)
    assert proposal.command.outcome is OrderOutcome.SUPERSEDED


def chosen(view: ClusterView) -> NodeId | None:
    decision = decide_cluster(view)
    commands = [a.command for a in decision.actions if isinstance(a, Propose)]
    return next((c.node for c in commands if isinstance(c, Assign)), None)


def test_one_answer_is_enough_of_who_has_all_that_the_holder_wrote() -> None:
    assert chosen(leader(HANDED_OVER, answer(2, 200))) == N2


def test_the_ordered_node_is_preferred_among_equals() -> None:
    assert chosen(leader(HANDED_OVER, answer(2, 200), answer(3, 200))) == N2


def test_the_ordered_node_is_waited_for() -> None:
    view = leader(HANDED_OVER, answer(3, 200))

    assert chosen(view) is None
    assert decide_cluster(view).reason is Reason.SURVEYING


def test_a_node_that_lacks_what_the_holder_wrote_does_not_win_by_being_ordered() -> (
    None
):
    view = leader(HANDED_OVER, answer(2, 150), answer(3, 200))
    late = replace(view, now_ms=NOW_MS + HANDOVER_PATIENCE_MS)

    assert chosen(view) is None
    assert chosen(late) == N3


def test_the_old_primary_goes_on_where_nobody_else_has_everything() -> None:
    view = leader(HANDED_OVER, answer(1, 200), answer(2, 150), answer(3, 150))

    assert chosen(view) == N1


def test_an_end_on_another_timeline_proves_nothing() -> None:
    view = leader(HANDED_OVER, answer(2, 900, 3))

    assert decide_cluster(view).reason in (
        Reason.SURVEYING,
        Reason.COMMITS_MAY_BE_MISSING,
    )


def test_in_async_the_ordered_node_is_waited_for_until_it_has_everything() -> None:
    state = in_async(HANDED_OVER)
    behind = received(report(2, wal_end=end(150)), report(3, wal_end=end(200)))
    there = received(report(2, wal_end=end(200)), report(3, wal_end=end(200)))
    view = cluster_view(state=state, reports=behind, at=AT, released_seen_ms=NOW_MS)
    late = replace(view, released_seen_ms=NOW_MS - HANDOVER_PATIENCE_MS)

    assert decide_cluster(view).reason is Reason.TARGET_NOT_AS_FAR
    assert chosen(replace(view, reports=there)) == N2
    assert chosen(late) == N3


def test_an_order_is_carried_out_by_a_leader_under_pause() -> None:
    state = replace(HANDED_OVER, paused=True, pause_revision=1)

    assert chosen(leader(state, answer(2, 200), raft=raft_view())) == N2


# The proxies


@pytest.mark.parametrize(
    ("state", "parking"),
    [(ordered(), ""), (BEGUN, "o1"), (ordered(begun=True, epoch=Epoch(2)), "")],
)
def test_new_clients_wait_from_the_beginning_of_an_order(
    state: ClusterState, parking: str
) -> None:
    routing = decide_routing(
        RoutingView(
            now_ms=NOW_MS,
            state=state,
            reports=received(primary_report(), report(2), report(3)),
            report_max_ms=1_000,
            lag_max_bytes=1,
            accepting_epoch=Epoch(3),
        )
    )

    assert routing.parking == parking
    assert routing.primary is not None
