"""Asks servers for which no daemon speaks whether they run as a primary.

A PostgreSQL that was started by hand says nothing of itself to the cluster: the others
look. One on this node's own directory, which the guard did not start, is ended.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pgbastion.clock import boottime_ms
from pgbastion.errors import PgBastionError
from pgbastion.ha.host import Host
from pgbastion.model.cluster import Member
from pgbastion.model.ids import NodeId
from pgbastion.model.report import PostgresState
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.role_probe import RoleProbe

LOOK_EVERY_S: Final = 0.5
SILENT_MS: Final = 500
"""How late a report may be before the server of its node is asked itself."""
ANSWER_S: Final = 0.4
_SPEAK_FOR_THEMSELVES: Final = (PostgresState.STANDBY, PostgresState.PRIMARY)

log = get_logger("cluster")


class SplitWatch:
    """Looks at the servers of silent members twice a second.

    Args:
        host: State and reports.
        own: This node's name.
        probe_ms: A member reports this often; a late one has nobody who speaks for it.
        probe: Asks one server.
        fence: Ends a server on this node's directory that is under no guard; called
            only where no server of ours runs.
        may_fence: Whether nothing of ours is under way there.
        on_change: Called when what was seen has changed.
    """

    def __init__(
        self,
        host: Host,
        *,
        own: NodeId,
        probe_ms: int,
        probe: RoleProbe,
        may_fence: Callable[[], bool],
        fence: Callable[[], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        self._host = host
        self._own = own
        self.go_by(probe_ms=probe_ms)
        self._probe = probe
        self._may_fence = may_fence
        self._fence = fence
        self._on_change = on_change
        self._suspected: frozenset[NodeId] = frozenset()
        self._seen: tuple[NodeId, ...] = ()

    def go_by(self, *, probe_ms: int) -> None:
        """Expect reports at another pace."""
        self._silent_ms = probe_ms + SILENT_MS

    def seen(self) -> tuple[NodeId, ...]:
        """Return the members whose servers answered as a primary, twice in a row."""
        return self._seen

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def close(self) -> None:
        """Close connections."""
        await self._probe.close()

    async def _look(self) -> None:
        silent = [m for m in self._host.state.servers if self._is_silent(m)]
        await self._probe.keep({m.name for m in silent})
        answers = await asyncio.gather(*(self._ask(m) for m in silent))
        primaries = frozenset(
            member.name
            for member, primary in zip(silent, answers, strict=True)
            if primary
        )
        # Once could be an answer that crossed a change of role on its way.
        seen = tuple(sorted(primaries & self._suspected))
        self._suspected = primaries
        if self._own in seen and self._may_fence():
            await self._end_own()
        if seen != self._seen:
            self._seen = seen
            self._on_change()

    def _is_silent(self, member: Member) -> bool:
        received = self._host.reports.get(member.name)
        held = self._host.state.assignment
        if held is None or held.node == member.name:
            return False
        if received is None:
            return True
        old = boottime_ms() - received.at_ms > self._silent_ms
        return old or received.report.state not in _SPEAK_FOR_THEMSELVES

    async def _ask(self, member: Member) -> bool:
        return await self._probe.is_primary(
            member.name, member.host, member.postgres_port or 0, deadline_s=ANSWER_S
        )

    async def _end_own(self) -> None:
        log.error("unguarded_server_fenced", node=self._own)
        try:
            await self._fence()
        except (PgBastionError, TimeoutError, OSError) as exc:
            log.error("unguarded_server_not_fenced", error=str(exc))
