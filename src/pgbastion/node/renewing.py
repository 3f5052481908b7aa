"""Has the engine renew the lease by the timings that this node goes by."""

from typing import Protocol

from pgbastion.config.timings import Timings
from pgbastion.ha.sight import Sight
from pgbastion.model.ids import Epoch, Incarnation
from pgbastion.model.views import START_MAX_MS
from pgbastion.node.page import SharedPage


class Renewer(Protocol):
    """The engine's side of a lease that this node has."""

    def hold(
        self,
        epoch: int,
        incarnation: int,
        *,
        renew_ms: int,
        deadline_ms: int,
        evidence_max_ms: int,
        asked_max_ms: int,
    ) -> None:
        """Renew this epoch's lease from now on; epoch 0: none."""


def hold_lease(
    epoch: Epoch,
    timings: Timings,
    *,
    incarnation: Incarnation,
    sight: Sight,
    page: SharedPage,
    engine: Renewer,
) -> None:
    """Renew this epoch's lease from now on; epoch 0: none."""
    # A file's timings may leave the guard no time: see `SharedPage.set_lead`.
    page.set_lead(timings.margin_ms, sure=sight.policy_revision >= 0)
    engine.hold(
        epoch,
        incarnation,
        renew_ms=timings.renew_ms,
        deadline_ms=timings.deadline_ms,
        evidence_max_ms=timings.evidence_max_ms,
        asked_max_ms=START_MAX_MS,
    )
    sight.renewing = epoch
