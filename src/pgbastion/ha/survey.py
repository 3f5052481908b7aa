"""The survey: who has how much of the log of an epoch, once cut off from it.

The leader asks, and every node answers; docs/explanation/lease.md, section 5.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from pgbastion.clock import boottime_ms
from pgbastion.ha.messages import (
    CATCH_UP_S,
    CatchUpQuestion,
    Kind,
    decode_answer,
    decode_catch_up,
    decode_cut,
    encode_answer,
    encode_catch_up,
    encode_cut,
)
from pgbastion.ha.ports import Cutter, RaftEngine, Upstream
from pgbastion.model.actions import CatchUp
from pgbastion.model.cluster import Member
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.views import SurveyAnswer, SurveyView
from pgbastion.observe.logging import get_logger

log = get_logger("cluster")


@dataclass(slots=True)
class _Survey:
    """The survey of one epoch on this leader."""

    epoch: Epoch
    started_ms: int
    asked_ms: int
    answers: dict[NodeId, SurveyAnswer]
    catching_up: NodeId | None = None
    stuck: Counter[NodeId] = field(default_factory=Counter)


class Surveyor:
    """Asks the nodes where this one leads, and answers for this one.

    Args:
        engine: The consensus engine; it carries the questions.
        node: This node's name.
        cutter: Cuts this node off and reads the end of its WAL.
        member: Returns the member that has this name now.
        on_change: Called after each answer.
        cut_timeout_ms: How long a node may take to answer.
    """

    def __init__(
        self,
        engine: RaftEngine,
        *,
        node: NodeId,
        cutter: Cutter,
        member: Callable[[NodeId], Member | None],
        on_change: Callable[[], None],
        cut_timeout_ms: int,
    ) -> None:
        self._engine = engine
        self._node = node
        self._cutter = cutter
        self._member = member
        self._on_change = on_change
        self.cut_timeout_ms = cut_timeout_ms
        self._survey: _Survey | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, epoch: Epoch, nodes: tuple[NodeId, ...]) -> None:
        """Ask these nodes to cut themselves off from the epoch, all at once."""
        now_ms = boottime_ms()
        if self._survey is None or self._survey.epoch != epoch:
            self._survey = _Survey(
                epoch=epoch, started_ms=now_ms, asked_ms=now_ms, answers={}
            )
        self._survey.asked_ms = now_ms
        for node in nodes:
            self._begin(self._ask(self._survey, node))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, survey: _Survey, node: NodeId) -> None:
        if node == self._node:
            answer = await self.cut(survey.epoch)
        else:
            question = encode_cut(survey.epoch)
            answer = await self._request(
                node, Kind.CUT, question, wait_s=self.cut_timeout_ms / 1_000
            )
        if answer is None or answer.node != node or survey is not self._survey:
            return
        log.info("surveyed", node=node, epoch=survey.epoch, end=str(answer.wal_end))
        survey.answers[node] = answer
        self._on_change()

    async def _request(
        self, node: NodeId, kind: Kind, question: bytes, *, wait_s: float
    ) -> SurveyAnswer | None:
        member = self._member(node)
        if member is None:
            return None
        data = await self._engine.request(member.member_id, kind, question, wait_s)
        return None if data is None else decode_answer(data)

    async def answer_cut(self, payload: bytes) -> bytes:
        """Answer a survey's question; nothing where there is no answer."""
        epoch = decode_cut(payload)
        answer = None if epoch is None else await self.cut(epoch)
        return b"" if answer is None else encode_answer(answer)

    async def cut(self, epoch: Epoch) -> SurveyAnswer | None:
        """Answer a survey for this node."""
        return await self._cutter.cut(epoch)

    def start_catch_up(self, action: CatchUp) -> None:
        """Have a surveyed node stream from another one; one at a time."""
        survey = self._survey
        if survey is None or survey.epoch != action.epoch or survey.catching_up:
            return
        survey.catching_up = action.node
        self._begin(self._have_caught_up(survey, action))

    async def _have_caught_up(self, survey: _Survey, action: CatchUp) -> None:
        question = CatchUpQuestion(
            epoch=action.epoch, source=action.source, upto=action.upto
        )
        if action.node == self._node:
            answer = await self._catch_up(question)
        else:
            answer = await self._request(
                action.node,
                Kind.CATCH_UP,
                encode_catch_up(question),
                wait_s=CATCH_UP_S + self.cut_timeout_ms / 1_000,
            )
        survey.catching_up = None
        known = survey.answers.get(action.node)
        before = after = known.wal_end if known is not None else None
        if answer is not None and answer.node == action.node:
            survey.answers[action.node] = answer
            after = answer.wal_end
        if after is None or (before is not None and after <= before):
            survey.stuck[action.node] += 1
            # A restart may have taken the torn end of its WAL: it is asked again.
            survey.answers.pop(action.source, None)
        log.info("caught_up", node=action.node, end=str(after), upto=str(action.upto))
        self._on_change()

    async def answer_catch_up(self, payload: bytes) -> bytes:
        """Answer the question to catch up; nothing where there is no answer."""
        question = decode_catch_up(payload)
        answer = None if question is None else await self._catch_up(question)
        return b"" if answer is None else encode_answer(answer)

    async def _catch_up(self, question: CatchUpQuestion) -> SurveyAnswer | None:
        source = self._member(question.source)
        if source is None or source.postgres_port is None:
            return None
        upstream = Upstream(
            node=source.name,
            host=source.host,
            port=source.postgres_port,
            epoch=question.epoch,
        )
        return await self._cutter.catch_up(upstream, question.upto)

    def view(self) -> SurveyView | None:
        """Return what the leader's decisions know of the newest survey."""
        survey = self._survey
        if survey is None:
            return None
        return SurveyView(
            epoch=survey.epoch,
            started_ms=survey.started_ms,
            asked_ms=survey.asked_ms,
            answers=tuple(survey.answers.values()),
            catching_up=survey.catching_up,
            stuck=dict(survey.stuck),
        )

    async def stop(self) -> None:
        """End questions that are under way."""
        for task in tuple(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
