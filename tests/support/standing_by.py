"""Views for the tests of a node's decisions."""

from pgbastion.model.actions import (
    Decision,
    StopMode,
    StopPostgres,
)
from pgbastion.model.ids import Epoch
from pgbastion.model.reasons import Reason
from pgbastion.model.views import (
    DataView,
    NodeView,
    RejoinStep,
    RejoinView,
)
from pgbastion.testing.views import (
    STOPPED,
    assignment,
    cluster_state,
    standby_view,
)

FRESH = cluster_state(assignment=None, opened=None)
WAITING = cluster_state(assignment=assignment(revoked=True))
EMPTY = DataView(empty=True, ours=False)


def kill(reason: Reason) -> Decision:
    return Decision(reason, (StopPostgres(mode=StopMode.KILL, reason=reason),))


def found(step: RejoinStep, epoch: int = 3) -> RejoinView:
    return RejoinView(step=step, detail="why", epoch=Epoch(epoch))


def stopped(**changes: object) -> NodeView:
    return standby_view(postgres=STOPPED, **changes)
