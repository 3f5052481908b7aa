"""Answers what other nodes ask, each kind by whoever knows, and lets them in."""

import asyncio
from typing import Final

from pgbastion.consensus.engine import Engine
from pgbastion.consensus.interface import Request
from pgbastion.errors import PgBastionError
from pgbastion.ha.host import Host
from pgbastion.ha.messages import Kind
from pgbastion.model.ids import MemberId
from pgbastion.node.cancels import answer_cancel
from pgbastion.node.forwarding import answer_forwarded
from pgbastion.node.front import Front
from pgbastion.node.membership import Membership
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.guard_link import GuardLink
from pgbastion.postgres.instance import Instance

LET_IN_TIMEOUT_S: Final = 5.0

log = get_logger("node")


class PeerRequests:
    """Answers the questions of one node's channel."""

    def __init__(
        self,
        engine: Engine,
        host: Host,
        membership: Membership,
        front: Front,
        *,
        guard: GuardLink | None,
    ) -> None:
        self._engine = engine
        self._host = host
        self._membership = membership
        self._front = front
        self._guard = guard

    async def answer(self, request: Request) -> None:
        """Answer a question; a report is only taken in."""
        if request.kind == Kind.REPORT:
            self._host.on_report_bytes(MemberId(request.member_id), request.payload)
            return
        self._engine.answer(request.request_id, await self._to(request))

    async def _to(self, request: Request) -> bytes:
        if request.member_id == 0:
            return await self._membership.answer_guest(request.kind, request.payload)
        if request.kind == Kind.CUT:
            return await self._host.survey.answer_cut(request.payload)
        if request.kind == Kind.CATCH_UP:
            return await self._host.survey.answer_catch_up(request.payload)
        if request.kind == Kind.CANCEL:
            deliver = self._front.proxy.deliver_cancel
            return await answer_cancel(deliver, request.payload)
        if request.kind == Kind.FORWARD:
            return await answer_forwarded(self._front.passed_on, request.payload)
        return b""

    async def let_in(self, instance: Instance) -> None:
        """Let new members' servers in at once: a promotion has no time for it."""
        if self._guard is None or not self._guard.facts().pid:
            return
        try:
            async with asyncio.timeout(LET_IN_TIMEOUT_S):
                await instance.refresh_access(self._host.state.servers)
        except (PgBastionError, TimeoutError) as exc:
            log.warning("access_not_refreshed", error=str(exc))
