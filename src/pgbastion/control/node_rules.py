"""What several steps of a node's transitions ask."""

from typing import Final

from pgbastion.errors import InvariantError
from pgbastion.model.actions import Action, Decision, EndEpoch, LatchRelease, Propose
from pgbastion.model.cluster import Assignment
from pgbastion.model.commands import Release, Resume
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import Limits, NodeView

BACKOFF_MAX_MS: Final = 30_000
"""The longest pause before a server that ended before it answered is started again."""


def own_assignment(view: NodeView) -> Assignment | None:
    """Return the current assignment if it is this member's."""
    held = view.state.assignment
    return held if held is not None and held.member_id == view.member_id else None


def held_by_this(view: NodeView) -> Assignment:
    """Return this member's assignment; its duty says that there is one."""
    held = own_assignment(view)
    if held is None:
        raise InvariantError("a holder's step runs on the holder only")
    return held


def holds(view: NodeView, held: Assignment) -> bool:
    """Tell whether this node may go on in its epoch: nothing ended it anywhere."""
    latched = max(view.lease.released_epoch, view.lease.ended_epoch)
    return held.live and latched < held.epoch


def lease_deadline_ms(view: NodeView) -> int:
    """Return when this node must begin to stop what may write.

    The stop budget and the margin before the lease's end, so that everything has
    stopped before any other node may count it as over. A daemon that has just started
    may not have read how short leases have become: its guard has, and acts in time.
    """
    if view.policy_revision < view.lease.policy_revision:
        return view.lease.expiry_ms
    return view.lease.expiry_ms - view.limits.stop_ms - view.limits.margin_ms


def has_lease(view: NodeView) -> bool:
    """Tell whether this node's epoch is granted, with time left to stop in."""
    held = own_assignment(view)
    if held is None or view.lease.epoch != held.epoch:
        return False
    return view.now_ms < lease_deadline_ms(view)


def promoted_primary(view: NodeView) -> NodeReport | None:
    """Return the report of the current epoch's primary, once it is promoted.

    A standby never streams from a server that is still in recovery: it could run
    past the future fork.
    """
    held = view.state.assignment
    if held is None or not held.live or held.member_id == view.member_id:
        return None
    received = view.reports.get(held.node)
    if received is None:
        return None
    report = received.report
    promoted = report.promoted and report.epoch == held.epoch
    return report if promoted and report.state is PostgresState.PRIMARY else None


def release_epoch(view: NodeView, reason: Reason) -> Decision:
    """Release the epoch, latched on this node before anybody is told.

    The command names the incarnation that the state knows; a daemon that was
    restarted since resumes the epoch first. A revoked epoch takes nobody in any
    more: there the lease is waited out.
    """
    held = held_by_this(view)
    steps: list[Action] = []
    if view.lease.ended_epoch < held.epoch:
        steps.append(EndEpoch(epoch=held.epoch))
    if view.lease.released_epoch < held.epoch:
        steps.append(LatchRelease(epoch=held.epoch))
    if held.incarnation == view.incarnation:
        end = view.postgres.wal_end
        release = Release(
            epoch=held.epoch,
            incarnation=view.incarnation,
            lsn=end.lsn if end else None,
            cause=reason,
            at=view.at,
            ended_at=view.ended_at if not view.postgres.running else None,
        )
        return Decision(reason, (*steps, Propose(command=release)))
    if held.revoked:
        return Decision(Reason.STOPPING_AS_REVOKED, tuple(steps))
    return Decision(reason, (*steps, Propose(command=resume_command(view, held))))


def resume_command(view: NodeView, held: Assignment) -> Resume:
    """Return the command with which this daemon resumes its epoch."""
    return Resume(
        epoch=held.epoch,
        member_id=view.member_id,
        incarnation=view.incarnation,
        former=held.incarnation,
    )


def stall_ms(limits: Limits) -> int:
    """Return how late a daemon may be without having stood still.

    So long its server has to answer after it went on: an answer that is old because
    nobody asked is no silence.
    """
    return limits.evidence_max_ms // 4


def job_backoff(view: NodeView) -> Decision | None:
    """Wait before a long step that failed is tried again, as long as it took.

    A copy costs the primary a checkpoint and the reading of all its data: one that
    fails for want of room is not made one after the other for ever.
    """
    pause_ms = max(view.limits.retry_ms, min(view.job_took_ms, BACKOFF_MAX_MS))
    again_ms = view.job_failed_ms + pause_ms
    if view.job_failed is None or view.now_ms >= again_ms:
        return None
    return Decision(Reason.REJOIN_FAILED, (), again_ms, detail=view.job_failed)


def start_backoff(view: NodeView) -> Decision | None:
    """Wait before the next start of a server that ended before it answered."""
    failures = view.postgres.start_failures
    if failures == 0:
        return None
    pause_ms = min(view.limits.retry_ms << min(failures - 1, 10), BACKOFF_MAX_MS)
    again_ms = view.postgres.start_failed_ms + pause_ms
    if view.now_ms >= again_ms:
        return None
    times = "once" if failures == 1 else f"{failures} times"
    why = f": {view.postgres.start_failure}" if view.postgres.start_failure else ""
    detail = f"its server ended {times} before it answered{why}"
    return Decision(Reason.REJOIN_FAILED, (), again_ms, detail=detail)
