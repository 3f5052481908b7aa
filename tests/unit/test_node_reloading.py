"""A reload while the server is not there to take its part."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from pgbastion.config.model import Config
from pgbastion.config.secrets import Secrets
from pgbastion.errors import ConfigError, PostgresError
from pgbastion.model.ids import Epoch
from pgbastion.node import reloading
from pgbastion.node.reloading import Reloads, reload_postgres
from support.configs import understood

pytestmark = pytest.mark.anyio


class FakeNode:
    """A node whose server answers, or does not."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.waiting: tuple[str, ...] = ()
        self.renewed: list[tuple[str, ...]] = []
        self.roles: dict[str, str] = {}
        """What the server has."""
        self.secrets = Secrets(
            cluster=b"0123456789abcdef", write_token="w", read_token=None, passwords={}
        )
        self.host = SimpleNamespace(state=SimpleNamespace(epoch=Epoch(1)))
        self.instance = self

    async def reload_server(self) -> tuple[str, ...]:
        if not self.answers:
            raise PostgresError("the server starts")
        return self.waiting

    async def renew_passwords(
        self, passwords: Mapping[str, str], *, on_server: bool
    ) -> tuple[str, ...]:
        assert on_server
        if not self.answers:
            raise PostgresError("the server starts")
        changed = tuple(r for r in passwords if self.roles.get(r) != passwords[r])
        self.roles.update(passwords)
        self.renewed.append(changed)
        return changed


async def reloaded(node: Any, config: Config) -> str:
    return await reload_postgres(node, config, lambda epoch: epoch == 1)


async def test_a_server_that_does_not_answer_hinders_no_reload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = FakeNode(answers=False)

    told = await reloaded(node, understood(postgresql={}))

    assert "PostgreSQL did not take its part: the server starts" in told
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert said == ["server_not_reloaded"]


async def test_settings_that_wait_for_a_restart_of_the_server_are_told() -> None:
    node = FakeNode(answers=True)
    node.waiting = ("max_connections", "shared_buffers")

    told = await reloaded(node, understood(postgresql={}))

    waiting = "; PostgreSQL needs a restart for: max_connections, shared_buffers"
    assert told.endswith(waiting)


async def test_passwords_that_were_not_taken_are_tried_at_the_next_reload() -> None:
    config = understood(postgresql={})
    node = FakeNode(answers=False)

    await reloaded(node, config)
    before = dict(node.secrets.passwords)
    node.answers = True
    told = await reloaded(node, config)
    again = await reloaded(node, config)

    assert "passwords set on the server: " in told
    assert again == ""
    assert before == {}
    assert node.renewed == [tuple(node.secrets.passwords), ()]
    assert node.secrets.passwords


async def test_a_password_that_was_changed_on_the_server_is_set_by_a_reload() -> None:
    """Standbys cannot log in with another one, and the file is as it was."""
    config = understood(postgresql={})
    node = FakeNode(answers=True)
    await reloaded(node, config)
    node.roles["replicator"] = "by hand"

    told = await reloaded(node, config)

    assert told == "; passwords set on the server: replicator"


class Slow:
    """A reading that lasts until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.running = 0
        self.most = 0
        self.go_on = asyncio.Event()

    async def read(self) -> str:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        told = f"reading {self.begun}"
        await self.go_on.wait()
        self.running -= 1
        return told


async def test_however_many_ask_one_reloads_and_one_more_comes_after() -> None:
    """The file may have changed since the first began: who asks later has it read."""
    slow = Slow()
    reloads = Reloads(slow.read)
    first = asyncio.create_task(reloads.once())
    await asyncio.sleep(0.01)
    later = [asyncio.create_task(reloads.once()) for _ in range(300)]
    await asyncio.sleep(0.01)
    slow.go_on.set()

    assert await first == "reading 1"
    assert set(await asyncio.gather(*later)) == {"reading 2"}
    assert (slow.begun, slow.most) == (2, 1)


async def test_a_storm_of_signals_is_two_reloads() -> None:
    slow = Slow()
    reloads = Reloads(slow.read)
    first = reloads.soon()
    await asyncio.sleep(0.01)
    later = {reloads.soon() for _ in range(300)}
    slow.go_on.set()

    assert await first == "reading 1"
    assert [await reading for reading in later] == ["reading 2"]
    assert (slow.begun, slow.most) == (2, 1)


async def test_a_reload_that_fails_is_told_and_not_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever sends a signal hears of it in the log only."""
    reload = AsyncMock(side_effect=[ConfigError("nonsense"), "applied: nothing"])
    reloads = Reloads(reload)

    with pytest.raises(ConfigError):
        await reloads.soon()

    said = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert said == ["not_reloaded"]
    assert await reloads.soon() == "applied: nothing"


async def test_a_fault_in_a_reload_is_told_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What nobody foresaw goes to the loop's handler, with its traceback."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: told.append(said))
    fault = ValueError("unforeseen")

    with pytest.raises(ValueError, match="unforeseen"):
        await Reloads(AsyncMock(side_effect=fault)).soon()

    assert [said["exception"] for said in told] == [fault]
    assert caplog.records == []


async def test_a_reload_that_is_cut_short_by_the_daemon_s_end_is_no_fault() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: told.append(said))
    reading = Reloads(Slow().read).soon()
    await asyncio.sleep(0)

    reading.cancel()
    await asyncio.wait([reading])
    await asyncio.sleep(0)

    assert told == []


async def test_who_gives_up_waiting_ends_a_reload_for_nobody_else() -> None:
    slow = Slow()
    reloads = Reloads(slow.read)
    impatient = asyncio.create_task(reloads.once())
    patient = asyncio.create_task(reloads.once())
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.sleep(0)
    slow.go_on.set()

    assert await patient == "reading 1"


async def test_a_reload_keeps_the_clusters_timings_and_tells_what_the_file_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file's profile counts when a cluster is founded only."""
    fast = understood(failover={"profile": "fast"})
    node: Any = MagicMock(
        config=replace(understood(), timings=fast.timings),
        secrets=FakeNode(answers=True).secrets,
        instance=None,
        reload_server=AsyncMock(),
    )
    wide = understood(failover={"profile": "wide"})
    monkeypatch.setattr(reloading, "load_config", lambda _: wide)
    monkeypatch.setattr(reloading, "load_secrets", lambda *_: node.secrets)
    monkeypatch.setattr(reloading, "configure_logging", lambda **_: None)

    await reloading.reload_node(node, lambda _: False)

    assert node.config.timings == fast.timings
    assert node.config.failover == wide.failover
    assert node.loop.reporter.file_profile == wide.failover.profile
