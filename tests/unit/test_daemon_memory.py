"""What the daemon leaves to the collector of garbage."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pgbastion import daemon
from pgbastion.config.model import Config
from pgbastion.config.secrets import Secrets
from pgbastion.daemon import Ending, run, spare_the_collector
from pgbastion.early_signals import EarlySignals
from pgbastion.errors import ConfigError


def test_collections_look_only_at_what_was_made_since_the_start() -> None:
    before = len(gc.get_objects())
    try:
        spare_the_collector()

        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 2
    finally:
        gc.unfreeze()


def test_a_daemon_whose_modules_were_read_without_collections_has_them_again(
    tmp_path: Path,
) -> None:
    gc.disable()
    try:
        with pytest.raises(ConfigError):
            run(tmp_path / "missing.yaml", EarlySignals())

        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_a_node_is_made_of_is_none_of_the_collectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The daemon spares it once the node is built, and before it runs."""
    part: list[object] = []
    looked_at: list[bool] = []

    @asynccontextmanager
    async def build(*_arguments: object) -> AsyncIterator[object]:
        part.append([])
        yield SimpleNamespace(
            reloads=SimpleNamespace(soon=None),
            front=SimpleNamespace(sockets=SimpleNamespace()),
            loop=SimpleNamespace(silent_ms=lambda: 0),
        )

    async def run_node(ending: asyncio.Future[Ending], *_rest: object) -> None:
        looked_at.append(any(each is part[0] for each in gc.get_objects()))
        ending.set_result(Ending(leaves_postgres=False))

    monkeypatch.setattr(daemon, "_running_node", build)
    monkeypatch.setattr(daemon, "_run_until", run_node)
    nothing = cast("Config", None), cast("Secrets", None)
    try:
        asyncio.run(daemon._main(*nothing, EarlySignals(), []))

        assert looked_at == [False]
    finally:
        gc.unfreeze()
