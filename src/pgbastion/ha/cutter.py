"""Answers a survey: cuts this node off from an epoch, then says what it has."""

import asyncio

from pgbastion.errors import PgBastionError
from pgbastion.ha.executor import Server
from pgbastion.ha.job import Job
from pgbastion.ha.messages import CATCH_UP_S
from pgbastion.ha.ports import GuardFacts, StoppedEnd, Upstream
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.views import SurveyAnswer
from pgbastion.model.wal import WalEnd
from pgbastion.observe.logging import get_logger

log = get_logger("survey")


class NodeCutter:
    """The cutter of a node with a PostgreSQL.

    A node that cannot prove what it has does not answer: silence never counts.
    """

    def __init__(self, *, node: NodeId, server: Server, job: Job) -> None:
        self._node = node
        self._database = server.database
        self._guard = server.guard
        self._observer = server.observer
        self._job = job

    async def cut(self, epoch: Epoch) -> SurveyAnswer | None:
        """Return what this node has after it was cut off; None: it cannot tell."""
        data = self._observer.data
        facts = self._guard.facts()
        if not data.ours or data.data_id is None or self._job.name is not None:
            return None
        if data.epoch > epoch or facts.started_as_primary:
            # It follows a later epoch, or its own server may still write.
            return None
        try:
            # A former holder that crashed must not be started as a primary of this
            # epoch after it was surveyed, by anybody.
            await self._guard.end_epoch(epoch)
            stopped = await self._cut(epoch, running=facts.running)
            begin, end = None, stopped.wal_end
            if end is not None:
                begin = await self._database.timeline_begin(end.timeline)
            newest = await self._database.newest_timeline()
        except (PgBastionError, TimeoutError, OSError) as exc:
            log.warning("not_cut", epoch=epoch, error=str(exc))
            return None
        self._observer.following = None
        self._observer.note_mark(cut_epoch=epoch)
        if self._has_begun_anew(facts) or self._observer.data.data_id != data.data_id:
            return None
        return SurveyAnswer(
            node=self._node,
            data_id=data.data_id,
            wal_end=end,
            timeline_begin=begin,
            newest_timeline=newest,
            has_strayed=stopped.has_strayed,
        )

    async def catch_up(self, upstream: Upstream, upto: WalEnd) -> SurveyAnswer | None:
        """Stream from another cut node up to there; then answer the survey anew.

        However far that comes, the answer says what is on the disk, and that it stays.
        """
        data, facts = self._observer.data, self._guard.facts()
        if not facts.running or facts.started_as_primary or data.epoch > upstream.epoch:
            return None
        log.info("catching_up", source=upstream.node, upto=str(upto))
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self._database.catch_up(upstream, upto)
        except (PgBastionError, TimeoutError, OSError) as exc:
            log.warning("not_caught_up", source=upstream.node, error=str(exc))
        return await self.cut(upstream.epoch)

    def _has_begun_anew(self, before: GuardFacts) -> bool:
        """Tell whether a server was started meanwhile, or other work was begun.

        It may have read its files before they were cut, and then it streams on.
        """
        now = self._guard.facts()
        started = now.running and now.pid != before.pid
        return started or self._job.name is not None

    async def _cut(self, epoch: Epoch, *, running: bool) -> StoppedEnd:
        if running:
            return StoppedEnd(wal_end=await self._database.cut(epoch))
        return await self._database.cut_stopped(epoch)


class WitnessCutter:
    """A witness has nothing to say in a survey."""

    async def cut(self, epoch: Epoch) -> SurveyAnswer | None:
        """Return None: there is no data here."""
        del epoch
        return None

    async def catch_up(self, upstream: Upstream, upto: WalEnd) -> SurveyAnswer | None:
        """Return None: there is no data here."""
        del upstream, upto
        return None
