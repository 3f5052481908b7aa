"""What a node decides for itself: the next action towards its duty.

``decide_node`` names the duty (from the replicated state) and the finding (from
the world), looks the pair up in ``TRANSITIONS`` and asks its steps in order; the
first that has something to say is the decision.
"""

from dataclasses import replace
from typing import Final

from pgbastion.control.addresses import drop_before_release
from pgbastion.control.node_primary import watch_ms
from pgbastion.control.node_rules import holds, own_assignment, promoted_primary
from pgbastion.control.node_steps import STEPS
from pgbastion.control.pause import keep_still
from pgbastion.control.schedules_and_fences import is_fenced_by_force
from pgbastion.control.transitions import TRANSITIONS, Duty, Found
from pgbastion.errors import InvariantError
from pgbastion.model.actions import Decision, Propose
from pgbastion.model.reasons import Reason
from pgbastion.model.views import NodeView

_AT_REST: Final = (Found.EMPTY, Found.UNMARKED, Found.STOPPED)
"""What a long step works on; a server that runs is watched meanwhile."""


def decide_node(view: NodeView) -> Decision:
    """Decide what this node does next to fulfil its duty."""
    if view.state.member(view.member_id) is None:
        return Decision(Reason.NOT_A_MEMBER)
    if view.witness:
        return _declaring(view, Decision(Reason.WITNESS))
    found = find(view)
    if found in _AT_REST and view.job is not None:
        return Decision(Reason.JOB_RUNNING, detail=view.job)
    due = duty(view)
    transition = TRANSITIONS[due, found]
    decisions = (STEPS[step](view) for step in transition.steps)
    decision = next((d for d in decisions if d is not None), None)
    if decision is None:
        raise InvariantError("the last step of each transition decides")
    if due is Duty.HOLD and found in (Found.PRIMARY, Found.PROMOTING):
        decision = replace(decision, wake_at_ms=_sooner(decision, watch_ms(view)))
    still = keep_still(view, decision)
    return _declaring(view, drop_before_release(view, still))


def _declaring(view: NodeView, decision: Decision) -> Decision:
    """Also tell the cluster what this node is, where nothing else is to be done."""
    if view.declaration is None or decision.actions:
        return decision
    return replace(decision, actions=(Propose(command=view.declaration),))


def _sooner(decision: Decision, at_ms: int) -> int:
    planned = decision.wake_at_ms
    return at_ms if planned is None else min(planned, at_ms)


def duty(view: NodeView) -> Duty:
    """Name what the replicated state wants of this node."""
    held = view.state.assignment
    if held is None:
        return Duty.FOUND if view.state.founder == view.member_id else Duty.AWAIT
    own = own_assignment(view)
    if own is not None and not own.released:
        if not holds(view, own):
            return Duty.GIVE_UP
        return Duty.FENCED if is_fenced_by_force(view) else Duty.HOLD
    return Duty.WAIT if promoted_primary(view) is None else Duty.FOLLOW


def find(view: NodeView) -> Found:
    """Name what is there.

    A server that may become a primary counts as one in the making until all its
    processes have ended: an answer "in recovery" of the same postmaster proves
    nothing, its promotion may finish late.
    """
    postgres = view.postgres
    if postgres.running:
        if postgres.adopted and not view.lease.armed_epoch:
            return Found.TAKEN_OVER
        if postgres.in_recovery is False:
            return Found.PRIMARY
        if postgres.started_as_primary or view.lease.armed_epoch:
            return Found.PROMOTING
        return Found.STARTING if postgres.in_recovery is None else Found.STANDBY
    if view.data.unmarked:
        return Found.UNMARKED
    if view.data.problem is not None or not (view.data.empty or view.data.ours):
        return Found.UNUSABLE
    return Found.EMPTY if view.data.empty else Found.STOPPED
