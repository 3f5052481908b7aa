"""From a request for other settings to the log, and from there to the files."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pgbastion.api.bodies import Settings
from pgbastion.api.ports import Done, Outcome, Refused, Unknown
from pgbastion.api.settings import config_status
from pgbastion.clock import boottime_ms
from pgbastion.control.apply import Outcome as LogOutcome
from pgbastion.control.apply import apply
from pgbastion.errors import PostgresError
from pgbastion.model.commands import Command, encode_command
from pgbastion.model.ids import MemberId
from pgbastion.model.report import NodeReport
from pgbastion.model.settings import NodeSettings
from pgbastion.model.views import RaftView
from pgbastion.node.commands import NodeCommands
from pgbastion.node.forwarding import answer_forwarded, forward
from pgbastion.node.ordering import Ordering
from pgbastion.node.settings import ClusterSettings
from pgbastion.node.settings_change import NO_SERVER, SettingsChange
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
from support.snapshots import primary_snapshot

pytestmark = pytest.mark.anyio


class FakeHost:
    """Applies commands, as the log would."""

    def __init__(self) -> None:
        self.state = cluster_state()
        self.reports: dict[Any, Any] = {}
        self.silent = False

    def raft(self) -> RaftView:
        return raft_view()

    async def propose(self, command: Command, *, timeout_s: float) -> LogOutcome | None:
        del timeout_s
        if self.silent:
            return None
        applied = apply(self.state, self.state.index + 1, "", encode_command(command))
        self.state = applied.state
        return applied.outcome

    @property
    def parameters(self) -> dict[str, str]:
        newest = self.state.settings
        return dict(newest.parameters) if newest else {}


async def nothing_wrong(parameters: Mapping[str, str]) -> tuple[Problem, ...]:
    del parameters
    return ()


def settings_change(host: FakeHost, judge: Any = nothing_wrong) -> SettingsChange:
    return SettingsChange(host, judge=judge, now=lambda: "now")  # type: ignore[arg-type]


async def change(
    host: FakeHost, changes: dict[str, str | None], **options: Any
) -> Outcome:
    asked = {"whole": False, "base": None, **options}
    return await settings_change(host).set_parameters(changes, **asked)


# Agreeing


async def test_a_change_leaves_the_other_settings_and_null_takes_one_out() -> None:
    host = FakeHost()
    await change(host, {"jit": "off", "work_mem": "8MB"})

    outcome = await change(host, {"work_mem": "16MB", "jit": None})

    assert outcome == Done(facts={"version": 2, "changed": True})
    assert host.parameters == {"work_mem": "16MB"}


async def test_a_replacement_is_all_there_is() -> None:
    host = FakeHost()
    await change(host, {"jit": "off", "work_mem": "8MB"})

    await change(host, {"work_mem": "8MB"}, whole=True)

    assert host.parameters == {"work_mem": "8MB"}


async def test_what_a_server_refuses_is_not_agreed_on() -> None:
    host = FakeHost()

    async def judge(parameters: Mapping[str, str]) -> tuple[Problem, ...]:
        return tuple(Problem(name=n, reason="bad") for n in parameters)

    outcome = await settings_change(host, judge).set_parameters(
        {"work_mem": "much"}, whole=False, base=None
    )

    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.message) == ("settings_refused", "work_mem: bad")
    assert host.parameters == {}


async def test_only_what_changes_is_judged() -> None:
    """A setting that was taken before a downgrade must not block every other one."""
    host = FakeHost()
    await change(host, {"jit": "off"})
    judged: list[str] = []

    async def judge(parameters: Mapping[str, str]) -> tuple[Problem, ...]:
        judged.extend(parameters)
        return ()

    await settings_change(host, judge).set_parameters(
        {"jit": "off", "work_mem": "1MB"}, whole=False, base=None
    )

    assert judged == ["work_mem"]


async def test_leaving_the_level_of_logical_slots_is_judged() -> None:
    host = FakeHost()
    await change(host, {"wal_level": "logical", "jit": "off"})
    judged: dict[str, str] = {}

    async def judge(parameters: Mapping[str, str]) -> tuple[Problem, ...]:
        judged.update(parameters)
        return ()

    await settings_change(host, judge).set_parameters(
        {"wal_level": None, "jit": None}, whole=False, base=None
    )

    assert judged == {"wal_level": "replica"}


async def test_an_older_version_is_not_changed() -> None:
    host = FakeHost()
    await change(host, {"jit": "off"})

    outcome = await change(host, {"jit": "on"}, base=0)

    assert isinstance(outcome, Refused)
    assert outcome.code == "version_changed"


async def test_the_same_settings_change_nothing() -> None:
    host = FakeHost()
    await change(host, {"jit": "off"})

    assert await change(host, {"jit": "off"}) == Done(
        facts={"version": 1, "changed": False}
    )


async def test_an_unknown_outcome_says_so() -> None:
    host = FakeHost()
    host.silent = True

    assert isinstance(await change(host, {"jit": "off"}), Unknown)


async def test_undo_goes_back_by_going_on() -> None:
    host = FakeHost()
    await change(host, {"jit": "off"})
    await change(host, {"jit": "on"})

    assert await settings_change(host).undo() == Done(
        facts={"version": 3, "changed": True}
    )
    assert host.parameters == {"jit": "off"}


async def test_the_first_version_can_be_undone_and_nothing_cannot() -> None:
    host = FakeHost()
    assert isinstance(await settings_change(host).undo(), Refused)
    await change(host, {"jit": "off"})

    await settings_change(host).undo()

    assert host.parameters == {}


# Without a server of its own


class FakeEngine:
    """Hands questions to another node's commands."""

    def __init__(self, commands: Any) -> None:
        self.commands = commands
        self.asked: list[int] = []

    async def request(
        self, member_id: int, kind: int, payload: bytes, timeout_s: float
    ) -> bytes | None:
        del kind, timeout_s
        self.asked.append(member_id)
        if self.commands is None:
            return None
        return await answer_forwarded(self.commands, payload)


def witness(host: FakeHost, engine: FakeEngine | None) -> NodeCommands:
    async def reload(dry_run: bool) -> str:
        return ""

    return NodeCommands(
        host=host,  # type: ignore[arg-type]
        members=None,  # type: ignore[arg-type]
        own=member(3, witness=True),
        engine=engine,  # type: ignore[arg-type]
        ordering=Ordering(host, fresh_ms=1, drain_ms=lambda: 0),  # type: ignore[arg-type]
        settings_change=settings_change(host, None),
        maintenance=None,  # type: ignore[arg-type]
        reload=reload,
    )


async def test_a_witness_has_the_primarys_node_judge() -> None:
    other = FakeCommands()
    other.outcome = Done(facts={"version": 7})
    engine = FakeEngine(other)

    outcome = await witness(FakeHost(), engine).set_parameters(
        {"jit": "off", "work_mem": None}, whole=False, base=0
    )

    assert outcome == Done(facts={"version": 7})
    assert engine.asked == [1]
    assert other.settings == [({"jit": "off", "work_mem": None}, False, 0)]


@pytest.mark.parametrize(
    "told",
    [Refused(code="x", message="no", remedy="do"), Unknown(message="?", remedy="look")],
)
async def test_what_the_other_node_says_comes_back(told: Outcome) -> None:
    other = FakeCommands()
    other.outcome = told

    outcome = await witness(FakeHost(), FakeEngine(other)).set_parameters(
        {"jit": "off"}, whole=True, base=None
    )

    assert outcome == told
    assert other.settings[0][1] is True


async def test_a_node_that_does_not_answer_leaves_the_outcome_unknown() -> None:
    outcome = await witness(FakeHost(), FakeEngine(None)).set_parameters(
        {"jit": "off"}, whole=False, base=None
    )

    assert isinstance(outcome, Unknown)


async def test_what_was_passed_on_is_not_passed_on_again() -> None:
    """Two nodes that take each other for the primary's must not ask for ever."""
    outcome = await witness(FakeHost(), None).set_parameters(
        {"jit": "off"}, whole=False, base=None
    )

    assert isinstance(outcome, Refused)
    assert outcome.code == NO_SERVER


async def test_a_server_that_cannot_be_asked_is_told() -> None:
    async def judge(parameters: Mapping[str, str]) -> tuple[Problem, ...]:
        raise PostgresError("cannot connect")

    outcome = await settings_change(FakeHost(), judge).set_parameters(
        {"jit": "off"}, whole=False, base=None
    )

    assert isinstance(outcome, Refused)
    assert "cannot connect" in outcome.message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"{}",
        b'{"method": "PATCH", "path": "/nothing", "body": {}}',
        b'{"method": "PATCH", "path": "/config", "body": {"parameters": 3}}',
        b'{"method": "PATCH", "path": "/config", "body": {}, "v": 2}',
    ],
)
async def test_a_question_that_makes_no_sense_gets_no_answer(payload: bytes) -> None:
    commands = FakeCommands()

    assert await answer_forwarded(commands, payload) == b""
    assert not commands.settings


async def test_a_request_of_another_kind_is_carried_out_as_if_it_came_here() -> None:
    commands = FakeCommands()
    body = Settings(parameters={"search_path": ["$user", "public"], "jit": False})

    await forward(
        FakeEngine(commands),  # type: ignore[arg-type]
        MemberId(2),
        "PUT",
        "/config",
        body,
    )

    assert commands.settings == [
        ({"search_path": '"$user", public', "jit": "off"}, True, None)
    ]


# The server's files


class FakeInstance:
    def __init__(self) -> None:
        self.config = self
        self.given: dict[str, str] = {}
        self.settings = NodeSettings(version=-1)

    def set_parameters(self, parameters: Mapping[str, str]) -> None:
        self.given = dict(parameters)

    def note_settings(self, settings: NodeSettings) -> None:
        self.settings = settings


class Applying:
    def __init__(self, *, primary: bool) -> None:
        self.host = FakeHost()
        self.instance = FakeInstance()
        self.reloads = 0
        self.failures = 0
        self.done = asyncio.Event()
        self.settings = ClusterSettings(
            self.host,  # type: ignore[arg-type]
            self.instance,  # type: ignore[arg-type]
            node="n1",
            local=lambda: {"shared_buffers": "1GB"},
            fresh_ms=10_000,
            is_primary=lambda: primary,
            reload=self.reload,
        )

    async def reload(self) -> None:
        self.reloads += 1
        if self.failures:
            self.failures -= 1
            raise PostgresError("it stops")
        self.done.set()

    def hear(self, *reports: NodeReport) -> None:
        self.host.reports = received(*reports, at_ms=boottime_ms())

    async def run_until_done(self) -> None:
        task = asyncio.create_task(self.settings.run())
        await asyncio.wait_for(self.done.wait(), 5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def limits(connections: int) -> NodeSettings:
    return NodeSettings(version=1, limits=(("max_connections", connections),))


async def test_a_server_gets_what_was_agreed_on_under_its_own_file() -> None:
    node = Applying(primary=False)
    node.settings.note()
    await change(node.host, {"jit": "off", "shared_buffers": "2GB"})

    node.settings.note()
    await node.run_until_done()

    assert node.instance.given == {"jit": "off", "shared_buffers": "1GB"}
    assert node.instance.settings == NodeSettings(
        version=1, overrides=(("shared_buffers", "1GB"),)
    )
    assert node.reloads == 1


async def test_nothing_is_written_while_nothing_changes() -> None:
    node = Applying(primary=False)

    for _ in range(3):
        node.settings.note()

    assert not node.settings._soon.is_set()


async def test_a_primary_waits_for_its_standbys_with_a_raised_limit() -> None:
    node = Applying(primary=True)
    node.hear(
        primary_report(settings=limits(100)),
        report(2, settings=limits(100)),
    )
    await change(node.host, {"max_connections": "200"})

    node.settings.note()
    before = dict(node.instance.given), node.instance.settings.waiting
    node.hear(
        primary_report(settings=limits(100)),
        report(2, settings=limits(200)),
    )
    node.settings.note()

    assert before[0]["max_connections"] == "100"
    assert before[1] == ("max_connections",)
    assert node.instance.given["max_connections"] == "200"
    assert node.instance.settings.waiting == ()


async def test_a_standby_takes_a_raised_limit_at_once() -> None:
    node = Applying(primary=False)
    node.hear(primary_report(2, settings=limits(100)), report(1))
    await change(node.host, {"max_connections": "200"})

    node.settings.note()

    assert node.instance.given["max_connections"] == "200"


async def test_a_reload_that_failed_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgbastion.node.settings.RETRY_S", 0.001)
    node = Applying(primary=False)
    node.failures = 2
    await change(node.host, {"jit": "off"})

    node.settings.note()
    await node.run_until_done()

    assert node.reloads == 3


# What is shown


async def test_what_waits_is_shown_with_its_reason() -> None:
    host = FakeHost()
    await change(host, {"max_connections": "200", "max_wal_senders": "10"})
    waiting = NodeSettings(
        version=1,
        limits=(("max_connections", 100), ("max_wal_senders", 16)),
        overrides=(("work_mem", "1GB"),),
        waiting=("max_connections",),
    )
    reports = received(
        primary_report(settings=waiting, pending_restart=("shared_buffers",))
    )

    status = config_status(primary_snapshot(state=host.state, reports=reports))

    first, second = status["nodes"][:2]
    assert (first["node"], first["version"]) == ("n1", 1)
    assert first["overrides"] == {"work_mem": "1GB"}
    assert [w["name"] for w in first["held_back"]] == ["max_connections"]
    assert [w["name"] for w in first["pending_restart"]] == [
        "max_wal_senders",
        "shared_buffers",
    ]
    assert "primary first" in first["pending_restart"][0]["reason"]
    assert second["version"] is None


def test_a_member_without_settings_is_an_older_release() -> None:
    old = replace(primary_report(), settings=None)

    status = config_status(primary_snapshot(reports=received(old)))

    assert status["nodes"][0]["version"] is None
