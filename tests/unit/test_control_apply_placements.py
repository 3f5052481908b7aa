"""How the state takes where the addresses for replicas are."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.apply import apply
from pgbastion.control.apply_placements import PLACEMENTS_MAX
from pgbastion.control.outcomes import Outcome
from pgbastion.model.addresses import Placement
from pgbastion.model.cluster import (
    LEASE_MAX_MS,
    ClusterState,
    Fence,
    decode_state,
    encode_state,
)
from pgbastion.model.commands import Command, PlaceAddress, VacateAddress
from pgbastion.model.commands import encode_command as encode
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.testing.views import cluster_state, member

A = "10.0.0.101"
PLACE = PlaceAddress(
    address=A,
    serial=0,
    member_id=MemberId(2),
    node=NodeId("n2"),
    lease_ms=5_000,
    cause="c" * 300,
)


def after(state: ClusterState, *commands: Command) -> tuple[ClusterState, Outcome]:
    outcome = Outcome.OK
    for command in commands:
        applied = apply(state, state.index + 1, "", encode(command))
        state, outcome = applied.state, applied.outcome
    return state, outcome


def only(state: ClusterState) -> Placement:
    (placement,) = state.placements
    return placement


def test_a_placement_has_its_log_index_for_its_serial() -> None:
    state, outcome = after(cluster_state(), PLACE)

    assert outcome is Outcome.OK
    assert only(state) == Placement(
        address=A,
        serial=state.index,
        member_id=MemberId(2),
        node=NodeId("n2"),
        lease_ms=5_000,
        cause="c" * 200,
    )
    assert decode_state(encode_state(state)) == state
    # An assignment that was decided before is as good as it was.
    assert state.revision == cluster_state().revision


def test_an_end_names_the_next_node_where_an_operator_did() -> None:
    state, _ = after(cluster_state(), PLACE)
    end = VacateAddress(address=A, serial=only(state).serial, cause="", to=NodeId("n3"))

    moved, outcome = after(state, end)

    assert (outcome, only(moved).to) == (Outcome.OK, "n3")
    assert decode_state(encode_state(moved)) == moved
    again, _ = after(moved, replace(PLACE, serial=only(moved).serial))
    assert only(again).to is None
    stranger = replace(end, to=NodeId("n9"))
    assert after(state, stranger)[1] is Outcome.UNKNOWN_MEMBER


def test_what_a_node_has_nobody_else_gets() -> None:
    state, _ = after(cluster_state(), PLACE)
    again = replace(PLACE, serial=only(state).serial)

    assert after(state, PLACE)[1] is Outcome.ADDRESS_HELD
    assert after(state, again)[1] is Outcome.ADDRESS_HELD


def test_an_end_has_a_serial_of_its_own_and_is_replaced_by_that_alone() -> None:
    state, _ = after(cluster_state(), PLACE)
    first = only(state).serial
    end = VacateAddress(address=A, serial=first, cause="it lags")

    state, outcome = after(state, end)

    assert outcome is Outcome.OK
    assert only(state).ended
    assert only(state).serial == first + 1
    assert only(state).cause == "it lags"
    stale = replace(PLACE, serial=first)
    assert after(state, stale)[1] is Outcome.STALE_REVISION
    assert after(state, PLACE)[1] is Outcome.STALE_REVISION
    fitting = replace(PLACE, serial=only(state).serial)
    state, outcome = after(state, fitting)
    assert outcome is Outcome.OK
    assert not only(state).ended


def test_an_end_counts_once_and_for_its_own_placement() -> None:
    state, _ = after(cluster_state(), PLACE)
    end = VacateAddress(address=A, serial=only(state).serial, cause="")

    assert after(cluster_state(), end)[1] is Outcome.STALE_REVISION
    assert after(state, replace(end, serial=1))[1] is Outcome.STALE_REVISION
    state, _ = after(state, end)
    assert after(state, end)[1] is Outcome.STALE_REVISION
    again = replace(end, serial=only(state).serial)
    assert after(state, again)[1] is Outcome.NO_CHANGE


def test_only_what_has_ended_is_forgotten() -> None:
    state, _ = after(cluster_state(), PLACE)
    forget = VacateAddress(address=A, serial=only(state).serial, cause="", forget=True)
    assert after(state, forget)[1] is Outcome.ADDRESS_HELD

    state, _ = after(state, replace(forget, forget=False))
    state, outcome = after(state, replace(forget, serial=only(state).serial))

    assert outcome is Outcome.OK
    assert state.placements == ()
    # Its serials never come again.
    assert after(state, PLACE)[0].placement(A) != only(after(cluster_state(), PLACE)[0])


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"member_id": MemberId(9)}, Outcome.UNKNOWN_MEMBER),
        ({"node": NodeId("n3")}, Outcome.UNKNOWN_MEMBER),
        ({"member_id": MemberId(4), "node": NodeId("n4")}, Outcome.UNKNOWN_MEMBER),
        ({"node": NodeId("n3"), "member_id": MemberId(3)}, Outcome.FENCED),
        ({"address": ""}, Outcome.SENSELESS),
        ({"address": "1" * 46}, Outcome.SENSELESS),
        ({"lease_ms": 0}, Outcome.SENSELESS),
        ({"lease_ms": LEASE_MAX_MS + 1}, Outcome.SENSELESS),
        ({"serial": 7}, Outcome.STALE_REVISION),
    ],
)
def test_what_makes_no_sense_is_refused(
    changes: dict[str, Any], outcome: Outcome
) -> None:
    fence = Fence(node=NodeId("n3"), force=False, drain_ms=0, cause="", at="")
    members = (*cluster_state().members, member(4, witness=True))
    state = cluster_state(fences=(fence,), members=members)

    assert after(state, replace(PLACE, **changes)) == (
        replace(state, index=state.index + 1),
        outcome,
    )


def test_the_table_is_bounded() -> None:
    full = tuple(
        Placement(
            address=f"10.0.1.{n}",
            serial=1,
            member_id=MemberId(2),
            node=NodeId("n2"),
            lease_ms=1,
        )
        for n in range(PLACEMENTS_MAX)
    )

    state = cluster_state(placements=full)

    assert after(state, PLACE)[1] is Outcome.TOO_MANY_ADDRESSES
