"""The state machine of the log: ``apply(state, index, id, data)``.

Total: any bytes in any order give a state and an outcome, never an exception, so
that no entry can stop a node. It reads no clock; instants in commands are words
for the history.

Source: docs/explanation/lease.md, "What is replicated".
"""

from dataclasses import dataclass, replace
from typing import Final, assert_never

from pgbastion.control.apply_membership import (
    MembershipCommand,
    apply_membership,
    found_cluster,
)
from pgbastion.control.apply_orders import (
    ModeCommand,
    apply_mode,
    apply_order,
    settled_by,
)
from pgbastion.control.apply_placements import apply_placement
from pgbastion.control.apply_schedules_and_fences import apply_schedule_or_fence
from pgbastion.control.apply_settings import apply_parameters
from pgbastion.control.outcomes import Outcome
from pgbastion.model.cluster import (
    AT_MAX,
    CAUSE_MAX,
    MEMBERS_MAX,
    NOBODY,
    Assignment,
    Change,
    ChangeKind,
    ClusterState,
    OpenedEpoch,
    SyncSet,
)
from pgbastion.model.commands import (
    Assign,
    BeginOrder,
    BeginWork,
    Command,
    Found,
    GiveOrder,
    NoteOutage,
    Opened,
    PlaceAddress,
    Release,
    Resume,
    Revoke,
    ScheduleOrder,
    SetFence,
    SetParameters,
    SetSync,
    SettleOrder,
    Undecodable,
    Unschedule,
    VacateAddress,
    Vouched,
    decode_command,
)
from pgbastion.model.ids import Epoch, Incarnation, Revision
from pgbastion.model.wal import WalEnd

__all__ = ("HISTORY_MAX", "RECENT_MAX", "Applied", "Outcome", "apply")

HISTORY_MAX: Final = 200
"""How many notes the history of roles keeps, the newest ones."""
RECENT_MAX: Final = 512
"""How many proposals are remembered, to know one that comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The state after an entry, and what became of the entry."""

    state: ClusterState
    outcome: Outcome
    command: Command | None = None
    detail: str = ""


def apply(state: ClusterState, index: int, proposal_id: str, data: bytes) -> Applied:
    """Apply one committed log entry.

    Args:
        state: The state that all entries before ``index`` gave.
        index: The entry's index; one that is not newer than the state's is ignored.
        proposal_id: The proposal's unique id; a repeated one changes nothing.
        data: The entry's bytes, of whatever origin.
    """
    if index <= state.index:
        return Applied(state=state, outcome=Outcome.DUPLICATE)
    base = replace(state, index=index)
    if proposal_id and proposal_id in state.recent:
        return Applied(state=base, outcome=Outcome.DUPLICATE)
    command = decode_command(data)
    if isinstance(command, Undecodable):
        return Applied(state=base, outcome=Outcome.MALFORMED, detail=command.reason)
    if proposal_id:
        base = replace(base, recent=(*base.recent, proposal_id)[-RECENT_MAX:])
    changed = _apply_command(base, command)
    if isinstance(changed, Outcome):
        return Applied(state=base, outcome=changed, command=command)
    return Applied(state=changed, outcome=Outcome.OK, command=command)


def _apply_command(state: ClusterState, command: Command) -> ClusterState | Outcome:
    if isinstance(command, Found):
        return found_cluster(state, command)
    if not state.cluster_id:
        return Outcome.NOT_FOUNDED
    if isinstance(command, MembershipCommand):
        return apply_membership(state, command)
    if isinstance(command, SetParameters):
        return apply_parameters(state, command)
    if isinstance(command, ModeCommand):
        return apply_mode(state, command)
    if isinstance(command, GiveOrder | BeginOrder | BeginWork | SettleOrder):
        return apply_order(state, command)
    if isinstance(command, ScheduleOrder | Unschedule | SetFence):
        return apply_schedule_or_fence(state, command)
    if isinstance(command, PlaceAddress | VacateAddress):
        return apply_placement(state, command)
    if isinstance(command, NoteOutage):
        return _note_outage(state, command)
    return _apply_role(state, command)


def _apply_role(
    state: ClusterState,
    command: Assign | Resume | Opened | SetSync | Release | Revoke | Vouched,
) -> ClusterState | Outcome:
    match command:
        case Assign():
            return _assign(state, command)
        case Resume():
            return _resume(state, command)
        case Opened():
            return _opened(state, command)
        case SetSync():
            return _set_sync(state, command)
        case Release():
            return _release(state, command)
        case Revoke():
            return _revoke(state, command)
        case Vouched():
            return _vouched(state, command)
        case _:
            assert_never(command)


def _raised(state: ClusterState) -> Revision:
    return Revision(state.revision + 1)


def _assign(state: ClusterState, command: Assign) -> ClusterState | Outcome:
    if command.revision != state.revision:
        return Outcome.STALE_REVISION
    if command.epoch != state.epoch + 1:
        return Outcome.WRONG_EPOCH
    if state.assignment is not None and state.assignment.live:
        return Outcome.HOLDS_EPOCH
    member = state.member(command.member_id)
    if member is None or member.name != command.node or member.is_witness:
        return Outcome.UNKNOWN_MEMBER
    if state.fence(command.node) is not None:
        return Outcome.FENCED
    if command.timeline <= state.highest_timeline:
        return Outcome.SENSELESS
    if command.taken_over and state.assignment is not None:
        return Outcome.SENSELESS
    assignment = Assignment(
        epoch=command.epoch,
        member_id=command.member_id,
        node=command.node,
        data_id=command.data_id,
        timeline=command.timeline,
        surveyed=command.surveyed,
        taken_over=command.taken_over,
        # Its holder arms with a page that has at least this revision.
        running=state.pause_revision,
    )
    changed = replace(
        state,
        revision=_raised(state),
        assignment=assignment,
        highest_timeline=command.timeline,
        later_timelines=(*state.later_timelines, command.timeline),
        orders=settled_by(state, command.node, command.at, command.cause),
    )
    changed = _note(
        changed,
        assignment,
        "assigned",
        cause=command.cause,
        at=command.at,
        end=command.surveyed,
        order_id=state.order.order_id if state.order is not None else "",
    )
    if state.assignment is not None:
        return changed
    # The very first epoch counts as opened with nobody synchronous.
    return _open(changed, assignment, NOBODY)


def _open(state: ClusterState, held: Assignment, sync: SyncSet) -> ClusterState:
    return replace(
        state,
        assignment=replace(held, opened=True),
        opened=OpenedEpoch(
            epoch=held.epoch,
            node=held.node,
            data_id=held.data_id,
            timeline=held.timeline,
            sync=sync,
        ),
        later_timelines=(),
    )


def _held(
    state: ClusterState, epoch: Epoch, incarnation: Incarnation | None
) -> Assignment | Outcome:
    held = state.assignment
    if held is None or held.epoch != epoch:
        return Outcome.WRONG_EPOCH
    if incarnation is not None and held.incarnation != incarnation:
        return Outcome.WRONG_INCARNATION
    return held


def _resume(state: ClusterState, command: Resume) -> ClusterState | Outcome:
    held = _held(state, command.epoch, None)
    if isinstance(held, Outcome):
        return held
    if held.member_id != command.member_id:
        return Outcome.NOT_HOLDER
    if not held.live:
        return Outcome.EPOCH_OVER
    if held.incarnation == command.incarnation:
        return Outcome.NO_CHANGE
    if held.incarnation != command.former:
        return Outcome.WRONG_INCARNATION
    # The revision stays: a daemon in a crash loop must not starve an assignment.
    return replace(state, assignment=replace(held, incarnation=command.incarnation))


def _opened(state: ClusterState, command: Opened) -> ClusterState | Outcome:
    held = _held(state, command.epoch, command.incarnation)
    if isinstance(held, Outcome):
        return held
    if not held.live:
        return Outcome.EPOCH_OVER
    if held.opened:
        return Outcome.NO_CHANGE
    if not _sensible(command.sync):
        return Outcome.SENSELESS
    changed = replace(_open(state, held, command.sync), revision=_raised(state))
    return _note(changed, held, "opened", cause="", at=command.at)


def _set_sync(state: ClusterState, command: SetSync) -> ClusterState | Outcome:
    held = _held(state, command.epoch, command.incarnation)
    if isinstance(held, Outcome):
        return held
    if not held.live:
        return Outcome.EPOCH_OVER
    opened = state.opened
    if opened is None or opened.epoch != held.epoch or not _sensible(command.sync):
        return Outcome.SENSELESS
    if command.revision != state.revision:
        return Outcome.STALE_REVISION
    # The same set raises the revision too: it refuses what is still on its way.
    return replace(
        state, revision=_raised(state), opened=replace(opened, sync=command.sync)
    )


def _sensible(sync: SyncSet) -> bool:
    distinct = len(set(sync.names)) == len(sync.names)
    return distinct and 0 <= sync.num_sync <= len(sync.names) <= MEMBERS_MAX


def _release(state: ClusterState, command: Release) -> ClusterState | Outcome:
    held = _held(state, command.epoch, command.incarnation)
    if isinstance(held, Outcome):
        return held
    if held.released:
        return Outcome.NO_CHANGE
    changed = replace(
        state,
        revision=_raised(state),
        assignment=replace(held, released=True, ended_at=command.ended_at),
    )
    return _note(
        changed,
        held,
        "released",
        cause=command.cause,
        at=command.at,
        end=command.ended_at,
    )


def _revoke(state: ClusterState, command: Revoke) -> ClusterState | Outcome:
    held = _held(state, command.epoch, None)
    if isinstance(held, Outcome):
        return held
    if held.revoked:
        return Outcome.NO_CHANGE
    changed = replace(
        state, revision=_raised(state), assignment=replace(held, revoked=True)
    )
    return _note(changed, held, "revoked", cause=command.cause, at=command.at)


def _vouched(state: ClusterState, command: Vouched) -> ClusterState | Outcome:
    held = _held(state, command.epoch, None)
    if isinstance(held, Outcome):
        return held
    if held.vouched and command.term <= held.vouched_term:
        return Outcome.NO_CHANGE
    if held.vouched:
        # The same word, taken once more by a later leader: nothing else has changed.
        again = replace(held, vouched_term=command.term)
        return replace(state, assignment=again)
    # Revoked with it: a holder that lives after all is answered no more, so that the
    # word cannot shorten the wait of another day.
    vouched = replace(held, vouched=True, vouched_term=command.term, revoked=True)
    changed = replace(state, revision=_raised(state), assignment=vouched)
    return _note(changed, held, "vouched", cause=command.who, at=command.at)


def _note_outage(state: ClusterState, command: NoteOutage) -> ClusterState | Outcome:
    """Add to the note of an opening what it had cost; the first word counts."""
    if command.gap_ms < 0 or command.sessions < 0:
        return Outcome.SENSELESS
    for at in reversed(range(len(state.history))):
        change = state.history[at]
        if change.what != "opened" or change.epoch != command.epoch:
            continue
        if change.gap_ms is not None:
            return Outcome.NO_CHANGE
        noted = replace(change, gap_ms=command.gap_ms, sessions=command.sessions)
        history = (*state.history[:at], noted, *state.history[at + 1 :])
        return replace(state, history=history)
    return Outcome.WRONG_EPOCH


def _note(
    state: ClusterState,
    held: Assignment,
    what: ChangeKind,
    *,
    cause: str,
    at: str,
    end: WalEnd | None = None,
    order_id: str = "",
) -> ClusterState:
    change = Change(
        index=state.index,
        epoch=held.epoch,
        what=what,
        node=held.node,
        timeline=held.timeline,
        cause=cause[:CAUSE_MAX],
        at=at[:AT_MAX],
        lsn=end.lsn if end is not None else None,
        order_id=order_id,
    )
    return replace(state, history=(*state.history, change)[-HISTORY_MAX:])
