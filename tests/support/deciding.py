"""What the tests of the leader's decisions share."""

from pgbastion.control.cluster import (
    decide_cluster,
)
from pgbastion.model.actions import (
    Decision,
    Propose,
)
from pgbastion.model.commands import Assign, Revoke
from pgbastion.model.ids import Epoch, MemberId
from pgbastion.model.reasons import Reason
from pgbastion.model.views import AgeAnswer, ClusterView
from pgbastion.testing.views import NOW_MS, raft_view

LENGTH = 5_005


def reason(view: ClusterView) -> Reason:
    return decide_cluster(view).reason


def assigned(decision: Decision) -> Assign:
    """Return the command of a decision that assigns, closing the lease before."""
    assert decision.reason in (Reason.FURTHEST_CHOSEN, Reason.FIRST_PRIMARY)
    action = decision.actions[-1]
    assert isinstance(action, Propose)
    assert isinstance(action.command, Assign)
    return action.command


ELECTED = raft_view(last_answer_ms=0, elected_ms=NOW_MS - 50)


def ages(*voters: int, age_ms: int = 600, term: int = 5) -> tuple[AgeAnswer, ...]:
    return tuple(
        AgeAnswer(member_id=MemberId(v), term=term, age_ms=age_ms, receipt_ms=NOW_MS)
        for v in voters
    )


def revoke(reason: Reason) -> Propose:
    return Propose(command=Revoke(epoch=Epoch(3), cause=reason, at=""))
