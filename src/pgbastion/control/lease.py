"""When the former holder's lease has surely run out.

Source: docs/explanation/lease.md, "Assigning another node".
"""

from collections.abc import Iterable
from dataclasses import replace
from math import ceil
from typing import Final

from pgbastion.model.cluster import ClusterState, Policy
from pgbastion.model.ids import MemberId
from pgbastion.model.views import AgeAnswer, Limits, RaftView

FOUNDING_TERM: Final = 2
"""The term in which a cluster's first leader is elected: its log begins in term 1,
written by the engine when the cluster is formed, in which nobody leads."""


def stretched_ms(policy: Policy) -> int:
    """Return how long a lease may last on this node's clock, in milliseconds.

    The holder's clock may run slower than ours by the drift bound.
    """
    return ceil(policy.lease_ms * (1_000_000 + policy.drift_ppm) / 1_000_000)


def own_grants_end_ms(policy: Policy, last_answer_ms: int) -> int:
    """Return when the last lease that this leader granted has surely run out.

    Args:
        policy: The lease's length and the drift bound.
        last_answer_ms: When this leader last answered a renewal; 0 means never.
    """
    return last_answer_ms + stretched_ms(policy) if last_answer_ms else 0


def older_grants_end_ms(
    policy: Policy, raft: RaftView, ages: Iterable[AgeAnswer]
) -> int:
    """Return when every lease that an earlier leader granted has surely run out.

    A grant needed confirmations by a majority, and its renewal had been sent
    before any of them. Each voter's age bounds the newest confirmation it gave,
    so the latest deadline of a majority bounds every grant: two majorities share
    a voter. That has to hold in each configuration since the election. The whole
    lease from this leader's election bounds every grant too: those who elected it
    confirm no older leader any more. The first leader of all has no predecessor.
    """
    if raft.term <= FOUNDING_TERM:
        return 0
    length = stretched_ms(policy)
    deadlines = {
        answer.member_id: answer.receipt_ms + length - answer.age_ms
        for answer in ages
        if answer.term >= raft.term
    }
    ends = [_majority_deadline_ms(voters, deadlines) for voters in raft.configurations]
    whole_ms = raft.elected_ms + length
    if not ends or None in ends:
        return whole_ms
    return min(whole_ms, max(end for end in ends if end is not None))


def _majority_deadline_ms(
    voters: tuple[MemberId, ...], deadlines: dict[MemberId, int]
) -> int | None:
    """Return the earliest instant by which the deadlines of a majority are past."""
    known = sorted(deadlines[voter] for voter in voters if voter in deadlines)
    majority = len(voters) // 2 + 1
    return known[majority - 1] if len(known) >= majority else None


def longest_lease_policy(state: ClusterState) -> Policy | None:
    """Return the policy that waits count with: the longest lease that may run.

    None: there is no cluster yet.
    """
    policy, longer = state.policy, state.shortening
    if policy is None or longer is None:
        return policy
    return replace(policy, lease_ms=longer.lease_ms, drift_ppm=longer.drift_ppm)


def granted_ms(state: ClusterState) -> int:
    """Return the lease that a grant names now; 0: there is no cluster yet."""
    longer = state.shortening
    if longer is not None and not longer.adopted:
        return longer.lease_ms
    return state.policy.lease_ms if state.policy is not None else 0


def why_too_short(state: ClusterState, limits: Limits) -> str:
    """Return why a node's own timings do not fit into the lease; empty: they do.

    A node that cannot stop within the lease never becomes the primary.
    """
    if state.policy is None or limits.lease_least_ms <= granted_ms(state):
        return ""
    return (
        f"its timings need a lease of {limits.lease_least_ms} ms, "
        f"the cluster's is {granted_ms(state)} ms"
    )
