"""Remembers who claims the primary role without having it, and says so in the log."""

from collections.abc import Mapping

from pgbastion.clock import boottime_ms
from pgbastion.control.split_brain import Split, SplitView, watch_claims
from pgbastion.model.claims import Claim
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import NodeId
from pgbastion.model.views import Received
from pgbastion.observe.logging import get_logger

log = get_logger("cluster")


class SplitBrain:
    """What this node knows of wrong claims."""

    def __init__(self) -> None:
        self._split = Split()

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims that count now."""
        return self._split.claims

    def look(
        self, state: ClusterState, reports: Mapping[NodeId, Received], probe_ms: int
    ) -> str:
        """Look once more; return the claims in words, empty if there is none."""
        before = self._split
        self._split = watch_claims(
            before,
            SplitView(
                now_ms=boottime_ms(),
                state=state,
                reports=reports,
                report_max_ms=3 * probe_ms,
            ),
        )
        if self._split.claims != before.claims:
            self._say()
        return self._split.sentence

    def _say(self) -> None:
        if not self._split.claims:
            log.warning("split_brain_over", primary_port="open again")
            return
        log.error(
            "split_brain",
            nodes=",".join(sorted({claim.node for claim in self._split.claims})),
            why=self._split.sentence,
            primary_port="closed",
        )
