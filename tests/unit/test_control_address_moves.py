"""Whether an address for replicas is moved at an operator's word, and whereto."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.address_moves import NotMoved, decide_move
from pgbastion.control.placing import Cause
from pgbastion.model.addresses import AddressReport, Placement, ReplicaReport
from pgbastion.model.cluster import ClusterState, Fence
from pgbastion.model.commands import VacateAddress
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.testing.views import cluster_state, member, primary_report, report

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in range(1, 5))
A, B = "10.0.0.101", "10.0.0.102"


def offers(**changes: Any) -> AddressReport:
    each: dict[str, Any] = {"seen": 0, "may_be_set": False, **changes}
    return AddressReport(replicas=(ReplicaReport(address=A, **each),))


def standby(number: int, **changes: Any) -> NodeReport:
    told = {"streaming": True, "addresses": offers(), **changes}
    return report(number, **told)


def placed(number: int, address: str = A, **changes: Any) -> Placement:
    fields: dict[str, Any] = {
        "address": address,
        "serial": 40 + number,
        "member_id": MemberId(number),
        "node": NodeId(f"n{number}"),
        "lease_ms": 5_000,
        **changes,
    }
    return Placement(**fields)


FOUR = cluster_state(servers=4, placements=(placed(2), placed(3, B)))
REPORTS = {
    r.node: r for r in (primary_report(1, addresses=offers()), *map(standby, (2, 3, 4)))
}


def stays(
    state: ClusterState = FOUR,
    *changed: NodeReport,
    to: NodeId | None = N3,
    address: str = A,
) -> str:
    """Return why it is not moved; empty: it is."""
    reports = {**REPORTS, **{r.node: r for r in changed}}
    found = decide_move(state, reports, address, to)
    return found.why if isinstance(found, NotMoved) else ""


def test_an_address_goes_where_it_is_sent() -> None:
    assert decide_move(FOUR, REPORTS, A, N3) == VacateAddress(
        address=A, serial=42, cause=Cause.MOVED, to=N3
    )


def test_without_a_name_it_goes_to_another_standby_that_has_the_fewest() -> None:
    found = decide_move(FOUR, REPORTS, A, None)

    assert isinstance(found, VacateAddress)
    assert found.to == N4


def test_what_is_nowhere_or_on_its_way_or_there_already_is_not_moved() -> None:
    leaving = placed(2, ended=True, cause=Cause.FENCED)

    assert "no node has it" in stays(address="10.0.0.9")
    assert stays(replace(FOUR, placements=(leaving,))) == (
        "it leaves n2: the node is fenced"
    )
    assert stays(to=N2) == "n2 has it already"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (standby(3, draining=True), "is being taken out for maintenance"),
        (standby(3, addresses=AddressReport()), "does not have it in its config"),
        (standby(3, addresses=offers(problem="no carrier")), "reports: no carrier"),
        (standby(3, state=PostgresState.STARTING), "runs no standby"),
        (standby(3, streaming=False), "does not stream"),
    ],
)
def test_who_cannot_have_it_is_named_with_why(changed: NodeReport, why: str) -> None:
    assert stays(FOUR, changed).startswith(f"n3 {why}")


def test_a_strangers_answer_is_in_everybodys_way() -> None:
    assert stays(FOUR, standby(3, addresses=offers(problem="x", conflict=True))) == ""


def test_neither_the_primary_nor_a_fenced_silent_or_unknown_node_gets_it() -> None:
    fence = Fence(node=N3, force=False, drain_ms=0, cause="", at="")
    silent = {node: told for node, told in REPORTS.items() if node != N3}
    found = decide_move(FOUR, silent, A, N3)

    assert stays(to=N1) == "n1 is the primary"
    assert stays(replace(FOUR, fences=(fence,))) == "n3 is fenced"
    assert isinstance(found, NotMoved)
    assert found.why == "n3 is silent"
    assert stays(to=NodeId("n9")) == "n9 is not a member with PostgreSQL"


def test_where_no_other_node_can_have_it_each_is_named_with_why() -> None:
    three = cluster_state(placements=(placed(2),))
    alone = cluster_state(members=(member(2),), placements=(placed(2),))

    assert stays(three, standby(3, streaming=False), to=None) == (
        "n1 is the primary; n3 does not stream"
    )
    assert stays(alone, to=None) == "there is no other node"
