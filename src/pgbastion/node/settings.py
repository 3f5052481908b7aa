"""Gives this node's server the settings that the cluster has agreed on."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pgbastion.clock import boottime_ms
from pgbastion.control.settings import effective, held_back, overrides
from pgbastion.errors import PgBastionError
from pgbastion.ha.host import Host
from pgbastion.model.settings import NodeSettings
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.instance import Instance

RETRY_S: Final = 1.0
RELOAD_TIMEOUT_S: Final = 10.0

log = get_logger("settings")


class ClusterSettings:
    """Keeps the server's files at the newest version.

    Args:
        host: The replicated state and the reports.
        instance: The server's files.
        local: Returns the settings of this node's own file.
        fresh_ms: How old a standby's word may be.
        is_primary: Tells whether the server runs as a primary.
        reload: Writes the files and has the running server read them.
    """

    def __init__(
        self,
        host: Host,
        instance: Instance,
        *,
        node: str,
        local: Callable[[], Mapping[str, str]],
        fresh_ms: int,
        is_primary: Callable[[], bool],
        reload: Callable[[], Awaitable[object]],
    ) -> None:
        self._host = host
        self._instance = instance
        self._node = node
        self._local = local
        self.fresh_ms = fresh_ms
        self._is_primary = is_primary
        self._reload = reload
        self._given: Mapping[str, str] | None = None
        self._soon = asyncio.Event()

    def note(self) -> None:
        """See whether the server is to have other settings now."""
        newest = self._host.state.settings
        agreed = newest.parameters if newest else ()
        local = self._local()
        wanted = effective(agreed, local)
        held = held_back(wanted, *self._running()) if self._is_primary() else {}
        given = {**wanted, **{name: str(value) for name, value in held.items()}}
        self._instance.note_settings(
            NodeSettings(
                version=newest.version if newest else 0,
                overrides=overrides(agreed, local),
                waiting=tuple(held),
            )
        )
        if given == self._given:
            return
        first, self._given = self._given is None, given
        self._instance.config.set_parameters(given)
        # What the file says was written when the server was started.
        if not first or agreed:
            self._soon.set()

    def _running(self) -> tuple[NodeSettings | None, list[NodeSettings]]:
        own, standbys = None, []
        since_ms = boottime_ms() - self.fresh_ms
        for received in self._host.reports.values():
            settings = received.report.settings
            if settings is None:
                continue
            if received.report.node == self._node:
                own = settings
            elif received.at_ms >= since_ms:
                standbys.append(settings)
        return own, standbys

    async def run(self) -> None:
        """Write what has changed, for ever."""
        while True:
            await self._soon.wait()
            self._soon.clear()
            try:
                async with asyncio.timeout(RELOAD_TIMEOUT_S):
                    await self._reload()
            except (PgBastionError, TimeoutError, OSError) as exc:
                # A server that starts or stops meanwhile has its files written anyway.
                log.warning("settings_not_applied", error=str(exc))
                await asyncio.sleep(RETRY_S)
                self._soon.set()
            else:
                newest = self._host.state.settings
                log.info("settings_applied", version=newest.version if newest else 0)
