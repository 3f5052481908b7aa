"""The state with which a cluster begins again after its majority is lost for ever.

The membership begins anew, with one node under an id that nobody ever had, and epochs
and timelines go on above every one that may have been given. What the state says of
synchronous sets may be old: newer words may be lost with the majority. So nothing
proves any more who has every commit, nobody is promoted by itself, and a person
chooses.

Source: docs/explanation/lease.md, "Assigning another node"; Ongaro, thesis, 4.1.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from pgbastion.control.apply import apply
from pgbastion.model.cluster import (
    NOBODY,
    Assignment,
    ClusterState,
    Member,
    OpenedEpoch,
)
from pgbastion.model.commands import Found, encode_command
from pgbastion.model.ids import DataId, Epoch, MemberId, Revision, Timeline

IDS_LEFT_OUT: Final = 1 << 20
"""Entries that are lost may have given ids to nodes: none of them is given again."""
EPOCHS_LEFT_OUT: Final = 1 << 10
"""Epochs that this node may not have heard of."""
TIMELINES_LEFT_OUT: Final = 16
"""Timelines that promotions which it has not heard of may have taken. A server that
comes back with one of them would pass for a follower of another promotion that has the
same id. For each there is a short file on every node."""
PAUSES_LEFT_OUT: Final = 1 << 10
"""Pauses and their ends that nodes may have heard of: each goes by the newest."""


def replay(
    base: ClusterState, entries: Iterable[tuple[int, str, bytes]]
) -> ClusterState:
    """Return the state after these entries: index, proposal id and data of each."""
    state = base
    for index, proposal_id, data in entries:
        if data:
            state = apply(state, index, proposal_id, data).state
        else:
            state = replace(state, index=max(index, state.index))
    return state


def fresh_id(
    state: ClusterState, known_ids: Iterable[int], *, now_s: int, chance: int
) -> MemberId:
    """Return an id above every one that was ever given.

    Args:
        state: The state of the cluster.
        known_ids: Ids that the Raft group knows.
        now_s: Wall-clock time: a later beginning from an older state gets a higher id.
        chance: 16 random bits, so that two beginnings of one second differ.
    """
    highest = max(state.next_member_id, *known_ids, 1)
    return MemberId(max(highest + IDS_LEFT_OUT, now_s << 16) + chance)


def begin_again(
    state: ClusterState, own: Member, *, index: int, marked: Epoch = Epoch(0)
) -> ClusterState:
    """Return the state of a cluster whose only member is ``own``.

    Args:
        state: What is known of the cluster.
        own: The only member, with its new id.
        index: Of the log, where the new state stands.
        marked: The newest epoch that the data directory took part in.
    """
    known = state.named(own.name)
    data_id = known.data_id if known is not None else own.data_id
    held, opened = state.assignment, state.opened
    pauses = state.pause_revision + PAUSES_LEFT_OUT
    if held is not None:
        epoch = Epoch(max(held.epoch, marked) + EPOCHS_LEFT_OUT)
        # Whether its holder heeds its lease is as well known as before.
        running = pauses if held.running == state.pause_revision else held.running
        held = replace(held, epoch=epoch, revoked=True, ended_at=None, running=running)
    if opened is not None:
        # A data directory that nobody has: who answers a survey proves nothing.
        opened = replace(opened, data_id=DataId(""), sync=NOBODY)
    return replace(
        state,
        index=index,
        revision=Revision(state.revision + 1),
        members=(replace(own, joined=True, data_id=data_id),),
        next_member_id=MemberId(own.member_id + 1),
        founder=own.member_id,
        assignment=held,
        opened=opened,
        highest_timeline=_above(state.highest_timeline),
        later_timelines=(),
        pause_revision=pauses,
    )


def begin_from_data(
    found: Found, *, data_id: DataId, epoch: Epoch, timeline: Timeline
) -> ClusterState:
    """Return the state of a cluster of which nothing is left but a data directory.

    Its data is what counts from now on, since nobody knows of any other. The epoch is
    over: its server is no primary until the next one is assigned to it.
    """
    state = apply(ClusterState(), 1, "", encode_command(found)).state
    member = found.member
    held = Assignment(
        epoch=Epoch(epoch + EPOCHS_LEFT_OUT),
        member_id=member.member_id,
        node=member.name,
        data_id=data_id,
        timeline=timeline,
        surveyed=None,
        running=PAUSES_LEFT_OUT,
        opened=True,
        revoked=True,
    )
    opened = OpenedEpoch(
        epoch=held.epoch,
        node=held.node,
        data_id=data_id,
        timeline=timeline,
        sync=NOBODY,
    )
    return replace(
        state,
        members=(replace(member, data_id=data_id),),
        pause_revision=PAUSES_LEFT_OUT,
        assignment=held,
        opened=opened,
        highest_timeline=_above(timeline),
    )


def _above(timeline: Timeline) -> Timeline:
    return Timeline(timeline + TIMELINES_LEFT_OUT)
