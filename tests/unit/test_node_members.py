"""Changes of the membership: what is refused before it is proposed, and why."""

from dataclasses import replace

import pytest

from pgbastion.api.ports import Done, Refused, Unknown
from pgbastion.clock import boottime_ms
from pgbastion.control.apply import Outcome
from pgbastion.control.outcomes import SENTENCES
from pgbastion.ha.ports import RaftStatus
from pgbastion.model.cluster import ClusterState
from pgbastion.model.commands import Command, Join, Leave
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.report import NodeReport
from pgbastion.model.views import RaftView, Received
from pgbastion.node.members import MemberOrders
from pgbastion.testing.views import (
    assignment,
    cluster_state,
    member,
    primary_report,
    raft_view,
    received,
    report,
)

pytestmark = pytest.mark.anyio

N1, N2, N3, N4, N9 = (NodeId(f"n{number}") for number in (1, 2, 3, 4, 9))


class FakeHost:
    """Applies a join to its state, or answers what a test wants."""

    def __init__(self, *reports: NodeReport, view: RaftView | None = None) -> None:
        self.state: ClusterState = cluster_state()
        self.reports: dict[NodeId, Received] = received(*reports, at_ms=boottime_ms())
        self.view = view or raft_view()
        self.outcome: Outcome | None = Outcome.OK
        self.proposed: list[Command] = []

    def raft(self) -> RaftView:
        return self.view

    def compact(self) -> int:
        return self.state.index

    async def propose(self, command: Command, *, timeout_s: float) -> Outcome | None:
        del timeout_s
        self.proposed.append(command)
        if self.outcome is Outcome.OK and isinstance(command, Join):
            new = replace(command.member, member_id=MemberId(4))
            self.state = replace(self.state, members=(*self.state.members, new))
        return self.outcome


class FakeEngine:
    """Has the group of a host's view, and moves leadership or not."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self.moves = True
        self.moved_to: list[int] = []

    def status(self) -> RaftStatus:
        view = self._host.view
        return RaftStatus(
            member_id=view.member_id,
            role="leader",
            term=view.term,
            leader=view.leader,
            committed=1,
            applied=1,
            last_index=1,
            voters=tuple(int(m) for m in view.voters),
            learners=tuple(int(m) for m in view.learners),
            configurations=(),
            own_entry_applied=True,
            elected_ns=0,
            last_answer_ns=0,
            pending_change=False,
            peers={},
        )

    async def transfer(self, member_id: int, timeout_s: float) -> bool:
        del timeout_s
        self.moved_to.append(member_id)
        return self.moves


def orders(host: FakeHost, engine: FakeEngine | None = None) -> MemberOrders:
    return MemberOrders(
        host,
        engine or FakeEngine(host),  # type: ignore[arg-type]
        own=lambda: member(1),
        fresh_ms=60_000,
    )


def whole(**changes: object) -> FakeHost:
    return FakeHost(
        primary_report(),
        report(2),
        report(3),
        view=raft_view(**changes),  # type: ignore[arg-type]
    )


async def test_an_announced_node_is_a_member_that_has_not_come() -> None:
    host = FakeHost()

    outcome = await orders(host).add(N4, "10.0.1.4", 8300)

    assert outcome == Done(facts={"id": "n4", "member_id": 4})
    new = host.state.named(N4)
    assert new is not None
    assert not new.joined
    assert new.raft_address == "10.0.1.4:8300"


async def test_an_announced_node_counts_as_no_server() -> None:
    """A slot for a node that never comes would keep WAL until the disk is full."""
    host = FakeHost()
    before = host.state.servers

    await orders(host).add(N4, "10.0.1.4", 8300)

    assert host.state.servers == before


async def test_announcing_a_node_again_changes_nothing() -> None:
    host = FakeHost()

    first = await orders(host).add(N4, "10.0.1.4", 8300)
    second = await orders(host).add(N4, "10.0.1.4", 8300)

    assert first == second
    assert len(host.proposed) == 1


async def test_a_name_that_is_taken_is_refused_before_it_is_proposed() -> None:
    host = FakeHost()

    outcome = await orders(host).add(NodeId("n2"), "10.0.1.4", 8300)

    assert isinstance(outcome, Refused)
    assert outcome.code == "name_taken"
    assert "127.0.0.2:8300" in outcome.message
    assert not host.proposed


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_node_in_no_cluster_yet_refuses_and_proposes_nothing(
    leaves: bool,
) -> None:
    host = FakeHost()
    host.state = ClusterState()
    members = orders(host)

    outcome = await (members.remove(N2) if leaves else members.add(N4, "h", 8300))

    assert isinstance(outcome, Refused)
    assert outcome.code == "no_cluster_yet"
    assert host.proposed == []


async def test_what_the_cluster_refuses_is_refused_with_its_word() -> None:
    host = FakeHost()
    host.outcome = Outcome.ADDRESS_TAKEN

    outcome = await orders(host).add(N4, "127.0.0.2", 8300)

    assert isinstance(outcome, Refused)
    assert outcome.code == Outcome.ADDRESS_TAKEN
    assert outcome.message.endswith("was not added: another member has this address")


def test_whatever_may_become_of_a_command_has_its_sentence() -> None:
    assert set(SENTENCES) == set(Outcome)


async def test_an_unknown_outcome_is_never_told_as_a_refusal() -> None:
    host = FakeHost()
    host.outcome = None

    assert isinstance(await orders(host).add(N4, "10.0.1.4", 8300), Unknown)


async def test_a_standby_is_taken_out() -> None:
    host = whole()

    outcome = await orders(host).remove(N3)

    assert outcome == Done(facts={"id": "n3", "member_id": 3})
    assert host.proposed == [Leave(member_id=MemberId(3))]


async def refused(host: FakeHost, name: NodeId) -> str:
    """Return why a removal was refused; nothing may have been proposed."""
    outcome = await orders(host).remove(name)
    assert isinstance(outcome, Refused)
    assert not host.proposed
    return outcome.code


async def test_an_unknown_node_is_refused_by_its_name() -> None:
    assert await refused(whole(), N9) == "unknown_member"


async def test_the_primary_is_not_taken_out() -> None:
    assert await refused(whole(), N1) == "is_primary"


async def test_a_last_primary_stays_until_there_is_another() -> None:
    """A degraded primary alone has its commits."""
    host = whole()
    host.state = cluster_state(assignment=assignment(revoked=True))
    assert await refused(host, N1) == "held_last"

    host.state = cluster_state(assignment=assignment(revoked=True, released=True))
    assert isinstance(await orders(host).remove(N1), Done)


async def test_a_primary_that_became_one_meanwhile_is_refused_too() -> None:
    host = whole()
    host.outcome = Outcome.HOLDS_EPOCH

    outcome = await orders(host).remove(N3)

    assert isinstance(outcome, Refused)
    assert outcome.code == "is_primary"


async def test_no_node_is_taken_out_while_another_leaves() -> None:
    assert await refused(whole(voters=(1, 2, 3, 7)), N3) == "pending"


async def test_no_node_is_taken_out_if_most_of_the_others_are_silent() -> None:
    silent = FakeHost(primary_report(), report(2))

    assert await refused(silent, N2) == "loses_majority"
    assert isinstance(await orders(silent).remove(N3), Done)


async def test_a_node_without_a_vote_is_taken_out_whoever_is_silent() -> None:
    host = FakeHost(view=raft_view(voters=(1, 2), learners=(MemberId(3),)))

    assert isinstance(await orders(host).remove(N3), Done)


async def test_the_last_node_is_not_taken_out() -> None:
    host = FakeHost(primary_report())
    host.state = cluster_state(servers=1, assignment=None)

    assert await refused(host, N1) == "last_member"


async def test_the_unknown_outcome_of_a_removal_is_told_as_such() -> None:
    host = whole()
    host.outcome = None

    assert isinstance(await orders(host).remove(N3), Unknown)


async def test_leadership_moves_to_a_voter() -> None:
    host = whole()
    engine = FakeEngine(host)

    outcome = await orders(host, engine).transfer(N2)

    assert isinstance(outcome, Done)
    assert outcome.facts["changed"] is True
    assert "n1" in str(outcome.facts["note"])
    assert engine.moved_to == [2]


async def test_a_leader_that_leads_already_is_not_asked() -> None:
    host = whole()
    engine = FakeEngine(host)

    outcome = await orders(host, engine).transfer(N1)

    assert outcome == Done(facts={"leader": "n1", "changed": False})
    assert not engine.moved_to


@pytest.mark.parametrize(
    ("view", "code"),
    [
        (raft_view(voters=(1, 3)), "not_voter"),
        (raft_view(leader=MemberId(0), is_leader=False), "no_leader"),
    ],
)
async def test_a_transfer_that_cannot_be_is_refused(view: RaftView, code: str) -> None:
    host = FakeHost(view=view)

    outcome = await orders(host).transfer(N2)

    assert isinstance(outcome, Refused)
    assert outcome.code == code


async def test_a_voter_that_does_not_take_leadership_is_named() -> None:
    host = whole()
    engine = FakeEngine(host)
    engine.moves = False

    outcome = await orders(host, engine).transfer(N2)

    assert isinstance(outcome, Refused)
    assert outcome.code == "not_transferred"


async def test_a_leader_that_stops_hands_leadership_to_who_was_heard_of() -> None:
    host = FakeHost(report(3))
    engine = FakeEngine(host)

    await orders(host, engine).hand_leadership_on()

    assert engine.moved_to == [3]


async def test_a_follower_that_stops_hands_nothing_on() -> None:
    host = whole(is_leader=False, leader=MemberId(2))
    engine = FakeEngine(host)

    await orders(host, engine).hand_leadership_on()

    assert not engine.moved_to
