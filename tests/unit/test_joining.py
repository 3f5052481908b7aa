"""How a node without an identity gets one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from pgbastion.control.apply import Outcome, apply
from pgbastion.errors import ConfigError
from pgbastion.ha import joining
from pgbastion.ha.joining import AskPeer, Identity, Joiner
from pgbastion.ha.member_admission import MemberAdmission
from pgbastion.ha.messages import (
    Brings,
    Guest,
    Kind,
    Welcome,
    decode_guest,
    decode_welcome,
    encode_guest,
)
from pgbastion.model.cluster import ClusterState, Member, Policy, ReplicationMode
from pgbastion.model.commands import Command, Found, encode_command
from pgbastion.model.ids import MemberId, NodeId

pytestmark = pytest.mark.timeout(10)


def member(number: int) -> Member:
    return Member(
        member_id=MemberId(0),
        name=NodeId(f"n{number}"),
        host=f"10.0.0.{number}",
        raft_port=8300,
        postgres_port=5442,
        api_port=8080,
        primary_port=5432,
        replica_port=5433,
    )


class StateHost:
    """A host whose proposals are applied at once."""

    def __init__(self) -> None:
        self.state = ClusterState()

    async def propose(self, command: Command, *, timeout_s: float) -> Outcome:
        del timeout_s
        applied = apply(self.state, self.state.index + 1, "", encode_command(command))
        self.state = applied.state
        return applied.outcome

    def found(self) -> None:
        asyncio.run(
            self.propose(
                Found(
                    cluster_name="main",
                    cluster_id="c1",
                    member=replace(member(1), member_id=MemberId(1), joined=True),
                    policy=Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500),
                    mode=ReplicationMode.QUORUM,
                    sync_count=None,
                    strict=False,
                ),
                timeout_s=1,
            )
        )


def guest(number: int, *, auto_join: bool = True) -> Guest:
    return Guest(
        member=member(number), cluster_name="main", founding=False, auto_join=auto_join
    )


def ask_in(admission: MemberAdmission, who: Guest, kind: Kind = Kind.JOIN) -> Welcome:
    answer = decode_welcome(asyncio.run(admission.answer(kind, encode_guest(who))))
    assert answer is not None
    return answer


def joiner_of(
    number: int,
    peers: list[int],
    ask: AskPeer,
    *,
    founding: bool = False,
    brings: Brings = Brings.NOTHING,
    found: Callable[[], Sequence[str]] = tuple,
) -> Joiner:
    return Joiner(
        own=member(number),
        cluster_name="main",
        peers=[member(peer).raft_address for peer in peers],
        founding=founding,
        auto_join=True,
        brings=brings,
        ask=ask,
        found=found,
    )


@pytest.fixture
def host() -> StateHost:
    founded = StateHost()
    founded.found()
    return founded


@pytest.fixture
def admission(host: StateHost) -> MemberAdmission:
    return MemberAdmission(host, member(1), timeout_s=1)


def test_a_guest_gets_the_next_id_and_the_addresses_of_the_members(
    admission: MemberAdmission,
) -> None:
    welcome = ask_in(admission, guest(2))

    assert welcome.member_id == 2
    assert welcome.peers == ((1, "10.0.0.1:8300"),)


def test_who_lets_nobody_in(admission: MemberAdmission, host: StateHost) -> None:
    assert ask_in(admission, guest(2), Kind.WHO).member_id == 0
    assert host.state.named(NodeId("n2")) is None


def test_a_member_that_lost_its_disk_gets_a_new_id(admission: MemberAdmission) -> None:
    first = ask_in(admission, guest(2))
    second = ask_in(admission, guest(2))

    assert second.member_id == first.member_id + 1


def test_a_late_question_puts_nobody_out_who_came_in_elsewhere(
    admission: MemberAdmission, host: StateHost
) -> None:
    """This node stood still, and the guest has been let in by another one."""
    told = ask_in(admission, guest(2), Kind.WHO)
    late = replace(guest(2), known_id=told.known_id)
    admitted = ask_in(MemberAdmission(host, member(1), timeout_s=1), late)

    welcome = ask_in(admission, late)

    assert admitted.member_id == 2
    assert welcome.member_id == 0
    assert host.state.named(NodeId("n2")) is not None
    # Had the answer been lost, it would ask who is there, and then come in.
    again = replace(guest(2), known_id=ask_in(admission, guest(2), Kind.WHO).known_id)
    assert ask_in(admission, again).member_id == 3


def test_a_joiner_says_who_had_its_name_as_it_was_told(host: StateHost) -> None:
    admission = MemberAdmission(host, member(1), timeout_s=1)
    ask_in(admission, guest(2))
    said: list[MemberId | None] = []

    async def ask(address: str, kind: Kind, payload: bytes) -> bytes | None:
        asked = decode_guest(payload)
        if kind is Kind.JOIN and asked is not None:
            said.append(asked.known_id)
        return await admission.answer(kind, payload)

    joiner = joiner_of(2, [1], ask)
    identity = asyncio.run(within(joiner.run(), 1))

    assert identity is not None
    assert (said, identity.member_id) == ([2], 3)


def test_a_second_node_of_one_name_is_refused(admission: MemberAdmission) -> None:
    ask_in(admission, guest(2))
    impostor = replace(guest(2), member=replace(member(3), name=NodeId("n2")))

    welcome = ask_in(admission, impostor)

    assert welcome.member_id == 0
    assert "n2" in welcome.refused


def test_without_auto_join_only_an_announced_node_comes_in(
    admission: MemberAdmission,
) -> None:
    welcome = ask_in(admission, guest(2, auto_join=False))

    assert welcome.member_id == 0
    assert "add-node" in welcome.refused


def test_a_node_of_another_cluster_name_is_refused(admission: MemberAdmission) -> None:
    welcome = ask_in(admission, replace(guest(2), cluster_name="other"))

    assert welcome.member_id == 0


def test_nodes_that_gossip_finds_are_asked_as_well() -> None:
    lan = Lan()
    asked: list[str] = []

    async def ask(address: str, kind: Kind, payload: bytes) -> bytes | None:
        asked.append(address)
        return await lan.ask(address, kind, payload)

    found = [member(1).raft_address, member(2).raft_address]
    joiner = joiner_of(3, [1], ask, found=lambda: found)

    assert asyncio.run(within(joiner.run(), 0.1)) is None
    assert asked == [member(1).raft_address, member(2).raft_address]


class Lan:
    """Nodes that answer each other's questions; a missing one is silent."""

    def __init__(self) -> None:
        self.nodes: dict[str, Callable[[int, bytes], bytes]] = {}
        self.slow: dict[str, float] = {}

    async def ask(self, address: str, kind: Kind, payload: bytes) -> bytes | None:
        await asyncio.sleep(self.slow.get(address, 0))
        node = self.nodes.get(address)
        return None if node is None else node(kind, payload)


def founder(
    lan: Lan, number: int, others: list[int], brings: Brings = Brings.NOTHING
) -> Joiner:
    joiner = joiner_of(number, others, lan.ask, founding=True, brings=brings)
    lan.nodes[member(number).raft_address] = joiner.answer
    return joiner


async def within(wait: Awaitable[Identity], seconds: float) -> Identity | None:
    try:
        async with asyncio.timeout(seconds):
            return await wait
    except TimeoutError:
        return None


def test_a_node_alone_founds_a_cluster() -> None:
    identity = asyncio.run(within(founder(Lan(), 1, [2, 3]).run(), 1))

    assert identity is not None
    assert identity.member_id == 1
    assert identity.peers == ()


def test_of_founders_that_see_each_other_only_the_first_founds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joining, "ASK_AGAIN_S", 0.01)
    lan = Lan()
    joiners = [founder(lan, n, [m for m in (1, 2, 3) if m != n]) for n in (1, 2, 3)]

    async def all_at_once() -> list[Identity | None]:
        return await asyncio.gather(*(within(j.run(), 0.3) for j in joiners))

    formed = asyncio.run(all_at_once())

    assert [identity is not None for identity in formed] == [True, False, False]


def test_a_founder_that_was_asked_by_an_earlier_one_does_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The other way round it heard nothing: its question was lost.
    monkeypatch.setattr(joining, "ASK_AGAIN_S", 0.01)
    joiner = founder(Lan(), 2, [1])
    earlier = Guest(
        member=member(1), cluster_name="main", founding=True, auto_join=True
    )
    joiner.answer(Kind.WHO, encode_guest(earlier))

    assert asyncio.run(within(joiner.run(), 0.2)) is None


async def together(*joiners: Joiner) -> list[Identity | BaseException | None]:
    return await asyncio.gather(
        *(within(j.run(), 0.3) for j in joiners), return_exceptions=True
    )


def test_of_founders_one_that_brings_data_founds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joining, "ASK_AGAIN_S", 0.01)
    lan = Lan()
    empty = founder(lan, 1, [2])
    full = founder(lan, 2, [1], Brings.STOPPED)

    formed = asyncio.run(together(empty, full))

    assert formed[0] is None
    assert isinstance(formed[1], Identity)


def test_between_two_databases_a_human_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "ASK_AGAIN_S", 0.01)
    lan = Lan()
    joiners = [
        founder(lan, 1, [2], Brings.STOPPED),
        founder(lan, 2, [1], Brings.PRIMARY),
    ]

    refused = asyncio.run(together(*joiners))

    assert all(isinstance(refusal, ConfigError) for refusal in refused)
    assert "n2 at 10.0.0.2:8300 both hold a PostgreSQL" in str(refused[0])


def test_a_running_primary_is_taken_over_when_all_peers_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LEASE.md, section 7: exactly one primary, all members answering."""
    monkeypatch.setattr(joining, "ASK_AGAIN_S", 0.01)
    lan = Lan()
    joiner = founder(lan, 1, [2, 3], Brings.PRIMARY)
    founder(lan, 2, [1, 3])
    assert asyncio.run(together(joiner)) == [None]

    founder(lan, 3, [1, 2])

    assert isinstance(asyncio.run(together(joiner))[0], Identity)


def test_a_node_that_brings_data_joins_no_cluster(host: StateHost) -> None:
    admission = MemberAdmission(host, member(1), timeout_s=1)

    async def ask(address: str, kind: Kind, payload: bytes) -> bytes | None:
        del address
        return await admission.answer(kind, payload)

    lan = Lan()
    lan.ask = ask  # type: ignore[method-assign]
    (refusal,) = asyncio.run(together(founder(lan, 2, [1], Brings.STOPPED)))

    assert isinstance(refusal, ConfigError)
    assert "belongs to a cluster already" in str(refusal)
    assert host.state.named(NodeId("n2")) is None
