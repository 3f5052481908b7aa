"""What the API may change on a node, whatever becomes of the proposal."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pgbastion.api.ports import Done, Refused
from pgbastion.control.apply import Outcome
from pgbastion.errors import ConfigError
from pgbastion.model.cluster import ClusterState
from pgbastion.model.commands import Command, Join
from pgbastion.model.ids import MemberId
from pgbastion.node.commands import NodeCommands
from pgbastion.node.ordering import Ordering
from pgbastion.node.proxying import Maintenance
from pgbastion.node.settings_change import SettingsChange
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


async def _reload(dry_run: bool) -> str:
    return "would be applied: log.level" if dry_run else "applied: log.level"


async def _refuse(dry_run: bool) -> str:
    raise ConfigError("n1.yaml:3: error: node.name: is missing")


class FakeProxy:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def drain(self, timeout_s: float, *, idle_first: bool = False) -> None:
        self.told.append((timeout_s, idle_first))

    def undrain(self) -> None:
        self.told.append("undrain")

    def snapshot(self) -> SimpleNamespace:
        return SimpleNamespace(connections=7)


class FakeLoop:
    """Notes whether the node's report says that it drains."""

    def __init__(self) -> None:
        self.draining = False
        self.woken = 0

    def set_draining(self, draining: bool) -> None:
        self.draining = draining
        self.woken += 1


def commands(
    host: FakeHost,
    reload: Callable[[bool], Awaitable[str]] = _reload,
    maintenance: Maintenance | None = None,
) -> NodeCommands:
    return NodeCommands(
        host=host,  # type: ignore[arg-type]
        members=None,  # type: ignore[arg-type]
        own=member(1),
        engine=None,
        settings_change=SettingsChange(host, judge=None),  # type: ignore[arg-type]
        ordering=Ordering(host, fresh_ms=1_000, drain_ms=lambda: 0),  # type: ignore[arg-type]
        maintenance=maintenance or Maintenance(FakeProxy(), FakeLoop(), lambda: 30_000),  # type: ignore[arg-type]
        reload=reload,
    )


async def test_a_node_that_drains_says_so_to_the_others_until_it_does_no_more() -> None:
    proxy, loop = FakeProxy(), FakeLoop()
    maintenance = Maintenance(proxy, loop, lambda: 30_000)  # type: ignore[arg-type]
    node = commands(FakeHost(), maintenance=maintenance)

    drained = node.drain(None)
    assert drained == Done(
        facts={"draining": True, "timeout_ms": 30_000, "sessions": 7}
    )
    assert (loop.draining, loop.woken) == (True, 1)
    node.drain(500)
    assert node.undrain() == Done(facts={"draining": False})
    assert proxy.told == [(30.0, False), (0.5, False), "undrain"]
    assert (loop.draining, loop.woken) == (False, 3)


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
