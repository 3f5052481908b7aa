"""The rejoin ladder's steps as a node's decisions ask for them, one at a time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.views import RejoinStep, RejoinView
from pgbastion.observe.logging import get_logger
from pgbastion.postgres import rejoin
from pgbastion.postgres.connection import Address
from pgbastion.postgres.mark import Mark, new_data_id
from pgbastion.postgres.rejoin_ladder import Ladder
from pgbastion.postgres.render import Upstream

_STEPS: Final[Mapping[type[rejoin.Step], RejoinStep]] = {
    rejoin.Follow: RejoinStep.FOLLOW,
    rejoin.CrashRecover: RejoinStep.RECOVER,
    rejoin.Rewind: RejoinStep.REWIND,
    rejoin.Copy: RejoinStep.COPY,
    rejoin.Refuse: RejoinStep.REFUSE,
}

log = get_logger("postgres")


class Rejoining:
    """Brings one stopped data directory onto a primary's history."""

    def __init__(self, ladder: Ladder, node: NodeId) -> None:
        self._ladder = ladder
        self._node = node
        self._must_copy: str | None = None

    async def examine(self, primary: Address, epoch: Epoch) -> RejoinView:
        """Compare the directory with the primary's history.

        Raises:
            PostgresError: One of them cannot be looked at, or not yet.
        """
        if self._must_copy is not None:
            step, detail = RejoinStep.COPY, self._must_copy
            return RejoinView(step=step, detail=detail, epoch=epoch)
        found = await self._ladder.decide(primary)
        if isinstance(found, rejoin.Wait):
            raise PostgresError(found.reason)
        step = _STEPS[type(found)]
        return RejoinView(step=step, detail=found.reason, epoch=epoch)

    async def copy(self, source: Upstream, cluster_id: str) -> None:
        """Replace the directory by a copy of the primary's."""
        mark = Mark(cluster_id=cluster_id, data_id=new_data_id(), node=self._node)
        step = rejoin.Copy(reason=self._must_copy or "the data directory is empty")
        await self._take(step, source, mark)
        self._must_copy = None

    async def rewind(self, source: Upstream, primary: NodeId, mark: Mark) -> None:
        """Rewind the directory to the primary's history.

        Raises:
            PostgresError: It failed; the next examination says what to do instead.
        """
        step = rejoin.Rewind(reason=f"to the history of {primary}")
        other = await self._take(step, source, replace(mark, data_id=new_data_id()))
        if other is not None:
            self._must_copy = other.reason
            raise PostgresError(f"no rewind is possible: {other.reason}")

    async def _take(
        self, step: rejoin.Rewind | rejoin.Copy, source: Upstream, mark: Mark
    ) -> rejoin.Copy | None:
        return await self._ladder.take(step, source, mark, progress=_note_progress)


def _note_progress(done: int, total: int) -> None:
    log.debug("rejoin_progress", done_mib=done >> 20, total_mib=total >> 20)
