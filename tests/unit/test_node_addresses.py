"""The node's addresses, joined with its proxy, the state and the platform."""

from typing import Any

import pytest

from pgbastion.model.addresses import (
    AddressCounts,
    AddressReport,
    AddressRole,
    AddressState,
    AddressStatus,
    Holding,
    VirtualAddress,
)
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.node import addresses as node_addresses
from pgbastion.node.addresses import NoAddresses, NodeAddresses, build_addresses
from pgbastion.node.replica_addresses import ReplicaAddresses
from pgbastion.platform.choice import PORTABLE, VARIABLE
from support.configs import understood

PRIMARY = VirtualAddress(address="10.0.0.5", prefix=24, interface="eth0")
REPLICA = VirtualAddress(
    address="10.0.0.9", prefix=24, interface="eth0", role=AddressRole.REPLICA
)
HELD = Holding(epoch=Epoch(40), until_ns=1)


class Manager:
    """Stands in for the manager of some addresses."""

    def __init__(self, *addresses: VirtualAddress, problem: str = "") -> None:
        self.addresses = addresses
        self.problem = problem
        self.wanted: list[Holding] = []
        self.may_be_set = False

    def want(self, holding: Holding) -> None:
        self.wanted.append(holding)

    def statuses(self) -> tuple[AddressStatus, ...]:
        return tuple(
            AddressStatus(address=each, state=AddressState.ABSENT)
            for each in self.addresses
        )

    def report(self) -> AddressReport:
        return AddressReport(problem=self.problem)

    def counts(self) -> AddressCounts:
        return AddressCounts(taken_total=1)


def made(primary: Manager, replica: Manager | None = None) -> NodeAddresses:
    anything: Any = None
    replicas = ReplicaAddresses(
        (REPLICA,) if replica else (),
        make=lambda _: replica,  # type: ignore[arg-type, return-value]
        fallback=True,
    )
    manager: Any = primary
    return NodeAddresses(
        NodeId("n1"), manager, replicas, host=anything, ordering=anything
    )


def test_a_proxy_that_lets_nobody_in_is_a_problem_of_every_address() -> None:
    addresses = made(Manager(PRIMARY), Manager(REPLICA))
    addresses.lead_to(lambda: "the proxy listens nowhere")

    told = addresses.report()

    assert told.problem == "the proxy listens nowhere"
    assert told.replicas[0].problem == "the proxy listens nowhere"


def test_the_kernels_problem_goes_first_and_a_good_path_is_none() -> None:
    broken = made(Manager(PRIMARY, problem="no carrier"))
    broken.lead_to(lambda: "the proxy listens nowhere")
    well = made(Manager(PRIMARY), Manager(REPLICA))
    well.lead_to(lambda: "")

    assert broken.report().problem == "no carrier"
    assert well.report().problem == ""
    assert well.report().replicas[0].problem == ""


def test_without_an_address_of_the_primarys_the_role_stays_where_it_is() -> None:
    addresses = made(Manager(), Manager(REPLICA))
    addresses.lead_to(lambda: "the proxy listens nowhere")

    assert addresses.report().problem == ""


def test_a_report_speaks_of_the_placement_that_it_rests_on() -> None:
    replica = Manager(REPLICA)
    addresses = made(Manager(PRIMARY), replica)
    assert addresses.report().replicas[0].seen == 0

    addresses.want_replicas({REPLICA.address: HELD}, {REPLICA.address: 40})
    replica.may_be_set = True
    first = addresses.report().replicas[0]
    addresses.want_replicas({}, {REPLICA.address: 41})
    replica.may_be_set = False
    second = addresses.report().replicas[0]

    assert replica.wanted[0] == HELD
    assert not replica.wanted[1].allowed
    assert (first.seen, first.may_be_set, first.fallback) == (40, True, True)
    assert (second.seen, second.may_be_set) == (41, False)
    assert addresses.counts().taken_total == 2
    assert [s.address for s in addresses.statuses()] == [PRIMARY, REPLICA]


def test_on_another_system_one_line_says_that_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setenv(VARIABLE, PORTABLE)
    monkeypatch.setattr(
        node_addresses.log, "warning", lambda event, **told: said.append((event, told))
    )
    config = understood(vip={"address": "10.0.1.100/24", "interface": "eth0"})
    anything: Any = None

    found = build_addresses(
        config,
        guard=anything,
        permit=anything,
        on_change=anything,
        host=anything,
        ordering=anything,
    )

    assert isinstance(found, NoAddresses)
    assert said == [("vip_unsupported", {"platform": PORTABLE})]
