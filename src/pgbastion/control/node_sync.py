"""The steps of a primary about its synchronous set: who confirms commits.

Its epoch is opened with the first set; afterwards one safe step at a time leads to the
set that should be in force. The rules of the steps are in :mod:`.sync_standbys`.
"""

from typing import Final, assert_never

from pgbastion.control.node_rules import held_by_this
from pgbastion.control.restart_and_copy import work_target
from pgbastion.control.sync_standbys import (
    Confirming,
    InForce,
    SetReplicated,
    SetServer,
    desired_set,
    next_sync_step,
    wanted_count,
)
from pgbastion.model.actions import ApplySyncSet, Decision, Propose
from pgbastion.model.cluster import NOBODY, SyncSet
from pgbastion.model.commands import Opened, SetSync
from pgbastion.model.ids import NodeId, standby_name
from pgbastion.model.reasons import Reason
from pgbastion.model.report import ReplicationRow
from pgbastion.model.views import NodeView, PostgresView

CONFIRM_AGAIN_MS: Final = 50
"""How soon to ask again whether every walsender goes by the new set."""
SYNC_LAG_MAX_BYTES: Final = 16 << 20
"""A standby further behind would hold commits up if it became synchronous."""


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


def _describe(sync: SyncSet) -> str:
    if sync == NOBODY:
        return "nobody"
    return f"any {sync.num_sync} of {', '.join(sync.names)}"
