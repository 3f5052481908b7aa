"""What the guard's word about an end is to the daemon."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.errors import GuardError
from pgbastion.postgres.guard_client import GuardClient, GuardRefused
from pgbastion.postgres.guard_link import GuardLink
from pgbastion.postgres.guard_messages import (
    Exited,
    GuardStatus,
    KillOutcome,
    Stopped,
    WatchdogSetting,
    parse_status,
)

pytestmark = pytest.mark.anyio

IDLE = GuardStatus(
    guard=1,
    state="idle",
    postmaster=0,
    postmaster_start=0,
    pgdata="",
    adopted=False,
    tainted=False,
    armed=3,
    ended=0,
    asked_ns=0,
    generation=1,
    writer=1,
    left=(),
    warnings=(),
)


WATCHDOG = WatchdogSetting(
    device="/dev/watchdog", timeout_s=4, least_s=3, required=True
)


def link_with(
    folder: Path, watchdog: WatchdogSetting | None, answer: GuardStatus = IDLE
) -> GuardLink:
    link = GuardLink(
        run_dir=folder,
        data_dir=folder / "data",
        user="postgres",
        uid=0,
        on_stopped=lambda: None,
        on_event=lambda: None,
        watchdog=watchdog,
    )
    client: Any = SimpleNamespace(latest=answer, exit_code=None)
    link._client = client
    return link


def test_a_server_that_failed_is_told_of_with_its_last_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads the daemon's log need not look for another one."""
    link = link_with(tmp_path, None)
    link._take(Exited(pid=7, code=1, signal=None, stopped=False, left=()))
    assert link.facts().server_said == ""

    words = "data directory has wrong ownership"
    (tmp_path / "postgres.log").write_text(f"FATAL:  {words}\nHINT:  look\n")
    link._take(Exited(pid=7, code=1, signal=None, stopped=False, left=()))

    assert link.facts().server_said == words


def test_only_a_required_watchdog_keeps_a_node_from_the_role(tmp_path: Path) -> None:
    gone = replace(IDLE, watchdog="unusable", watchdog_problem="no such device")

    required = link_with(tmp_path, WATCHDOG, gone).facts()
    assert required.unable == "its watchdog is required: no such device"
    assert required.watchdog == "unusable"
    assert link_with(tmp_path, WATCHDOG).facts().unable == ""
    automatic = replace(WATCHDOG, required=False)
    assert link_with(tmp_path, automatic, gone).facts().unable == ""
    assert link_with(tmp_path, None, gone).facts().unable == ""


@pytest.mark.anyio
async def test_a_guard_of_an_earlier_release_has_no_watchdog(tmp_path: Path) -> None:
    class Earlier:
        latest = IDLE
        exit_code = None

        async def watch(self, _: WatchdogSetting) -> None:
            raise GuardRefused("unknown", "watchdog: no such command")

    link = link_with(tmp_path, WATCHDOG)
    client: Any = Earlier()
    await link._set_watchdog(client)

    assert "no such command" in link.facts().unable


def test_the_status_of_an_earlier_guard_is_read() -> None:
    told = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(IDLE).items()
        if not name.startswith("watchdog")
    }

    assert parse_status(told) == IDLE


@pytest.mark.parametrize(
    ("code", "child_died"),
    [(1, True), (0, False), (None, False)],
    ids=["child-died", "in-order", "by-a-signal"],
)
def test_an_end_with_code_1_is_that_of_a_child(
    tmp_path: Path, code: int | None, child_died: bool
) -> None:
    link = link_with(tmp_path, None)
    client: Any = SimpleNamespace(latest=IDLE, exit_code=code)
    link._client = client

    assert link.facts().child_died is child_died


@pytest.mark.anyio
async def test_a_guard_that_takes_over_hears_of_every_address_with_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = GuardLink(
        run_dir=tmp_path,
        data_dir=tmp_path / "data",
        user="postgres",
        uid=0,
        on_stopped=lambda: None,
        on_event=lambda: None,
    )
    kept: list[tuple[str, int]] = []

    async def keep(address: str, until_ns: int) -> None:
        kept.append((address, until_ns))

    async def status() -> GuardStatus:
        return IDLE

    async def ask_for_writer_lock() -> int:
        return 1

    guard: Any = SimpleNamespace(
        latest=IDLE,
        exit_code=None,
        keep=keep,
        status=status,
        ask_for_writer_lock=ask_for_writer_lock,
    )

    async def connect(*_: object, **__: object) -> Any:
        return guard

    monkeypatch.setattr(GuardClient, "connect_or_spawn", connect)
    link._client = guard
    await link.keep_address("10.0.0.9", 70)
    await link.keep_address("10.0.0.9", 90)
    assert kept.pop(0) == ("10.0.0.9", 70)

    await link.connect()

    assert kept == [("10.0.0.9", 90), ("10.0.0.9", 90)]


def killing(folder: Path, ends: list[str]) -> tuple[GuardLink, Any]:
    """Return a link to a guard that kills, and its client."""
    link = link_with(folder, None)
    link._on_stopped = lambda: ends.append("stopped")
    client: Any = SimpleNamespace(latest=replace(IDLE, state="killing", postmaster=7))
    client.exit_code = None
    link._client = client
    return link, client


@pytest.mark.anyio
@pytest.mark.parametrize("idle_at_exit", [True, False])
async def test_a_kill_is_told_once_whichever_word_of_it_comes_first(
    tmp_path: Path, idle_at_exit: bool
) -> None:
    """Who is not told takes what it knew of that server for true of the next one."""
    ends: list[str] = []
    link, client = killing(tmp_path, ends)

    async def kill(**_: object) -> KillOutcome:
        if idle_at_exit:
            client.latest = IDLE
        link._take(Exited(pid=7, code=None, signal=9, stopped=True, left=()))
        client.latest = IDLE
        return KillOutcome(stopped=True, left=())

    client.kill = kill

    await link.stop(fast_ms=0)
    link._take(Stopped(pgdata=str(tmp_path)))

    assert ends == ["stopped"]


@pytest.mark.anyio
async def test_an_end_while_the_guard_is_renewed_is_told_by_the_renewal(
    tmp_path: Path,
) -> None:
    """Told twice, the second would count as a start that failed."""
    ends: list[str] = []
    link, client = killing(tmp_path, ends)
    renewing: Any = object()
    link._renewing = renewing

    async def kill(**_: object) -> KillOutcome:
        client.latest = IDLE
        return KillOutcome(stopped=True, left=())

    client.kill = kill

    await link.stop(fast_ms=0)

    assert ends == []


class Watching:
    """A guard that takes watchdogs, or is silent."""

    exit_code = None
    latest = IDLE

    def __init__(self) -> None:
        self.named: list[WatchdogSetting] = []
        self.silent = False

    async def watch(self, setting: WatchdogSetting) -> None:
        if self.silent:
            raise GuardError("the guard does not answer")
        self.named.append(setting)


async def test_other_times_of_the_watchdog_are_told_once_and_kept_when_unheard(
    tmp_path: Path,
) -> None:
    link, guard = link_with(tmp_path, WATCHDOG), Watching()
    client: Any = guard
    link._client = client
    slower = replace(WATCHDOG, timeout_s=20)

    guard.silent = True
    with pytest.raises(GuardError):
        await link.use_watchdog(slower)
    guard.silent = False
    for _ in range(2):
        await link.use_watchdog(slower)

    assert guard.named == [slower]


@pytest.mark.anyio
async def test_a_server_that_ends_before_the_signal_comes_is_stopped_too(
    tmp_path: Path,
) -> None:
    """Else a daemon that is told to stop would fail with its epoch unreleased."""

    class Late:
        latest = replace(IDLE, state="running", postmaster=7)
        exit_code = None

        async def signal(self, name: str) -> None:
            raise GuardRefused("not_running", f"no postmaster runs for {name}")

        async def kill(self, **_: object) -> KillOutcome:
            self.latest = IDLE
            return KillOutcome(stopped=True, left=())

    link = link_with(tmp_path, None)
    client: Any = Late()
    link._client = client

    await link.stop(fast_ms=1_000)

    assert not link.facts().running
