"""What a server says of its settings, asked once for each server and each reload."""

import asyncio
from dataclasses import dataclass
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.postgres.primary import Primary


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsState:
    """The server's settings, as far as others want to know."""

    pending_restart: tuple[str, ...] = ()
    """Settings that wait for a restart."""
    limits: tuple[tuple[str, int], ...] = ()
    """What it runs with of those that a standby must not have less of."""


NOTHING = SettingsState()
# A server that is told of new files reads them within milliseconds.
_SETTLES_S: Final = 1.0
_ASK_EVERY_S: Final = 0.02


class SettingsWatch:
    """Asks one server, over a connection that somebody else keeps open."""

    def __init__(self, primary: Primary, *, look_s: float) -> None:
        self._primary = primary
        self.look_s = look_s
        self._known: SettingsState | None = None
        self._outdated = ""

    def forget(self) -> None:
        """Ask anew: it is another server."""
        self._known, self._outdated = None, ""

    async def reload(self) -> None:
        """Have the server read its files again; ask until it has.

        It is told by a signal: the session that asks may take it up only later.
        """
        self._outdated = await self._primary.loaded_at()
        await self._primary.reload()
        self._known = None

    async def settled(self) -> SettingsState:
        """Return what it says once it has read its files; wait a second for that."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _SETTLES_S
        state = await self.ask()
        while self._known is None and loop.time() < end_s:
            await asyncio.sleep(_ASK_EVERY_S)
            state = await self.ask()
        return state

    async def ask(self) -> SettingsState:
        """Return what it says; nothing while it does not answer."""
        if self._known is None:
            try:
                async with asyncio.timeout(self.look_s):
                    loaded_at = await self._primary.loaded_at()
                    found = SettingsState(
                        pending_restart=await self._primary.pending_restart(),
                        limits=await self._primary.limits(),
                    )
            except (PostgresError, TimeoutError):
                return NOTHING
            if loaded_at == self._outdated:
                return found
            self._known = found
        return self._known
