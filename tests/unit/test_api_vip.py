"""``GET /vip`` and the metrics of the virtual addresses."""

from typing import Any

from pgbastion.api import answers
from pgbastion.api.vip import vip
from pgbastion.cli.addresses import render_vip
from pgbastion.model.addresses import (
    AddressCounts,
    AddressReport,
    AddressRole,
    AddressState,
    AddressStatus,
    Placement,
    ReplicaReport,
    VirtualAddress,
)
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.snapshot import NodeSnapshot
from pgbastion.observe.addresses import address_metrics
from pgbastion.testing.views import cluster_state, primary_report, received, report
from support.snapshots import primary_snapshot, standby_snapshot

ADDRESS = VirtualAddress(address="10.0.0.5", prefix=24, interface="eth0")
OTHER = VirtualAddress(address="fd00::5", prefix=64, interface="eth0")


def status(state: AddressState, address: VirtualAddress = ADDRESS) -> AddressStatus:
    return AddressStatus(
        address=address,
        state=state,
        problem="02:00 answers" if state is AddressState.CONFLICT else "",
        conflict_with="02:00" if state is AddressState.CONFLICT else "",
    )


def holder(*states: AddressState) -> NodeSnapshot:
    addresses = zip((ADDRESS, OTHER), states, strict=False)
    return primary_snapshot(
        addresses=tuple(status(state, address) for address, state in addresses),
        address_counts=AddressCounts(taken_total=2, announcements_total=15),
    )


def test_the_holder_is_the_node_that_has_every_address() -> None:
    both = holder(AddressState.HELD, AddressState.HELD)
    one = holder(AddressState.HELD, AddressState.FAILED)

    assert answers.health(both)["vip"] is True
    assert vip(both)["holder"] == "n1"
    assert answers.health(one)["vip"] is False


REPLICA = VirtualAddress(
    address="10.0.0.9", prefix=24, interface="eth0", role=AddressRole.REPLICA
)


def with_replica(*, placed: bool = True, ended: bool = False) -> NodeSnapshot:
    placement = Placement(
        address="10.0.0.9",
        serial=9,
        member_id=MemberId(2),
        node=NodeId("n2"),
        lease_ms=5_000,
        ended=ended,
        cause="it was chosen",
    )
    offer = ReplicaReport(address="10.0.0.9", seen=9, may_be_set=True, held=True)
    told = AddressReport(replicas=(offer,))
    return primary_snapshot(
        state=cluster_state(placements=(placement,) if placed else ()),
        addresses=(
            status(AddressState.HELD),
            AddressStatus(address=REPLICA, state=AddressState.ABSENT),
        ),
        address_counts=AddressCounts(),
        reports=received(primary_report(), report(2, addresses=told)),
    )


def test_an_address_for_replicas_is_no_part_of_who_holds_the_primarys() -> None:
    snapshot = with_replica()
    answer = vip(snapshot)

    assert snapshot.vip
    assert answer["holder"] == "n1"
    assert [each["role"] for each in answer["addresses"]] == ["primary", "replica"]
    assert answer["replicas"] == [
        {
            "address": "10.0.0.9",
            "node": "n2",
            "state": "held",
            "cause": "it was chosen",
            "problem": None,
        }
    ]
    assert "10.0.0.9 for replicas: held at n2 (it was chosen)" in render_vip(answer)


def test_where_an_address_for_replicas_is_not_says_the_answer_too() -> None:
    nowhere, leaving = vip(with_replica(placed=False)), vip(with_replica(ended=True))

    assert (nowhere["replicas"][0]["state"], nowhere["replicas"][0]["node"]) == (
        "nowhere",
        None,
    )
    assert "10.0.0.9 for replicas: nowhere" in render_vip(nowhere)
    assert leaving["replicas"][0]["state"] == "leaving"


def test_a_metric_names_the_node_of_an_address_for_replicas() -> None:
    def placed(snapshot: NodeSnapshot) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for family in address_metrics(snapshot)
            for sample in family.samples
            if sample.name == "pgbastion_vip_replica"
        ]

    labels = {"address": "10.0.0.9", "node": "n2"}
    assert placed(with_replica()) == [(labels, 1)]
    assert placed(with_replica(ended=True)) == [(labels, 0)]
    assert placed(with_replica(placed=False)) == []


def test_counts_of_several_addresses_add_up() -> None:
    one = AddressCounts(taken_total=2, hook_failures_total=1)
    two = AddressCounts(taken_total=3, restored_total=4)

    assert one + two == AddressCounts(
        taken_total=5, restored_total=4, hook_failures_total=1
    )


def test_a_node_without_addresses_says_so() -> None:
    answer = vip(primary_snapshot())

    assert answer["addresses"] == []
    assert answer["held"] is False
    assert answer["holder"] is None
    assert "no virtual address" in render_vip(answer)


def test_the_others_are_known_by_their_reports() -> None:
    told = AddressReport(held=("10.0.0.5/24",))
    broken = AddressReport(problem="there is no interface eth5")
    snapshot = standby_snapshot(
        reports=received(
            primary_report(addresses=told), report(2), report(3, addresses=broken)
        )
    )

    answer = vip(snapshot)

    assert answer["holder"] == "n1"
    assert {n["node"]: n["problem"] for n in answer["nodes"]} == {
        "n1": None,
        "n2": None,
        "n3": "there is no interface eth5",
    }


def test_a_conflict_is_told_with_its_hardware_address() -> None:
    snapshot = holder(AddressState.CONFLICT)

    shown: dict[str, Any] = dict(vip(snapshot)["addresses"][0])

    assert shown["state"] == "conflict"
    assert shown["conflict_with"] == "02:00"
    assert "02:00 answers" in render_vip(vip(snapshot))


def samples(snapshot: NodeSnapshot) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *s.labels.values()): float(s.value)
        for family in address_metrics(snapshot)
        for s in family.samples
    }


def test_the_metrics_have_owner_transitions_announcements_and_conflicts() -> None:
    found = samples(holder(AddressState.HELD))

    assert found["pgbastion_vip_state", "10.0.0.5", "held"] == 1
    assert found["pgbastion_vip_state", "10.0.0.5", "absent"] == 0
    assert found["pgbastion_vip_transitions_total", "held"] == 2
    assert found["pgbastion_vip_announcements_total",] == 15
    assert found["pgbastion_vip_conflicts_total",] == 0
    assert found["pgbastion_vip_conflict",] == 0
    assert samples(holder(AddressState.CONFLICT))["pgbastion_vip_conflict",] == 1


def test_a_node_without_addresses_has_no_such_metrics() -> None:
    assert samples(primary_snapshot()) == {}
