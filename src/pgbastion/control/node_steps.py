"""The rules behind the steps of a node's transitions.

Each step looks at one picture and answers None when its effect is already there,
or with the decision that brings it about (or waits for it).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, assert_never

from pgbastion.control.node_primary import (
    HUNG,
    after_crash,
    check_answers,
    check_promoted,
    checkpoint,
    end_slow_restart,
    restart,
    serve,
)
from pgbastion.control.node_rules import (
    has_lease,
    held_by_this,
    job_backoff,
    promoted_primary,
    release_epoch,
    resume_command,
    start_backoff,
)
from pgbastion.control.node_sync import keep_sync, open_epoch
from pgbastion.control.orders import (
    barred_from_role,
    hand_over,
    ready_slots,
    release_for_order,
)
from pgbastion.control.pause import is_paused
from pgbastion.control.restart_and_copy import (
    is_copied_anew,
    work_on_primary,
    work_on_standby,
    work_on_stopped,
)
from pgbastion.control.slots import keep_slots
from pgbastion.control.transitions import Step
from pgbastion.control.wal_history import diverged_from, surest_end
from pgbastion.errors import InvariantError
from pgbastion.model.actions import (
    Arm,
    Copy,
    Decision,
    EndEpoch,
    Examine,
    Follow,
    HoldLease,
    InitDb,
    NotePrimary,
    Promote,
    Propose,
    RecoverCrash,
    Rewind,
    StartStandby,
    StopMode,
    StopPostgres,
    TakeOver,
)
from pgbastion.model.commands import Running
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport
from pgbastion.model.trouble import SILENCE
from pgbastion.model.views import NodeView, RejoinStep

HUNG_STANDBY_LEAST_MS: Final = 8_000
HUNG_STANDBY_FACTOR: Final = 4
"""A standby's server may be silent for so many times as long as a primary's, and at
least for so many milliseconds."""
REJOIN_AFTER_MS: Final = 300
"""How long the clients of a new primary have machine and disks for themselves."""


def report_problem(view: NodeView) -> Decision | None:
    """Say what is wrong with the data directory and touch nothing."""
    return Decision(Reason.FOREIGN_DATA, detail=view.data.problem or "")


def initialise(view: NodeView) -> Decision | None:
    """Make the first data directory."""
    return job_backoff(view) or Decision(Reason.INITIALISING, (InitDb(),))


def take_over(view: NodeView) -> Decision | None:
    """Make the PostgreSQL that is here already the cluster's first."""
    if view.data.ours:
        return None
    if view.job is not None:
        return Decision(Reason.JOB_RUNNING, detail=view.job)
    return job_backoff(view) or Decision(Reason.TAKING_OVER, (TakeOver(),))


def take_up(view: NodeView) -> Decision | None:
    """Begin the epoch of a server that was found running, without a promotion.

    Any other epoch begins with one: there such a server has no business to run.
    """
    held = held_by_this(view)
    if not held.taken_over or view.data.data_id != held.data_id:
        return fence(view)
    actions = (NotePrimary(epoch=held.epoch), Arm(epoch=held.epoch))
    return Decision(Reason.TAKING_UP, actions)


def await_assignment(view: NodeView) -> Decision | None:
    """Wait for the Raft leader's word."""
    del view
    return Decision(Reason.WAITING_FOR_ASSIGNMENT)


def refuse_empty(view: NodeView) -> Decision | None:
    """Refuse to fill a directory that had data before: its mount may be missing."""
    member = view.state.member(view.member_id)
    if member is None or member.data_id is None or is_copied_anew(view):
        return None
    if view.data.emptied:
        return None
    return Decision(Reason.DATA_DIRECTORY_MISSING)


def resume(view: NodeView) -> Decision | None:
    """Resume the epoch, so that no former daemon's word counts any more."""
    held = held_by_this(view)
    if held.incarnation == view.incarnation:
        return None
    return Decision(Reason.RESUMING, (Propose(command=resume_command(view, held)),))


def hold_lease(view: NodeView) -> Decision | None:
    """Have the engine renew this epoch's lease."""
    epoch = held_by_this(view).epoch
    if view.lease.renewing == epoch:
        return None
    return Decision(Reason.WAITING_FOR_LEASE, (HoldLease(epoch=epoch),))


def say_running(view: NodeView) -> Decision | None:
    """After a pause, have the log know that this holder heeds its lease again."""
    held = held_by_this(view)
    revision = view.state.pause_revision
    if view.state.paused or held.running == revision:
        return None
    if view.lease.paused or view.lease.pause_revision != revision:
        # The guard has to read it first: it is the one who acts at the expiry.
        return None
    command = Running(
        epoch=held.epoch, incarnation=view.incarnation, pause_revision=revision
    )
    return Decision(Reason.SAYING_RUNNING, (Propose(command=command),))


def await_lease(view: NodeView) -> Decision | None:
    """Go on only while there is enough of the lease left to stop in time."""
    return None if has_lease(view) else Decision(Reason.WAITING_FOR_LEASE)


def keep_lease(view: NodeView) -> Decision | None:
    """Stop what may write when the lease is about to end, or cannot be proven."""
    if has_lease(view) or is_paused(view):
        return None
    if view.lease.epoch != held_by_this(view).epoch:
        return fence(view)
    stop = StopPostgres(mode=StopMode.FAST, reason=Reason.LEASE_EXPIRING)
    return Decision(Reason.LEASE_EXPIRING, (stop,))


def check_able(view: NodeView) -> Decision | None:
    """Release the epoch where this node lacks what a primary requires."""
    if not view.lease.unable or is_paused(view):
        return None
    released = release_epoch(view, Reason.UNABLE)
    return replace(released, detail=view.lease.unable)


def check_surveyed(view: NodeView) -> Decision | None:
    """Promote only the data that was surveyed; else release the epoch."""
    held = held_by_this(view)
    # A server that was found running and ended before it began its epoch begins the
    # next one, by a promotion.
    ended_early = held.taken_over and view.data.promoted_epoch < held.epoch
    if view.data.data_id == held.data_id and not (view.data_changed or ended_early):
        return None
    return release_epoch(view, Reason.SURVEYED_DATA_CHANGED)


def start_for_promotion(view: NodeView) -> Decision | None:
    """Start a stopped server in recovery, to promote it then."""
    held = held_by_this(view)
    if view.data.promoted_epoch == held.epoch and not view.data.was_standby:
        return None
    waiting = start_backoff(view)
    if waiting is not None:
        return waiting
    start = StartStandby(primary=None, epoch=held.epoch, for_promotion=True)
    return Decision(Reason.STARTING_FOR_PROMOTION, (start,))


def await_start(view: NodeView) -> Decision | None:
    """Give a starting server its time; one that never answers is killed.

    To a daemon that has just begun, a server that has run for days is one, too.
    """
    asked_ms = max(view.postgres.started_ms, view.woke_ms)
    give_up_ms = asked_ms + view.limits.start_max_ms
    if view.now_ms < give_up_ms:
        return Decision(Reason.WAITING_FOR_START, (), give_up_ms)
    stop = StopPostgres(mode=StopMode.KILL, reason=Reason.POSTGRES_HUNG)
    return Decision(Reason.POSTGRES_HUNG, (stop,))


def arm(view: NodeView) -> Decision | None:
    """Arm the guard before anything that can make PostgreSQL a primary."""
    epoch = held_by_this(view).epoch
    if view.lease.armed_epoch == epoch:
        return None
    return Decision(Reason.ARMING, (Arm(epoch=epoch),))


def promote(view: NodeView) -> Decision | None:
    """Ask for the promotion."""
    held = held_by_this(view)
    action = Promote(epoch=held.epoch, timeline=held.timeline, surveyed=held.surveyed)
    return Decision(Reason.PROMOTING, (action,))


def arm_and_promote(view: NodeView) -> Decision | None:
    """Arm and promote in one go: nothing has to be looked at in between."""
    arming = arm(view)
    asking = promote(view)
    if arming is None or asking is None:
        return asking
    return Decision(Reason.PROMOTING, (*arming.actions, *asking.actions))


def await_promotion(view: NodeView) -> Decision | None:
    """Wait for a promotion that was asked for; ask if a former daemon did not."""
    postgres = view.postgres
    if postgres.in_recovery and not postgres.promote_asked:
        if view.data_changed:
            # The guard is armed for it: only its end lets the epoch be released.
            reason = Reason.SURVEYED_DATA_CHANGED
            kill = StopPostgres(mode=StopMode.KILL, reason=reason)
            return Decision(reason, (kill,))
        return arm_and_promote(view)
    return Decision(Reason.PROMOTION_RUNNING)


def stop(view: NodeView) -> Decision | None:
    """Stop a server whose epoch is over; nothing it does counts any more."""
    if not view.postgres.running:
        return None
    action = StopPostgres(mode=StopMode.KILL, reason=Reason.STOPPING_AS_REVOKED)
    return Decision(Reason.STOPPING_AS_REVOKED, (action,))


def release(view: NodeView) -> Decision | None:
    """Release the epoch: nothing of it can write on this node any more."""
    return release_epoch(view, Reason.RELEASING)


def fence(view: NodeView) -> Decision | None:
    """Kill a server that may write without a lease."""
    del view
    action = StopPostgres(mode=StopMode.KILL, reason=Reason.FENCING)
    return Decision(Reason.FENCING, (action,))


def stop_fenced(view: NodeView) -> Decision | None:
    """Cleanly stop a primary that an operator fenced by force."""
    if not view.postgres.running:
        return None
    reason = Reason.FENCED_BY_OPERATOR
    return Decision(reason, (StopPostgres(mode=StopMode.FAST, reason=reason),))


def release_fenced(view: NodeView) -> Decision | None:
    """Release the epoch of a node that an operator fenced by force."""
    return release_epoch(view, Reason.FENCED_BY_OPERATOR)


def end_old_epochs(view: NodeView) -> Decision | None:
    """Have the guard note that epochs which this node held have ended."""
    newest = max(view.data.promoted_epoch, view.lease.armed_epoch)
    if newest <= view.lease.ended_epoch:
        return None
    return Decision(Reason.ENDING_EPOCHS, (EndEpoch(epoch=newest),))


def copy(view: NodeView) -> Decision | None:
    """Copy the primary's data directory."""
    primary = _primary(view)
    action = Copy(primary=primary.node, epoch=view.state.epoch)
    return job_backoff(view) or Decision(Reason.COPYING, (action,), detail=primary.node)


def rejoin(view: NodeView) -> Decision | None:
    """Bring a stopped data directory onto the primary's history."""
    primary = _primary(view)
    epoch = view.state.epoch
    failed = job_backoff(view)
    if failed is not None:
        return failed
    if not primary.accepting and not view.state.strict:
        # Its first commits come first; strict, it may need this very node for them.
        return Decision(Reason.PRIMARY_NOT_OPEN, detail=primary.node)
    quiet_ms = view.opened_ms + REJOIN_AFTER_MS
    if view.now_ms < quiet_ms and not view.state.strict:
        return Decision(Reason.PRIMARY_NOT_OPEN, (), quiet_ms, detail=primary.node)
    found = view.rejoin
    if found is None or found.epoch != epoch:
        examine = Examine(primary=primary.node, epoch=epoch)
        return Decision(Reason.EXAMINING, (examine,))
    match found.step:
        case RejoinStep.FOLLOW:
            return None
        case RejoinStep.RECOVER:
            return Decision(Reason.RECOVERING, (RecoverCrash(),), detail=found.detail)
        case RejoinStep.REWIND:
            return _rewind(view, primary, found.detail)
        case RejoinStep.COPY:
            action = Copy(primary=primary.node, epoch=epoch)
            return Decision(Reason.COPYING, (action,), detail=found.detail)
        case RejoinStep.REFUSE:
            return Decision(Reason.FOREIGN_DATA, detail=found.detail)
        case _:
            assert_never(found.step)


def _rewind(view: NodeView, primary: NodeReport, detail: str) -> Decision:
    """Rewind once the primary has checkpointed: pg_rewind reads its control file."""
    held = view.state.assignment
    if held is None or primary.checkpointed != held.timeline:
        return Decision(Reason.WAITING_FOR_CHECKPOINT, detail=primary.node)
    action = Rewind(primary=primary.node, epoch=held.epoch)
    return Decision(Reason.REWINDING, (action,), detail=detail)


def _primary(view: NodeView) -> NodeReport:
    primary = promoted_primary(view)
    if primary is None:
        raise InvariantError("a duty to follow names a primary")
    return primary


def start_standby(view: NodeView) -> Decision | None:
    """Start the server in recovery, following the primary."""
    waiting = start_backoff(view)
    if waiting is not None:
        return waiting
    primary = _primary(view)
    epoch = view.state.epoch
    # Once cut from an epoch and surveyed, it confirms nothing of it any more.
    upstream = None if view.data.cut_epoch >= epoch else primary.node
    action = StartStandby(primary=upstream, epoch=epoch)
    return Decision(Reason.STARTING_STANDBY, (action,), detail=upstream or "")


def stay_stopped(view: NodeView) -> Decision | None:
    """A former primary waits for the next one; a former standby answers reads."""
    runs = view.data.was_standby or _is_to_be_read(view)
    if view.data.empty or not runs:
        return Decision(Reason.NO_PRIMARY_TO_FOLLOW)
    waiting = start_backoff(view)
    if waiting is not None:
        return waiting
    action = StartStandby(primary=None, epoch=view.state.epoch)
    return Decision(Reason.STARTING_STANDBY, (action,))


def _is_to_be_read(view: NodeView) -> bool:
    """Tell whether others may need WAL that a former primary has and may not use.

    It was surveyed, so its epochs have ended here and it is cut: recovery stops where
    the survey said that its WAL ends, and one that may be promoted streams from it.
    """
    member = view.state.member(view.member_id)
    barred = member is not None and barred_from_role(view.state, member)
    surveyed = view.data.cut_epoch >= view.state.epoch
    return surveyed and bool(barred or view.lease.unable)


def check_history(view: NodeView) -> Decision | None:
    """Stop a standby that has WAL which the primary's history lacks."""
    end = surest_end(view.postgres.wal_end, view.postgres.replayed)
    if end is None or not diverged_from(_primary(view), end):
        return None
    action = StopPostgres(mode=StopMode.FAST, reason=Reason.DIVERGED)
    return Decision(Reason.DIVERGED, (action,), detail=str(end))


def point_at_primary(view: NodeView) -> Decision | None:
    """Follow the primary, unless this node was cut from its epoch."""
    primary = _primary(view)
    epoch = view.state.epoch
    if view.data.cut_epoch >= epoch:
        return Decision(Reason.NO_PRIMARY_TO_FOLLOW)
    now = view.postgres
    if now.following == primary.node and now.following_epoch == epoch:
        return None
    action = Follow(primary=primary.node, epoch=epoch)
    return Decision(Reason.REPOINTING, (action,), detail=primary.node)


def end_hung_standby(view: NodeView) -> Decision | None:
    """Kill a standby whose server answers nobody: it is started again.

    Until then it could not be surveyed, and a failover may need its answer. A disk
    that hangs or is full would do the same to the next server: there it is left alone.
    """
    hung = view.trouble in SILENCE and not is_paused(view)
    patience_ms = max(
        HUNG_STANDBY_LEAST_MS, HUNG_STANDBY_FACTOR * view.limits.evidence_max_ms
    )
    heard_ms = max(view.postgres.evidence_ms, view.postgres.started_ms, view.woke_ms)
    if not hung or view.now_ms < heard_ms + patience_ms:
        return None
    reason = HUNG.get(view.trouble, Reason.POSTGRES_HUNG)
    kill = StopPostgres(mode=StopMode.KILL, reason=reason)
    return Decision(reason, (kill,))


def stay_cut(view: NodeView) -> Decision | None:
    """A running standby goes on answering reads."""
    del view
    return Decision(Reason.NO_PRIMARY_TO_FOLLOW)


def stream(view: NodeView) -> Decision | None:
    """Everything is as it should be."""
    return Decision(Reason.FOLLOWING, detail=_primary(view).node)


STEPS: Final[Mapping[Step, Callable[[NodeView], Decision | None]]] = {
    Step.REPORT_PROBLEM: report_problem,
    Step.INITIALISE: initialise,
    Step.TAKE_OVER: take_over,
    Step.TAKE_UP: take_up,
    Step.AWAIT_ASSIGNMENT: await_assignment,
    Step.REFUSE_EMPTY: refuse_empty,
    Step.RESUME: resume,
    Step.HOLD_LEASE: hold_lease,
    Step.SAY_RUNNING: say_running,
    Step.AWAIT_LEASE: await_lease,
    Step.KEEP_LEASE: keep_lease,
    Step.CHECK_ABLE: check_able,
    Step.CHECK_SURVEYED: check_surveyed,
    Step.START_FOR_PROMOTION: start_for_promotion,
    Step.AWAIT_START: await_start,
    Step.PROMOTE: arm_and_promote,
    Step.AWAIT_PROMOTION: await_promotion,
    Step.AFTER_CRASH: after_crash,
    Step.RESTART: restart,
    Step.END_SLOW_RESTART: end_slow_restart,
    Step.CHECK_PROMOTED: check_promoted,
    Step.CHECK_ANSWERS: check_answers,
    Step.OPEN: open_epoch,
    Step.KEEP_SYNC: keep_sync,
    Step.KEEP_SLOTS: keep_slots,
    Step.CHECKPOINT: checkpoint,
    Step.HAND_OVER: hand_over,
    Step.RELEASE_FOR_ORDER: release_for_order,
    Step.STOP_FENCED: stop_fenced,
    Step.RELEASE_FENCED: release_fenced,
    Step.SERVE: serve,
    Step.STOP: stop,
    Step.RELEASE: release,
    Step.FENCE: fence,
    Step.END_OLD_EPOCHS: end_old_epochs,
    Step.COPY: copy,
    Step.REJOIN: rejoin,
    Step.START_STANDBY: start_standby,
    Step.STAY_STOPPED: stay_stopped,
    Step.CHECK_HISTORY: check_history,
    Step.POINT_AT_PRIMARY: point_at_primary,
    Step.READY_SLOTS: ready_slots,
    Step.WORK_ON_STANDBY: work_on_standby,
    Step.WORK_ON_STOPPED: work_on_stopped,
    Step.WORK_ON_PRIMARY: work_on_primary,
    Step.END_HUNG_STANDBY: end_hung_standby,
    Step.STAY_CUT: stay_cut,
    Step.STREAM: stream,
}
