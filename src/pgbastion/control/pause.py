"""What a pause changes: PostgreSQL stays as it is, and a lease bounds nothing.

Source: docs/explanation/lease.md, "Pause".
"""

from collections.abc import Sequence
from typing import Final

from pgbastion.control.orders import is_ordered
from pgbastion.control.restart_and_copy import may_work_under_pause
from pgbastion.control.schedules_and_fences import is_fenced_by_force
from pgbastion.control.survey import needs_survey, usable_answers
from pgbastion.model.actions import (
    Action,
    Copy,
    Decision,
    LatchRelease,
    RecoverCrash,
    Rewind,
    StartPrimary,
    StartStandby,
    StopPostgres,
)
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import standby_name
from pgbastion.model.reasons import Reason
from pgbastion.model.views import NodeView, SurveyAnswer

_TOUCHING: Final = (StopPostgres, StartPrimary, Copy, Rewind, RecoverCrash)


def is_paused(view: NodeView) -> bool:
    """Tell whether automatic actions are off on this node.

    A daemon that has just started has not read the log to its end: what its guard
    reads may be newer than the state.
    """
    if view.lease.pause_revision > view.state.pause_revision:
        return view.lease.paused
    return view.state.paused


def keep_still(view: NodeView, decision: Decision) -> Decision:
    """Leave PostgreSQL as it is while a pause is on, whatever it is."""
    if not any(_touches(view, a) for a in decision.actions) or not is_paused(view):
        return decision
    ordered = is_ordered(view.state) or is_fenced_by_force(view)
    if ordered or may_work_under_pause(view):
        return decision
    return Decision(Reason.PAUSED, detail=decision.reason)


def _touches(view: NodeView, action: Action) -> bool:
    if isinstance(action, StartStandby):
        # What was assigned during the pause was assigned by an operator's order, and
        # whoever handed its role over by one becomes a standby.
        newest = view.state.orders[-1] if view.state.orders else None
        handed_over = (
            newest is not None
            and newest.begun
            and view.data.promoted_epoch == newest.epoch == view.state.epoch - 1
        )
        return not (action.for_promotion or handed_over)
    if isinstance(action, LatchRelease):
        # A primary that ended stays the holder; what never became one may go.
        return view.data.promoted_epoch == view.state.epoch
    return isinstance(action, _TOUCHING)


def stops_at_lease_end(state: ClusterState) -> bool:
    """Tell whether the holder surely stops when its lease runs out.

    A holder that was cut off during a pause ignores its expiry until it has heard of
    the pause's end.
    """
    held = state.assignment
    return (
        held is not None and not state.paused and held.running == state.pause_revision
    )


def cannot_acknowledge(state: ClusterState, answers: Sequence[SurveyAnswer]) -> bool:
    """Tell whether a revoked holder can confirm no commit, whatever its server does.

    Its epoch was never opened, or it answered itself with its epoch latched as ended,
    or so many of its synchronous standbys are cut that no commit finds enough.
    """
    held, opened = state.assignment, state.opened
    if held is None or opened is None or not needs_survey(state):
        return False
    if opened.epoch != held.epoch:
        return True
    usable = usable_answers(answers)
    if any((a.node, a.data_id) == (held.node, held.data_id) for a in usable):
        return True
    return opened.sync.meets_every_quorum(
        standby_name(a.node, a.data_id) for a in usable
    )
