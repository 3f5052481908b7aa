"""Dry runs: each command says what it would do, and does nothing."""

import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from pgbastion.api.bodies import Nothing
from pgbastion.api.endpoints import carry_out
from pgbastion.api.ports import Commands, Done, Outcome, Refused, Unknown, When
from pgbastion.clock import boottime_ms
from pgbastion.control.apply import Outcome as LogOutcome
from pgbastion.control.apply import apply
from pgbastion.ha.ports import RaftStatus
from pgbastion.model.commands import Command, encode_command
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.model.wal import Lsn
from pgbastion.node.commands import NodeCommands
from pgbastion.node.members import MemberOrders
from pgbastion.node.ordering import Ordering
from pgbastion.node.proposing import Rehearsal
from pgbastion.node.proxying import Maintenance
from pgbastion.node.settings_change import SettingsChange
from pgbastion.postgres.settings import Problem
from pgbastion.testing.views import (
    cluster_state,
    member,
    primary_report,
    raft_view,
    received,
    report,
)
from support.api_server import FakeCommands
from support.ordering import N1, N2, N3

pytestmark = pytest.mark.anyio

LATER: Final = When(due=datetime.now(UTC) + timedelta(hours=1), valid_ms=1_000)
# Each command, with what its dry run has to say among other facts.
ASKED: Final[Mapping[str, tuple[Callable[[NodeCommands], Any], dict[str, Any]]]] = {
    "add_peer": (
        lambda c: c.add_peer(NodeId("n4"), "10.0.0.4", 8300),
        {"id": "n4", "member_id": 4},
    ),
    "remove_peer": (lambda c: c.remove_peer(N3), {"id": N3, "member_id": 3}),
    "transfer": (lambda c: c.transfer(N2), {"leader": N2, "changed": True}),
    "take_snapshot": (lambda c: c.take_snapshot(), {"node": N1}),
    "set_pause": (lambda c: c.set_pause(paused=True), {"changed": True}),
    "set_replication": (
        lambda c: c.set_replication(mode=None, sync_count=None, strict=True),
        {"changed": True, "strict": True},
    ),
    "set_profile": (
        lambda c: c.set_profile(Profile.FAST),
        {"changed": True, "lease_ms": 2_000},
    ),
    "switch_over": (lambda c: c.switch_over(N2, None), {"to": N2}),
    "schedule": (lambda c: c.schedule(N2, None, LATER), {"to": N2}),
    "fail_over": (lambda c: c.fail_over(N2, force=False), {"possible_loss": None}),
    "fence": (
        lambda c: c.fence(N2, force=False, drain_ms=None),
        {"fenced": True, "changed": True},
    ),
    "unfence": (lambda c: c.unfence(N2), {"fenced": False, "changed": False}),
    "restart": (lambda c: c.restart(N2, pending=False, drain_ms=None), {"to": N2}),
    "reinit": (lambda c: c.reinit(N2), {"to": N2}),
    "set_parameters": (
        lambda c: c.set_parameters({"work_mem": "1MB"}, whole=False, base=None),
        {"version": 1, "changed": True},
    ),
    "drain": (lambda c: c.drain(None), {"draining": True, "sessions": 7}),
    "undrain": (lambda c: c.undrain(), {"draining": False}),
    "reload": (lambda c: c.reload(), {"applied": "would be applied"}),
}
# What has nothing to do yet is refused, as it would be.
REFUSED: Final[Mapping[str, Callable[[NodeCommands], Any]]] = {
    "cancel": lambda c: c.cancel(None),
    "move_address": lambda c: c.move_address("10.0.0.101", None),
    "undo_parameters": lambda c: c.undo_parameters(),
}


class Untouched:
    """A log, an engine, a proxy and a loop that must not be told anything."""

    def __init__(self) -> None:
        self.state = cluster_state()
        self.reports = received(
            primary_report(),
            report(2, replay_lsn=Lsn(100)),
            report(3, replay_lsn=Lsn(100)),
            at_ms=boottime_ms(),
        )
        self.leader = 1

    def raft(self) -> Any:
        return raft_view(leader=self.leader)

    def status(self) -> RaftStatus:
        return RaftStatus(
            member_id=1,
            role="leader",
            term=5,
            leader=1,
            committed=1,
            applied=1,
            last_index=1,
            voters=(1, 2, 3),
            learners=(),
            configurations=(),
            own_entry_applied=True,
            elected_ns=0,
            last_answer_ns=0,
            pending_change=False,
            peers={},
        )

    def snapshot(self) -> Any:
        return type("Counts", (), {"connections": 7})


class Applying(Untouched):
    """A log that takes commands."""

    async def propose(self, command: Command, *, timeout_s: float) -> LogOutcome | None:
        del timeout_s
        applied = apply(self.state, self.state.index + 1, "", encode_command(command))
        self.state = applied.state
        return applied.outcome


async def judged(_: Mapping[str, str]) -> tuple[Problem, ...]:
    return ()


async def reload(dry_run: bool) -> str:
    assert dry_run
    return "would be applied"


def commands(there: Any) -> NodeCommands:
    return NodeCommands(
        host=there,
        members=MemberOrders(there, there, own=lambda: member(1), fresh_ms=60_000),
        own=member(1),
        engine=there,
        ordering=Ordering(there, fresh_ms=60_000, drain_ms=lambda: 0),
        settings_change=SettingsChange(there, judge=judged),
        maintenance=Maintenance(there, there, lambda: 30_000),
        reload=reload,
    )


async def outcome_of(asked: Any) -> Outcome:
    found: Outcome = await asked if inspect.isawaitable(asked) else asked
    return found


def test_every_command_can_be_tried() -> None:
    wanted = {name for name in vars(Commands) if not name.startswith("_")}

    assert {*ASKED, *REFUSED, "rehearsal", "not_primary"} == wanted


@pytest.mark.parametrize("name", ASKED)
async def test_a_dry_run_says_what_would_be_done_and_touches_nothing(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask, facts = ASKED[name]
    there = Untouched()
    before = there.state

    with caplog.at_level("INFO"):
        outcome = await outcome_of(ask(commands(there).rehearsal()))

    assert isinstance(outcome, Done), outcome
    assert facts.items() <= outcome.facts.items()
    assert there.state is before
    assert not caplog.records


@pytest.mark.parametrize("name", REFUSED)
async def test_a_dry_run_is_refused_as_the_order_would_be(name: str) -> None:
    there = Untouched()

    outcome = await outcome_of(REFUSED[name](commands(there).rehearsal()))

    assert isinstance(outcome, Refused)
    assert outcome == await outcome_of(REFUSED[name](commands(Applying())))


async def test_what_another_order_forbids_is_told_by_a_dry_run() -> None:
    """The log's own rules judge it, not only the checks before it."""
    there = Applying()
    tried = await commands(there).rehearsal().restart(N2, pending=False, drain_ms=None)
    await commands(there).restart(N3, pending=False, drain_ms=None)
    again = await commands(there).rehearsal().restart(N2, pending=False, drain_ms=None)

    assert isinstance(tried, Done)
    assert isinstance(again, Refused)


async def test_what_needs_two_commands_is_tried_on_what_the_first_one_leads_to() -> (
    None
):
    there = Applying()
    await commands(there).schedule(N2, None, LATER)
    kept = there.state.scheduled
    tried = await commands(there).rehearsal().cancel(None)

    assert isinstance(tried, Done)
    assert tried.facts["cancelled"] == [kept[0].order_id]
    assert there.state.scheduled == kept != ()


async def test_nobody_can_tell_without_a_raft_leader() -> None:
    there = Untouched()
    there.leader = 0

    assert isinstance(
        await commands(there).rehearsal().fence(N2, force=False, drain_ms=None), Unknown
    )


def test_a_log_that_is_tried_says_up_to_where_it_would_go() -> None:
    there: Any = Untouched()

    assert Rehearsal(there).compact() == there.state.index


async def test_there_is_nothing_to_follow_after_a_dry_run() -> None:
    asked = FakeCommands()
    asked.outcome = Done(facts={"id": "o1", "to": "n2"}, follow="o1")

    async def change(given: Commands, body: Nothing) -> Outcome:
        return await given.unfence(N2)

    tried = await carry_out(change, asked, Nothing(dry_run=True))
    done = await carry_out(change, asked, Nothing())

    assert tried == Done(facts={"to": "n2", "dry_run": True})
    assert done == asked.outcome
    assert asked.wishes == [("unfence", N2)]
