"""What the API may change on a node, whatever becomes of the proposal."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from pgbastion.api.ports import Done, Refused, Unknown
from pgbastion.control.apply import Outcome
from pgbastion.errors import ConfigError
from pgbastion.model.cluster import ClusterState
from pgbastion.model.commands import Command, Join
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.node.api import NodeCommands
from pgbastion.node.ordering import Ordering
from pgbastion.testing.views import cluster_state, member

pytestmark = pytest.mark.anyio


class FakeHost:
    """Applies a join to its state, or answers what a test wants."""

    def __init__(self) -> None:
        self.state: ClusterState = cluster_state()
        self.outcome: Outcome | None = Outcome.OK
        self.proposed: list[Command] = []

    async def propose(self, command: Command, *, timeout_s: float) -> Outcome | None:
        del timeout_s
        self.proposed.append(command)
        if self.outcome is Outcome.OK and isinstance(command, Join):
            new = replace(command.member, member_id=MemberId(4))
            self.state = replace(self.state, members=(*self.state.members, new))
        return self.outcome


async def _reload() -> str:
    return "applied: log.level"


async def _refuse() -> str:
    raise ConfigError("n1.yaml:3: error: node.name: is missing")


def commands(
    host: FakeHost, reload: Callable[[], Awaitable[str]] = _reload
) -> NodeCommands:
    return NodeCommands(
        host=host,  # type: ignore[arg-type]
        own=member(1),
        ordering=Ordering(host, fresh_ms=1_000, drain_ms=lambda: 0),  # type: ignore[arg-type]
        reload=reload,
    )


N4 = NodeId("n4")


async def test_an_announced_node_is_a_member_that_has_not_come() -> None:
    host = FakeHost()

    outcome = await commands(host).add_peer(N4, "10.0.1.4", 8300)

    assert outcome == Done(facts={"id": "n4", "member_id": 4})
    new = host.state.named(N4)
    assert new is not None
    assert not new.joined
    assert new.raft_address == "10.0.1.4:8300"


async def test_an_announced_node_counts_as_no_server() -> None:
    """A slot for a node that never comes would keep WAL until the disk is full."""
    host = FakeHost()
    before = host.state.servers

    await commands(host).add_peer(N4, "10.0.1.4", 8300)

    assert host.state.servers == before


async def test_announcing_a_node_again_changes_nothing() -> None:
    host = FakeHost()

    first = await commands(host).add_peer(N4, "10.0.1.4", 8300)
    second = await commands(host).add_peer(N4, "10.0.1.4", 8300)

    assert first == second
    assert len(host.proposed) == 1


async def test_a_name_that_is_taken_is_refused_before_it_is_proposed() -> None:
    host = FakeHost()

    outcome = await commands(host).add_peer(NodeId("n2"), "10.0.1.4", 8300)

    assert isinstance(outcome, Refused)
    assert outcome.code == "name_taken"
    assert "127.0.0.2:8300" in outcome.message
    assert not host.proposed


async def test_what_the_cluster_refuses_is_refused_with_its_word() -> None:
    host = FakeHost()
    host.outcome = Outcome.ADDRESS_TAKEN

    outcome = await commands(host).add_peer(N4, "127.0.0.2", 8300)

    assert isinstance(outcome, Refused)
    assert outcome.code == Outcome.ADDRESS_TAKEN


async def test_an_unknown_outcome_is_never_told_as_a_refusal() -> None:
    host = FakeHost()
    host.outcome = None

    assert isinstance(await commands(host).add_peer(N4, "10.0.1.4", 8300), Unknown)


async def test_a_reload_tells_what_became_of_it() -> None:
    outcome = await commands(FakeHost()).reload()

    assert isinstance(outcome, Done)
    assert outcome.facts["applied"] == "applied: log.level"


async def test_a_configuration_that_cannot_be_used_is_refused_with_its_problem() -> (
    None
):
    host = FakeHost()
    made = commands(host, _refuse)

    outcome = await made.reload()

    assert isinstance(outcome, Refused)
    assert "n1.yaml:3" in outcome.message
