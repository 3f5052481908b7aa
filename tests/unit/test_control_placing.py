"""Where the addresses for replicas are, and when one may move."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.lease import stretched_ms
from pgbastion.control.placing import (
    LEASE_MIN_MS,
    MIN_HOLDING_MS,
    NS_PER_MS,
    SETTLING_MS,
    Cause,
    PlacingView,
    decide_placing,
    decide_replica_holdings,
)
from pgbastion.model.addresses import AddressReport, Placement, ReplicaReport
from pgbastion.model.cluster import ClusterState, Fence
from pgbastion.model.commands import PlaceAddress, VacateAddress
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.testing.views import (
    LIMITS,
    NOW_MS,
    POLICY,
    assignment,
    cluster_state,
    member,
    primary_report,
    received,
    report,
)

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
A, B = "10.0.0.101", "10.0.0.102"
LONG_AGO = NOW_MS - 3_600_000


def offers(*addresses: str, **changes: Any) -> AddressReport:
    each: dict[str, Any] = {"seen": 0, "may_be_set": False, **changes}
    return AddressReport(
        replicas=tuple(ReplicaReport(address=a, **each) for a in addresses)
    )


BROKEN = offers(A, problem="the interface eth0 has no carrier")


def standby(number: int, told: AddressReport | None = None, **changes: Any) -> Any:
    return report(number, addresses=told or offers(A), **changes)


def placed(number: int = 2, address: str = A, **changes: Any) -> Placement:
    fields: dict[str, Any] = {
        "address": address,
        "serial": 40,
        "member_id": MemberId(number),
        "node": NodeId(f"n{number}"),
        "lease_ms": 5_000,
        **changes,
    }
    return Placement(**fields)


def view(
    *placements: Placement, reports: tuple[NodeReport, ...] = (), **changes: Any
) -> PlacingView:
    primary = primary_report(1, addresses=offers(A))
    known = {r.node: r for r in (primary, standby(2), standby(3), *reports)}
    state: ClusterState = changes.pop("state", cluster_state())
    fields: dict[str, Any] = {
        "now_ms": NOW_MS,
        "state": replace(state, placements=placements),
        "reports": received(*known.values()),
        "report_ms": 1_500,
        "elected_ms": LONG_AGO,
        "opened_ms": LONG_AGO,
        "readers": (N2, N3),
        "writer": N1,
        "seen_ms": {p.serial: LONG_AGO for p in placements},
        **changes,
    }
    return PlacingView(**fields)


def moved(found: PlacingView) -> Cause | None:
    """Return why the address is to leave its node; None: it stays."""
    changes = decide_placing(found)
    if not changes:
        return None
    (change,) = changes
    assert isinstance(change, VacateAddress)
    assert not change.forget
    assert change.serial == found.state.placements[0].serial
    return Cause(change.cause)


# Placing


def test_an_address_goes_to_a_standby_that_readers_are_sent_to() -> None:
    (change,) = decide_placing(view(readers=(N3,)))

    assert change == PlaceAddress(
        address=A,
        serial=0,
        member_id=MemberId(3),
        node=N3,
        lease_ms=max(POLICY.lease_ms, LEASE_MIN_MS),
        cause=Cause.CHOSEN,
    )


def test_a_short_lease_of_the_role_does_not_make_the_addresses_flicker() -> None:
    state = cluster_state(policy=replace(POLICY, lease_ms=2_000))

    (change,) = decide_placing(view(state=state))

    assert isinstance(change, PlaceAddress)
    assert change.lease_ms == LEASE_MIN_MS


def test_several_addresses_are_spread_over_the_standbys() -> None:
    both = (standby(2, offers(A, B)), standby(3, offers(A, B)))

    changes = decide_placing(view(reports=both))
    one_there = decide_placing(view(placed(2, A), reports=both))

    nodes = [c.node for c in changes if isinstance(c, PlaceAddress)]
    assert nodes == [N2, N3]
    assert [c.node for c in one_there if isinstance(c, PlaceAddress)] == [N3]


def test_without_a_standby_the_primary_has_it_only_where_that_is_configured() -> None:
    willing = primary_report(1, addresses=offers(A, fallback=True))

    assert decide_placing(view(readers=())) == ()
    (change,) = decide_placing(view(readers=(), reports=(willing,)))
    assert isinstance(change, PlaceAddress)
    assert (change.node, change.cause) == (N1, Cause.NO_STANDBY)
    # The proxies send readers to the primary where no standby can: it is no standby.
    (change,) = decide_placing(view(readers=(N1,), reports=(willing,)))
    assert change.cause == Cause.NO_STANDBY
    assert decide_placing(view(readers=(), writer=None, reports=(willing,))) == ()


@pytest.mark.parametrize(
    "other",
    [
        standby(2, offers(A, problem="there is no interface eth7")),
        standby(2, offers(B)),
        standby(2, draining=True),
    ],
)
def test_who_cannot_have_it_does_not_get_it(other: NodeReport) -> None:
    changes = decide_placing(view(reports=(other,), readers=(N2,)))

    assert [c for c in changes if c.address == A] == []


def test_a_fenced_node_does_not_get_it() -> None:
    fence = Fence(node=N2, force=False, drain_ms=0, cause="", at="")

    (change,) = decide_placing(view(state=cluster_state(fences=(fence,))))

    assert isinstance(change, PlaceAddress)
    assert change.node == N3


def test_where_nobody_is_a_member_any_more_nothing_is_placed() -> None:
    state = cluster_state(servers=1)

    assert decide_placing(view(state=state, readers=(N2,))) == ()
    assert decide_placing(view(state=cluster_state(policy=None))) == ()


def test_old_reports_offer_nothing() -> None:
    old = received(standby(2), standby(3), at_ms=NOW_MS - 1_501)

    assert decide_placing(view(reports=(), readers=(N2,))) != ()
    assert decide_placing(replace(view(), reports=old)) == ()


# Leaving


def test_a_healthy_standby_keeps_it_whoever_else_could_have_it() -> None:
    assert moved(view(placed(3))) is None


def fenced(number: int) -> ClusterState:
    fence = Fence(node=NodeId(f"n{number}"), force=False, drain_ms=0, cause="", at="")
    return cluster_state(fences=(fence,))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"reports": (standby(2, state=PostgresState.STOPPED),)}, Cause.NOT_RUNNING),
        ({"reports": (standby(2, state=PostgresState.STARTING),)}, Cause.NOT_RUNNING),
        ({"readers": (N3,)}, Cause.BEHIND),
        ({"reports": (standby(2, draining=True),)}, Cause.DRAINING),
        ({"reports": (standby(2, offers(B)),)}, Cause.NOT_CONFIGURED),
        ({"reports": (report(2),)}, Cause.NOT_CONFIGURED),
        ({"state": fenced(2)}, Cause.FENCED),
        ({"state": cluster_state(assignment=assignment(2))}, Cause.PROMOTED),
        ({"reports": (standby(2, BROKEN),)}, Cause.CANNOT_HOLD),
    ],
)  # fmt: skip
def test_an_address_moves_when_its_standby_cannot_serve_it(
    changes: dict[str, Any], cause: Cause
) -> None:
    found = [
        Cause(c.cause)
        for c in decide_placing(view(placed(2), **changes))
        if c.address == A
    ]

    assert found == [cause]


def test_a_silent_node_loses_it() -> None:
    found = view(placed(2))
    old = {**found.reports, **received(standby(2), at_ms=NOW_MS - 1_501)}

    assert moved(replace(found, reports=old)) is Cause.SILENT
    # To a leader that has just been elected everybody was silent so far.
    fresh = NOW_MS - 1_000
    assert moved(replace(found, reports=old, elected_ms=fresh)) is None


def test_who_is_no_member_any_more_loses_it() -> None:
    state = cluster_state(members=(member(1), member(3)))

    assert moved(view(placed(2), state=state)) is Cause.MEMBER_LEFT


@pytest.mark.parametrize(
    "changes",
    [
        {"reports": (standby(2, state=PostgresState.STOPPED),)},
        {"readers": ()},
        {"reports": (standby(2, BROKEN),)},
    ],
)
def test_for_what_may_pass_it_moves_only_where_another_node_can_have_it(
    changes: dict[str, Any],
) -> None:
    alone = {"readers": (N2,), **changes}

    assert moved(view(placed(2), **alone)) is None


def test_an_address_moves_to_a_primary_that_allows_it() -> None:
    willing = primary_report(1, addresses=offers(A, fallback=True))
    stopped = standby(2, state=PostgresState.STOPPED)

    found = view(placed(2), reports=(willing, stopped), readers=(N2,))

    assert moved(found) is Cause.NOT_RUNNING


def test_after_a_change_of_the_primary_standbys_may_take_a_moment() -> None:
    just = NOW_MS - SETTLING_MS + 1

    assert moved(view(placed(2), readers=(N3,), opened_ms=just)) is None
    assert moved(view(placed(2), readers=(N3,), opened_ms=0)) is None
    settled = NOW_MS - SETTLING_MS
    assert moved(view(placed(2), readers=(N3,), opened_ms=settled)) is Cause.BEHIND


def test_a_strangers_answer_moves_nothing() -> None:
    taken = standby(2, offers(A, problem="02:00 answers", conflict=True))

    assert moved(view(placed(2), reports=(taken,))) is None


def test_what_has_just_come_is_not_moved_for_a_problem() -> None:
    broken = standby(2, BROKEN)
    recent = {40: NOW_MS - MIN_HOLDING_MS + 1}

    assert moved(view(placed(2), reports=(broken,), seen_ms=recent)) is None
    settled = {40: NOW_MS - MIN_HOLDING_MS}
    again = view(placed(2), reports=(broken,), seen_ms=settled)
    assert moved(again) is Cause.CANNOT_HOLD


def test_from_a_willing_primary_it_goes_back_to_a_standby_in_time() -> None:
    willing = primary_report(1, addresses=offers(A, fallback=True))
    recent = {40: NOW_MS - MIN_HOLDING_MS + 1}

    assert moved(view(placed(1), reports=(willing,))) is Cause.STANDBY_AGAIN
    assert moved(view(placed(1), reports=(willing,), seen_ms=recent)) is None
    assert moved(view(placed(1), reports=(willing,), readers=())) is None


# From one node to the next


def ended(**changes: Any) -> Placement:
    return placed(2, ended=True, serial=50, **changes)


def test_nobody_gets_it_before_the_lease_is_over_on_any_clock() -> None:
    length = stretched_ms(replace(POLICY, lease_ms=7_000))
    early = view(ended(lease_ms=7_000), seen_ms={50: NOW_MS - length + 1})
    late = view(ended(lease_ms=7_000), seen_ms={50: NOW_MS - length})

    assert length > 7_000
    assert decide_placing(early) == ()
    (change,) = decide_placing(late)
    assert isinstance(change, PlaceAddress)
    assert change.serial == 50


def test_what_the_leader_saw_only_now_has_the_whole_lease_before_it() -> None:
    assert decide_placing(view(ended(), seen_ms={})) == ()


@pytest.mark.parametrize(
    ("told", "sure"),
    [
        (offers(A, seen=50, may_be_set=False), True),
        (offers(A, seen=50, may_be_set=True), False),
        (offers(A, seen=49, may_be_set=False), False),
        (offers(B, seen=50, may_be_set=False), False),
    ],
)
def test_the_nodes_own_word_on_just_this_end_shortens_the_wait(
    told: AddressReport, *, sure: bool
) -> None:
    found = view(ended(), reports=(standby(2, told),), seen_ms={50: NOW_MS})
    changes = [c for c in decide_placing(found) if c.address == A]

    assert bool(changes) is sure


def test_the_word_of_who_is_no_member_counts_for_nothing() -> None:
    told = standby(2, offers(A, seen=50, may_be_set=False))
    state = cluster_state(members=(member(1), member(3)))
    found = view(ended(), reports=(told,), seen_ms={50: NOW_MS}, state=state)

    assert decide_placing(found) == ()
    silent = view(ended(), seen_ms={50: NOW_MS})
    assert decide_placing(replace(silent, reports=received(standby(3)))) == ()


def test_what_nobody_can_have_is_forgotten_once_it_is_gone() -> None:
    (change,) = decide_placing(view(ended(), readers=()))

    assert change == VacateAddress(address=A, serial=50, cause=Cause.GONE, forget=True)


# Where an operator sends it


def test_what_an_operator_moves_goes_to_the_node_that_was_named() -> None:
    crowd = placed(3, B, serial=41)

    both = (standby(2, offers(A, B)), standby(3, offers(A, B)))

    (change,) = decide_placing(view(ended(to=N3), crowd, reports=both))

    assert isinstance(change, PlaceAddress)
    assert (change.node, change.cause) == (N3, Cause.MOVED)


def test_who_was_named_and_cannot_have_it_any_more_does_not_get_it() -> None:
    (change,) = decide_placing(view(ended(to=N3), readers=(N2,)))

    assert isinstance(change, PlaceAddress)
    assert (change.node, change.cause) == (N2, Cause.CHOSEN)


# The node


def holdings(*placements: Placement, confirmed_ns: int) -> Any:
    return decide_replica_holdings(
        cluster_state(placements=placements),
        MemberId(2),
        confirmed_ns=confirmed_ns,
        margin_ms=LIMITS.margin_ms,
    )


def test_a_node_has_what_the_log_places_there_for_a_lease_from_its_question() -> None:
    asked_ns = 77 * NS_PER_MS

    found = holdings(placed(2), placed(3, B), confirmed_ns=asked_ns)

    assert list(found) == [A]
    assert found[A].epoch == 40
    assert found[A].until_ns == asked_ns + (5_000 - LIMITS.margin_ms) * NS_PER_MS


def test_without_an_answer_or_after_the_end_it_has_nothing() -> None:
    assert holdings(placed(2), confirmed_ns=0) == {}
    assert holdings(placed(2, ended=True), confirmed_ns=1) == {}
