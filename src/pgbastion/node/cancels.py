"""Cancel requests whose session came through another node's proxy.

A client that cancels opens a new connection, and a balancer, an address that moved or
a list of hosts may lead it to another node than its session. So a node that does not
know the key asks the others; the one that knows it delivers the request itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pgbastion.ha.host import Host
from pgbastion.ha.messages import Kind
from pgbastion.ha.ports import RaftEngine

ASK_TIMEOUT_S: Final = 1.0
_FOUND: Final = b"1"


class FarCancels:
    """Asks the other members for sessions, and answers them."""

    def __init__(self, engine: RaftEngine, host: Host) -> None:
        self._engine = engine
        self._host = host

    async def ask(self, request: bytes) -> bool:
        """Have another node deliver ``request``; tell whether one has done so."""
        own = self._engine.status().member_id
        members = [m.member_id for m in self._host.state.members if m.member_id != own]
        asked = [asyncio.create_task(self._ask(m, request)) for m in members]
        try:
            for answer in asyncio.as_completed(asked):
                if await answer:
                    return True
        finally:
            for task in asked:
                task.cancel()
        return False

    async def _ask(self, member_id: int, request: bytes) -> bool:
        found = await self._engine.request(
            member_id, Kind.CANCEL, request, ASK_TIMEOUT_S
        )
        return found == _FOUND


async def answer_cancel(
    deliver: Callable[[bytes], Awaitable[bool]], request: bytes
) -> bytes:
    """Answer another node's question; ``deliver`` knows the sessions of this one."""
    return _FOUND if await deliver(request) else b"0"
