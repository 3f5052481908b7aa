"""The steps of a node that runs the primary, or did until a moment ago."""

from collections.abc import Mapping
from typing import Final, assert_never

from pgbastion.control.node_rules import (
    has_lease,
    held_by_this,
    lease_deadline_ms,
    release_epoch,
    stall_ms,
)
from pgbastion.control.restart_and_copy import restarts_here, work_target
from pgbastion.control.sync_standbys import (
    Confirming,
    InForce,
    SetReplicated,
    SetServer,
    desired_set,
    next_sync_step,
    wanted_count,
)
from pgbastion.model.actions import (
    ApplySyncSet,
    Arm,
    Checkpoint,
    Decision,
    EndEpoch,
    Propose,
    StartPrimary,
    StopMode,
    StopPostgres,
)
from pgbastion.model.cluster import NOBODY, SyncSet
from pgbastion.model.commands import Opened, SetSync
from pgbastion.model.ids import NodeId, standby_name
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState, ReplicationRow
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import NodeView, PostgresView

CONFIRM_AGAIN_MS: Final = 50
"""How soon to ask again whether every walsender goes by the new set."""
START_FAILURES_MAX: Final = 3
"""A crashed primary releases its epoch after so many failed starts."""
CHECKPOINT_AFTER_MS: Final = 300
"""How long the first clients of a new primary have its disks for themselves."""
CHILD_DIED_RESTART_MS: Final = 3_000
"""How long a server may take to be up again after one of its processes had died."""
CHILD_DEATHS_APART_MS: Final = 10_000
"""Sooner after the last end, another one is no accident of a single session."""
SYNC_LAG_MAX_BYTES: Final = 16 << 20
"""A standby further behind would hold commits up if it became synchronous."""


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


def open_epoch(view: NodeView) -> Decision | None:
    """Declare the first synchronous set once enough have flushed the promotion."""
    held = held_by_this(view)
    if held.opened:
        return None
    promoted_at = view.postgres.promoted_at
    if promoted_at is None:
        return Decision(Reason.PROMOTION_RUNNING)
    eligible = _eligible(view)
    flushed = {
        row.name
        for row in view.postgres.replication
        if row.streaming and row.name in eligible and row.flush_lsn >= promoted_at
    }
    desired = desired_set(view.state, flushed, ())
    give_up_ms = view.postgres.promoted_ms + view.limits.sync_silent_ms
    if desired.num_sync < wanted_count(view.state):
        if view.state.strict:
            return Decision(Reason.WAITING_FOR_SYNC_STANDBY)
        if view.now_ms < give_up_ms:
            return Decision(Reason.WAITING_FOR_SYNC_STANDBY, (), give_up_ms)
    command = Opened(
        epoch=held.epoch, incarnation=view.incarnation, sync=desired, at=view.at
    )
    return Decision(
        Reason.OPENING, (Propose(command=command),), detail=_describe(desired)
    )


def has_caught_up(view: NodeView) -> bool:
    """Tell whether what the server had when it was started can no longer vanish.

    A commit that waits for a standby is seen by nobody. When its server dies, recovery
    ends the wait: the commit shows, and a failover may still go without it. So nobody
    is let in before as many of the set have flushed it as each commit needs.
    """
    opened, begun_at = view.state.opened, view.postgres.promoted_at
    if opened is None or begun_at is None:
        return False
    flushed = {
        row.name
        for row in view.postgres.replication
        if row.streaming and row.flush_lsn >= begun_at
    }
    return len(flushed.intersection(opened.sync.names)) >= opened.sync.num_sync


def _eligible(view: NodeView) -> frozenset[str]:
    """Return the standby names that may be in the synchronous set."""
    return frozenset(
        standby_name(m.name, m.data_id)
        for m in view.state.servers
        if m.data_id is not None
        and not m.nosync
        and m.member_id != view.member_id
        and view.state.fence(m.name) is None
        and m.name != work_target(view.state)
        and not _is_lost(view, m.name)
    )


def _is_lost(view: NodeView, node: NodeId) -> bool:
    """Tell whether what a node's server confirms is worth nothing, as it says itself.

    It is about to end cleanly, or its files are gone, or none can be written there.
    """
    received = view.reports.get(node)
    if received is None:
        return False
    report = received.report
    return report.leaving or report.files_lost


def keep_sync(view: NodeView) -> Decision | None:
    """Take the next safe step towards the set that should be in force."""
    held = held_by_this(view)
    opened = view.state.opened
    if opened is None or opened.epoch != held.epoch:
        return None
    if view.sync_unsettled:
        # The server's setting must not move while a promise is still on its way.
        return _propose_set(view, opened.sync)
    streaming, kept, wake_ms = _streaming_and_kept(view, opened.sync)
    absent = _eligible(view) if view.state.strict else ()
    desired = desired_set(view.state, streaming, kept, absent=absent)
    step = next_sync_step(
        opened.sync,
        view.postgres.server_sync,
        desired,
        confirmed=view.postgres.sync_confirmed,
    )
    match step:
        case InForce():
            return _rewrite_for_mode(view, opened.sync)
        case SetServer(sync=sync):
            action = _apply_to_server(opened.sync, sync)
            return Decision(Reason.CHANGING_SYNC_SET, (action,), detail=_describe(sync))
        case SetReplicated(sync=sync):
            return _propose_set(view, sync)
        case Confirming():
            again_ms = view.now_ms + CONFIRM_AGAIN_MS
            wake = again_ms if wake_ms is None else min(wake_ms, again_ms)
            confirm = _apply_to_server(opened.sync, desired)
            return Decision(Reason.CONFIRMING_SYNC_SET, (confirm,), wake)
        case _:
            assert_never(step)


def _apply_to_server(promised: SyncSet, sync: SyncSet) -> ApplySyncSet:
    return ApplySyncSet(sync=sync, first=promised.num_sync == 0 < sync.num_sync)


def _rewrite_for_mode(view: NodeView, sync: SyncSet) -> Decision | None:
    """Write the set anew after a change between ``sync`` and ``quorum``.

    Both promise the same: each commit was flushed by so many of these names.
    """
    if not view.postgres.sync_reworded:
        return None
    action = ApplySyncSet(sync=sync)
    return Decision(Reason.CHANGING_SYNC_SET, (action,), detail=view.state.mode)


def _propose_set(view: NodeView, sync: SyncSet) -> Decision:
    command = SetSync(
        revision=view.state.revision,
        epoch=view.state.epoch,
        incarnation=view.incarnation,
        sync=sync,
    )
    actions = (Propose(command=command),)
    return Decision(Reason.CHANGING_SYNC_SET, actions, detail=_describe(sync))


def _streaming_and_kept(
    view: NodeView, sync: SyncSet
) -> tuple[frozenset[str], frozenset[str], int | None]:
    """Return which names stream, which are silent but kept for now, and until when."""
    eligible = _eligible(view)
    streaming = frozenset(
        row.name
        for row in view.postgres.replication
        if row.streaming
        and row.name in eligible
        and row.name not in view.silent_since_ms
        and (row.name in sync.names or _keeps_up(view.postgres, row))
    )
    kept: set[str] = set()
    until: list[int] = []
    for name in set(sync.names) & eligible - streaming:
        since_ms = view.silent_since_ms.get(name, view.now_ms)
        leaves_ms = since_ms + view.limits.sync_silent_ms
        if view.now_ms < leaves_ms:
            kept.add(name)
            until.append(leaves_ms)
    return streaming, frozenset(kept), min(until, default=None)


def _keeps_up(postgres: PostgresView, row: ReplicationRow) -> bool:
    """Tell whether commits may wait for a standby that is to join the set.

    It streams as soon as all was sent to it. Its first flush may take seconds, and
    from the moment at which it is named, every commit would wait as long.
    """
    end, earlier = postgres.wal_end, postgres.earlier_end
    if end is not None and end.lsn - row.flush_lsn > SYNC_LAG_MAX_BYTES:
        return False
    return earlier is None or row.flush_lsn >= earlier


def sync_wake_ms(view: NodeView) -> int | None:
    """Return when a silent member of the synchronous set leaves it; None: never."""
    opened = view.state.opened
    return _streaming_and_kept(view, opened.sync)[2] if opened is not None else None


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


def _describe(sync: SyncSet) -> str:
    if sync == NOBODY:
        return "nobody"
    return f"any {sync.num_sync} of {', '.join(sync.names)}"
