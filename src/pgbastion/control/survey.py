"""Which nodes surely hold every acknowledged commit, and which of them is furthest.

Source: docs/explanation/lease.md, "Revocation and survey".
"""

from collections.abc import Collection, Iterable, Sequence

from pgbastion.model.cluster import ClusterState, ReplicationMode
from pgbastion.model.ids import NodeId, standby_name
from pgbastion.model.views import SurveyAnswer
from pgbastion.model.wal import WalEnd


def needs_survey(state: ClusterState) -> bool:
    """Tell whether the next primary has to be surveyed for acknowledged commits.

    The mode says what is wanted; after a change to ``async`` the old promise is in
    force until its holder has taken it back.
    """
    promised = state.opened is not None and state.opened.sync.num_sync > 0
    return promised or state.mode is not ReplicationMode.ASYNC


def usable_answers(answers: Iterable[SurveyAnswer]) -> tuple[SurveyAnswer, ...]:
    """Return the answers that say something about a disk that will stay as it is."""
    return tuple(a for a in answers if a.wal_end is not None and a.holder_stopped)


def hold_every_commit(state: ClusterState, answers: Sequence[SurveyAnswer]) -> bool:
    """Tell whether some node among the answers has every acknowledged commit.

    True when the holder of the last opened epoch is among them, with the data
    that it had then; or enough members of that epoch's synchronous set; or a node
    that has flushed past the beginning of a later epoch's timeline.
    """
    opened = state.opened
    if opened is None:
        return False
    usable = usable_answers(answers)
    if any(reached_end(state, answer) for answer in usable):
        return True
    if any((a.node, a.data_id) == (opened.node, opened.data_id) for a in usable):
        return True
    if any(_beyond_opened(state, answer) for answer in usable):
        return True
    return opened.sync.meets_every_quorum(
        standby_name(a.node, a.data_id) for a in usable
    )


def reached_end(state: ClusterState, answer: SurveyAnswer) -> bool:
    """Whether the node has flushed all that a holder wrote that ended cleanly.

    Timelines never repeat, so WAL of the holder's timeline is the holder's.
    """
    held, end = state.assignment, answer.wal_end
    if held is None or held.ended_at is None or end is None or answer.has_strayed:
        return False
    return end.timeline == held.ended_at.timeline and end >= held.ended_at


def _beyond_opened(state: ClusterState, answer: SurveyAnswer) -> bool:
    """Whether the node has WAL that a later epoch's primary wrote.

    Having fetched the timeline's history file proves nothing: it comes first.
    """
    end = answer.wal_end
    if end is None or end.timeline not in state.later_timelines or answer.has_strayed:
        return False
    return answer.timeline_begin is not None and end.lsn > answer.timeline_begin


def answers_with_every_commit(
    state: ClusterState, answers: Sequence[SurveyAnswer], able: Collection[NodeId]
) -> tuple[SurveyAnswer, ...]:
    """Return those answers of ``able`` nodes that surely hold every commit.

    The furthest of a set that holds every commit does, and whoever is as far. Left
    out of the comparison is a server that took another timeline than the assigned
    one, or one that nobody gave it: the id says nothing about its place, so it counts
    only if it suffices alone.
    """
    usable = usable_answers(answers)
    promotable = [a for a in usable if a.node in able]
    # A node that may not be promoted still shows how far the others have to be.
    for among in (promotable, usable):
        end = furthest_end(state, among)
        as_far = tuple(a for a in promotable if a.wal_end == end)
        if end is not None and as_far:
            return as_far
    return tuple(a for a in promotable if hold_every_commit(state, (a,)))


def furthest_end(state: ClusterState, answers: Sequence[SurveyAnswer]) -> WalEnd | None:
    """Return how far the furthest is, where these answers hold every commit."""
    placed = [a for a in usable_answers(answers) if _has_known_timeline(state, a)]
    if not hold_every_commit(state, placed):
        return None
    return max(a.wal_end for a in placed if a.wal_end is not None)


def _has_known_timeline(state: ClusterState, answer: SurveyAnswer) -> bool:
    opened, end = state.opened, answer.wal_end
    if opened is None or end is None or answer.has_strayed:
        return False
    return end.timeline <= opened.timeline or end.timeline in state.later_timelines
