"""Where the proxy's ports lead."""

from dataclasses import replace

import pytest

from pgbastion.control.routing import RoutingView, accepts, decide_routing
from pgbastion.model.cluster import Assignment
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    NOW_MS,
    assignment,
    cluster_state,
    end,
    member,
    primary_report,
    received,
    report,
)


def routing_view(**changes: object) -> RoutingView:
    made = RoutingView(
        now_ms=NOW_MS,
        state=cluster_state(),
        reports=received(
            primary_report(),
            report(2, replay_lsn=Lsn(95)),
            report(3, replay_lsn=Lsn(60)),
        ),
        report_max_ms=1_000,
        lag_max_bytes=10,
        accepting_epoch=Epoch(3),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def replicas(view: RoutingView) -> list[str]:
    return [m.name for m in decide_routing(view).replicas]


def test_writers_go_to_the_accepting_holder() -> None:
    routing = decide_routing(routing_view())

    assert (routing.primary, routing.epoch, routing.changing) == (member(1), 3, False)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (None, "the cluster has no primary yet"),
        (assignment(revoked=True), "the role of n1 was revoked"),
        (assignment(released=True), "node n1 released the role"),
        (assignment(opened=False), "node n1 is being promoted"),
        (assignment(epoch=4), "node n1 is not ready for clients yet"),
    ],
    ids=["nobody", "revoked", "released", "opening", "not_ready"],
)
def test_writers_go_to_nobody_else(held: Assignment | None, reason: str) -> None:
    routing = decide_routing(routing_view(state=cluster_state(assignment=held)))

    assert routing.primary is None
    assert routing.primary_reason.startswith(reason)
    assert routing.changing == (held is not None)


def test_readers_go_to_standbys_within_the_lag_limit() -> None:
    assert replicas(routing_view()) == ["n2"]
    assert replicas(routing_view(lag_max_bytes=80)) == ["n2", "n3"]


def test_there_is_a_reason_when_no_standby_reads() -> None:
    routing = decide_routing(routing_view(reports={}))
    assert (routing.replicas, bool(routing.replica_reason)) == ((), True)
    assert decide_routing(routing_view()).replica_reason == ""


def test_a_node_without_load_balancing_is_left_out() -> None:
    members = (member(1), member(2, noloadbalance=True), member(3))
    assert replicas(routing_view(state=cluster_state(members=members))) == []


def test_the_holder_is_no_replica_even_if_it_says_that_it_streams() -> None:
    reports = received(report(1, replay_lsn=Lsn(100)), report(2, replay_lsn=Lsn(95)))
    assert replicas(routing_view(reports=reports)) == ["n2"]


def test_a_former_holder_that_streams_is_a_replica() -> None:
    state = cluster_state(assignment=assignment(released=True))
    reports = received(report(1, replay_lsn=Lsn(100)))
    assert replicas(routing_view(state=state, reports=reports)) == ["n1"]
    nobody = cluster_state(assignment=None)
    assert replicas(routing_view(state=nobody, reports=reports)) == ["n1"]


def test_old_news_and_standbys_that_do_not_stream_are_left_out() -> None:
    old = received(report(2, replay_lsn=Lsn(95)), at_ms=NOW_MS - 1_001)
    assert replicas(routing_view(reports=old)) == []
    idle = received(report(2, replay_lsn=Lsn(95), streaming=False))
    assert replicas(routing_view(reports=idle)) == []


def test_lag_is_nought_while_it_cannot_be_told() -> None:
    unknown = received(primary_report(wal_end=None), report(2, replay_lsn=Lsn(1)))
    assert replicas(routing_view(reports=unknown)) == ["n2"]
    assert replicas(routing_view(reports=received(primary_report(), report(2)))) == [
        "n2"
    ]


def test_only_the_holders_word_of_this_epoch_opens_it() -> None:
    state = cluster_state()
    assert accepts(primary_report(), state)
    assert not accepts(primary_report(accepting=False), state)
    assert not accepts(primary_report(epoch=Epoch(2)), state)
    assert not accepts(primary_report(2), state)
    assert not accepts(primary_report(), cluster_state(assignment=None))


def test_the_builders_agree_on_where_wal_ends() -> None:
    assert primary_report().wal_end == end(100)


def test_a_standby_near_the_limit_is_not_in_and_out() -> None:
    """It leaves beyond the limit, and comes back within half of it."""
    reports = received(primary_report(), report(2, replay_lsn=Lsn(92)))
    inside = frozenset({NodeId("n2")})
    assert replicas(routing_view(reports=reports, reading=inside)) == ["n2"]
    assert replicas(routing_view(reports=reports)) == []
    caught_up = received(primary_report(), report(2, replay_lsn=Lsn(95)))
    assert replicas(routing_view(reports=caught_up)) == ["n2"]
    behind = received(primary_report(), report(2, replay_lsn=Lsn(89)))
    assert replicas(routing_view(reports=behind, reading=inside)) == []


def test_the_primary_serves_readers_where_that_is_wanted_and_no_standby_can() -> None:
    assert replicas(routing_view(reports=received(primary_report()))) == []
    view = routing_view(reports=received(primary_report()), fallback=True)
    assert replicas(view) == ["n1"]
    assert "the primary serves reads" in decide_routing(view).replica_reason
    assert replicas(routing_view(fallback=True)) == ["n2"]
    nobody = cluster_state(assignment=assignment(revoked=True))
    assert replicas(routing_view(state=nobody, reports={}, fallback=True)) == []


def test_a_node_that_is_taken_out_gets_no_readers() -> None:
    reports = received(primary_report(), report(2, replay_lsn=Lsn(95), draining=True))
    routing = decide_routing(routing_view(reports=reports))
    assert routing.replicas == ()
    assert routing.draining == (member(2),)


def test_a_server_that_was_started_again_is_waited_for() -> None:
    """Rule 29: it may show commits that nobody else has."""
    again = received(primary_report(server_ms=800))
    unknown = received(primary_report(server_ms=0))

    took = routing_view(accepting_server_ms=700, reports=again)
    stayed = routing_view(accepting_server_ms=800, reports=again)
    silent = routing_view(accepting_server_ms=700, reports=unknown)

    assert decide_routing(took).primary is None
    assert decide_routing(took).changing
    assert "was started again" in decide_routing(took).primary_reason
    assert decide_routing(stayed).primary == member(1)
    assert decide_routing(silent).primary == member(1)
