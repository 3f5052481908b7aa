"""What the leader proposes, and a node keeps, of the addresses for replicas."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from pgbastion.clock import NS_PER_MS, boottime_ms
from pgbastion.control.routing import Routing
from pgbastion.ha.cutter import WitnessCutter
from pgbastion.ha.host import Host
from pgbastion.ha.placing import Placer
from pgbastion.model.actions import Propose
from pgbastion.model.addresses import AddressReport, Placement, ReplicaReport
from pgbastion.model.cluster import encode_state
from pgbastion.model.commands import PlaceAddress, VacateAddress, encode_command
from pgbastion.model.ids import Epoch, MemberId, NodeId
from pgbastion.model.views import ClusterView, Received
from pgbastion.testing.views import (
    cluster_state,
    cluster_view,
    member,
    primary_report,
    raft_view,
    report,
)

A = "10.0.0.101"
PLACED = Placement(
    address=A,
    serial=9,
    member_id=MemberId(2),
    node=NodeId("n2"),
    lease_ms=5_000,
)
ROUTING = Routing(
    epoch=Epoch(3),
    primary=member(1),
    primary_reason="",
    changing=False,
    parking="",
    replicas=(member(3),),
    replica_reason="",
)


class Engine:
    """Takes what the host tells it."""

    def status(self) -> Any:
        return SimpleNamespace(last_index=0)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0


def host(*placements: Placement) -> Host:
    made = Host(
        Engine(),
        node=NodeId("n2"),
        cutter=WitnessCutter(),
        on_change=lambda: None,
        cut_timeout_ms=100,
    )
    made.on_snapshot(10, encode_state(cluster_state(placements=placements)))
    return made


def placer(of: Host, addresses: Any = None) -> tuple[Placer, list[Any]]:
    offered: list[Any] = []
    runner: Any = SimpleNamespace(offer=offered.append)
    return Placer(of, addresses, runner, margin_ms=500), offered


def view(of: Host, **changes: Any) -> ClusterView:
    offer = ReplicaReport(address=A, seen=0, may_be_set=False)
    told = AddressReport(replicas=(offer,))
    reports = (primary_report(), report(2, addresses=told), report(3, addresses=told))
    now_ms = boottime_ms()
    fields: dict[str, Any] = {
        "state": of.state,
        "now_ms": now_ms,
        "reports": {r.node: Received(report=r, at_ms=now_ms) for r in reports},
        "raft": raft_view(is_leader=True, own_entry_applied=True, elected_ms=1),
        **changes,
    }
    return replace(cluster_view(), **fields)


def test_only_a_leader_with_a_routing_of_its_own_proposes() -> None:
    made = host()
    leading, offered = placer(made)
    follower = view(made, raft=raft_view(is_leader=False))
    too_new = view(made, raft=raft_view(is_leader=True, own_entry_applied=False))

    leading.lead(view(made), None)
    leading.lead(follower, ROUTING)
    leading.lead(too_new, ROUTING)
    assert offered == []
    leading.lead(view(made), ROUTING)

    ((proposed,),) = offered
    assert isinstance(proposed, Propose)
    assert isinstance(proposed.command, PlaceAddress)
    assert proposed.command.node == "n3"


def test_a_node_keeps_its_own_and_tells_which_placements_it_knows() -> None:
    other = replace(PLACED, address="10.0.0.102", member_id=MemberId(3), serial=8)
    wanted: list[Any] = []
    port = SimpleNamespace(want_replicas=lambda *told: wanted.append(told))
    keeping, _ = placer(host(PLACED, other), port)

    keeping.keep(MemberId(2), 7 * NS_PER_MS)
    placer(host(PLACED))[0].keep(MemberId(2), 7 * NS_PER_MS)

    ((holdings, seen),) = wanted
    assert list(holdings) == [A]
    assert seen == {A: 9, "10.0.0.102": 8}


def test_each_placement_counts_from_when_this_node_first_saw_it_so() -> None:
    made = host(PLACED)
    first_ms = made.placements_seen_ms[9]
    made.placements_seen_ms = {9: first_ms - 1_000}
    end = VacateAddress(address=A, serial=9, cause="")

    made.on_committed(11, b"", b"")
    assert made.placements_seen_ms == {9: first_ms - 1_000}
    made.on_committed(12, b"", encode_command(end))
    assert list(made.placements_seen_ms) == [12]
    assert made.placements_seen_ms[12] >= first_ms
    gone = VacateAddress(address=A, serial=12, cause="", forget=True)
    made.on_committed(13, b"", encode_command(gone))
    assert made.placements_seen_ms == {}
