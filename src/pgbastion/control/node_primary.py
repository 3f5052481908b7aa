"""The steps of a node that runs the primary, or did until a moment ago.

Those about its synchronous set are in :mod:`.node_sync`.
"""

from collections.abc import Mapping
from typing import Final

from pgbastion.control.node_rules import (
    has_lease,
    held_by_this,
    lease_deadline_ms,
    release_epoch,
    stall_ms,
)
from pgbastion.control.node_sync import sync_wake_ms
from pgbastion.control.restart_and_copy import restarts_here
from pgbastion.model.actions import (
    Arm,
    Checkpoint,
    Decision,
    EndEpoch,
    StartPrimary,
    StopMode,
    StopPostgres,
)
from pgbastion.model.ids import standby_name
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import NodeView

START_FAILURES_MAX: Final = 3
"""A crashed primary releases its epoch after so many failed starts."""
CHECKPOINT_AFTER_MS: Final = 300
"""How long the first clients of a new primary have its disks for themselves."""
CHILD_DIED_RESTART_MS: Final = 3_000
"""How long a server may take to be up again after one of its processes had died."""
CHILD_DEATHS_APART_MS: Final = 10_000
"""Sooner after the last end, another one is no accident of a single session."""


HUNG: Final[Mapping[Trouble | None, Reason]] = {
    Trouble.POSTMASTER_SILENT: Reason.POSTMASTER_HUNG,
    Trouble.BACKENDS_SILENT: Reason.BACKENDS_HUNG,
    Trouble.DISK_SILENT: Reason.DISK_HUNG,
    Trouble.DISK_FAILED: Reason.DISK_FAILED,
    Trouble.DISK_FULL: Reason.DISK_FULL,
}
"""Why a server without evidence is killed, where the cause is known."""
_OF_THE_DISK: Final = frozenset(
    {Trouble.DISK_SILENT, Trouble.DISK_FAILED, Trouble.DISK_FULL}
)


def check_promoted(view: NodeView) -> Decision | None:
    """Serve only as the primary of this very epoch, on its assigned timeline."""
    held = held_by_this(view)
    if view.data.promoted_epoch != held.epoch:
        kill = StopPostgres(mode=StopMode.KILL, reason=Reason.EARLIER_EPOCH_RUNS)
        return Decision(Reason.EARLIER_EPOCH_RUNS, (kill,))
    if view.postgres.timeline in (None, held.timeline):
        return None
    # Another promotion may have taken the same id: nobody may stream from this.
    kill = StopPostgres(mode=StopMode.KILL, reason=Reason.WRONG_TIMELINE)
    return Decision(Reason.WRONG_TIMELINE, (EndEpoch(epoch=held.epoch), kill))


def check_answers(view: NodeView) -> Decision | None:
    """Kill a server that hangs: nobody waits for the end of its lease."""
    if view.now_ms < answers_deadline_ms(view):
        return None
    reason = HUNG.get(view.trouble, Reason.POSTGRES_HUNG)
    kill = StopPostgres(mode=StopMode.KILL, reason=reason)
    return Decision(reason, (kill,))


def answers_deadline_ms(view: NodeView) -> int:
    """Return when a holder's server that stays silent is judged to hang."""
    postgres = view.postgres
    if postgres.in_recovery is False:
        silent_ms = postgres.evidence_ms + view.limits.evidence_max_ms
        return max(silent_ms, view.woke_ms + stall_ms(view.limits))
    asked_ms = max(postgres.started_ms, view.lease.asked_ms, postgres.evidence_ms)
    return asked_ms + view.limits.start_max_ms


def watch_ms(view: NodeView) -> int:
    """Return when a node whose server may write must look again, whatever it does."""
    return min(lease_deadline_ms(view), answers_deadline_ms(view))


def checkpoint(view: NodeView) -> Decision | None:
    """Checkpoint on the new timeline: pg_rewind reads it from the control file."""
    if view.postgres.checkpointed:
        return None
    quiet_ms = view.postgres.promoted_ms + CHECKPOINT_AFTER_MS
    if view.now_ms < quiet_ms:
        wakes = (quiet_ms, sync_wake_ms(view) or quiet_ms)
        return Decision(Reason.CHECKPOINT_AFTER_PROMOTION, (), min(wakes))
    actions = () if view.checkpointing else (Checkpoint(),)
    return Decision(Reason.CHECKPOINT_AFTER_PROMOTION, actions, sync_wake_ms(view))


def serve(view: NodeView) -> Decision | None:
    """Nothing to do while the lease lasts."""
    if view.state.fence(view.node) is not None:
        return Decision(Reason.FENCED_WAITS, (), sync_wake_ms(view))
    return Decision(Reason.PRIMARY_RUNNING, (), sync_wake_ms(view))


def after_crash(view: NodeView) -> Decision | None:
    """Give the role to a standby that has everything, if one is ready.

    A restart in place goes first for as long as the operator allows.
    """
    if restarts_here(view) and not view.postgres.start_failures:
        return None
    if not restart_goes_first(view) and standbys_have_everything(view):
        full = view.trouble is Trouble.DISK_FULL
        why = Reason.DISK_FULL if full else Reason.CRASHED_STANDBY_READY
        return release_epoch(view, why)
    if view.postgres.start_failures >= START_FAILURES_MAX:
        return release_epoch(view, Reason.RELEASING)
    return None


def restart_goes_first(view: NodeView) -> bool:
    """Tell whether a crashed primary is preferred to a ready standby, as yet.

    One session that was killed, for lack of memory most often, is no reason to give
    the role on: the server restarts in a second or less. It is one if that happens
    again at once, and if the disk is what processes die of.
    """
    postgres = view.postgres
    again_ms = postgres.ended_ms - postgres.ended_before_ms
    quick = (
        postgres.child_died
        and not postgres.start_failures
        and view.trouble not in _OF_THE_DISK
        and (postgres.ended_before_ms == 0 or again_ms >= CHILD_DEATHS_APART_MS)
    )
    patience_ms = max(view.limits.restart_ms, CHILD_DIED_RESTART_MS if quick else 0)
    # An end that was seen just now may be later than what the view calls now.
    return patience_ms > 0 and view.now_ms < postgres.ended_ms + patience_ms


def end_slow_restart(view: NodeView) -> Decision | None:
    """Stop a restart in place that takes longer than the operator allows.

    Only where a standby is ready: else there is nothing better to wait for.
    """
    postgres = view.postgres
    endless = view.limits.restart_ms == 0 and not postgres.child_died
    patient = endless or restart_goes_first(view)
    if patient or postgres.ended_ms == 0 or postgres.in_recovery is not None:
        return None
    if not standbys_have_everything(view):
        return None
    kill = StopPostgres(mode=StopMode.KILL, reason=Reason.CRASHED_STANDBY_READY)
    return Decision(Reason.CRASHED_STANDBY_READY, (kill,))


def standbys_have_everything(view: NodeView) -> bool:
    """Tell whether the living standbys surely hold every commit of this epoch."""
    opened = view.state.opened
    if opened is None or opened.epoch != view.state.epoch:
        return False
    return opened.sync.meets_every_quorum(
        standby_name(r.report.node, r.report.data_id)
        for r in view.reports.values()
        if r.report.data_id is not None
        and r.report.state is PostgresState.STANDBY
        and view.now_ms - r.at_ms < view.limits.sync_silent_ms
    )


def restart(view: NodeView) -> Decision | None:
    """Start the crashed primary again, in its epoch and on its timeline."""
    held = held_by_this(view)
    if not has_lease(view):
        # Without a running server there is no evidence to renew it with. This node
        # may get the next epoch without any wait, if nobody has more.
        return release_epoch(view, Reason.RELEASING)
    start = StartPrimary(epoch=held.epoch)
    return Decision(Reason.RESTARTING_IN_PLACE, (Arm(epoch=held.epoch), start))
