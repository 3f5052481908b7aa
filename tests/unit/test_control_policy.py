"""A change of how long leases are: what grants name, and what waits count with."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.apply_policy import apply_policy
from pgbastion.control.lease import granted_ms, longest_lease_policy, stretched_ms
from pgbastion.control.outcomes import Outcome
from pgbastion.control.policy import decide_policy
from pgbastion.model.actions import Propose
from pgbastion.model.cluster import ClusterState, Policy, Shortening
from pgbastion.model.commands import AdoptPolicy, Command, SetPolicy, SettlePolicy
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.model.reasons import Reason
from pgbastion.model.views import Received
from pgbastion.testing.views import (
    NOW_MS,
    cluster_state,
    cluster_view,
    primary_report,
    raft_view,
    received,
    report,
)

LEASES = {Profile.FAST: 2_000, Profile.NORMAL: 5_000, Profile.WIDE: 30_000}


def founded() -> ClusterState:
    return cluster_state(policy=Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500))


def to(profile: Profile, revision: int, **changes: Any) -> SetPolicy:
    policy = Policy(
        lease_ms=LEASES[profile],
        drift_ppm=1_000,
        margin_ms=200,
        revision=revision,
        profile=profile,
    )
    return SetPolicy(policy=replace(policy, **changes), at=f"at {revision}")


def after(state: ClusterState, *commands: Command) -> ClusterState:
    for command in commands:
        assert isinstance(command, SetPolicy | AdoptPolicy | SettlePolicy)
        told = apply_policy(state, command)
        assert isinstance(told, ClusterState), told
        assert told.revision == state.revision + 1
        state = told
    return state


def bound_ms(state: ClusterState) -> int:
    policy = longest_lease_policy(state)
    assert policy is not None
    return policy.lease_ms


def test_a_longer_lease_counts_at_once_for_grants_and_waits() -> None:
    state = after(founded(), to(Profile.WIDE, 1))

    assert (granted_ms(state), bound_ms(state)) == (30_000, 30_000)


def test_a_shorter_lease_is_granted_once_adopted_and_waited_by_once_settled() -> None:
    state = after(founded(), to(Profile.FAST, 1))
    assert (granted_ms(state), bound_ms(state)) == (5_000, 5_000)

    state = after(state, AdoptPolicy(policy_revision=1))
    assert (granted_ms(state), bound_ms(state)) == (2_000, 5_000)

    state = after(state, SettlePolicy(policy_revision=1))
    assert state.policy_at == "at 1"
    assert (granted_ms(state), bound_ms(state)) == (2_000, 2_000)


def test_what_one_change_has_not_waited_out_the_next_one_does() -> None:
    state = after(
        founded(),
        to(Profile.WIDE, 1),
        to(Profile.NORMAL, 2),
        AdoptPolicy(policy_revision=2),
        to(Profile.FAST, 3),
        AdoptPolicy(policy_revision=3),
    )

    assert (granted_ms(state), bound_ms(state)) == (2_000, 30_000)


def test_a_lower_drift_is_a_shortening_too() -> None:
    state = after(founded(), to(Profile.NORMAL, 1, drift_ppm=500))

    assert state.shortening == Shortening(lease_ms=5_000, drift_ppm=1_000)


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (to(Profile.NORMAL, 1), Outcome.STALE_REVISION),
        (to(Profile.FAST, 1), Outcome.STALE_REVISION),
        (to(Profile.FAST, 2), Outcome.NO_CHANGE),
        (to(Profile.FAST, 2, lease_ms=0), Outcome.SENSELESS),
        (to(Profile.FAST, 2, lease_ms=1 << 62), Outcome.SENSELESS),
        (to(Profile.FAST, 2, margin_ms=2_000), Outcome.SENSELESS),
        (AdoptPolicy(policy_revision=0), Outcome.STALE_REVISION),
        (SettlePolicy(policy_revision=0), Outcome.STALE_REVISION),
        (SettlePolicy(policy_revision=1), Outcome.SENSELESS),
    ],
)
def test_what_comes_late_or_makes_no_sense_changes_nothing(
    command: SetPolicy | AdoptPolicy | SettlePolicy, outcome: Outcome
) -> None:
    state = after(founded(), to(Profile.FAST, 1))

    assert apply_policy(state, command) is outcome


def reports(
    *, holder: int | None = 1, third: int | None = 1, third_at: int = NOW_MS
) -> dict[NodeId, Received]:
    return {
        **received(
            primary_report(policy_revision=holder),
            report(2, policy_revision=1),
            at_ms=NOW_MS,
        ),
        **received(report(3, policy_revision=third), at_ms=third_at),
    }


def test_a_shorter_lease_waits_for_every_node_that_is_heard() -> None:
    state = after(founded(), to(Profile.FAST, 1))

    for lagging in (reports(third=0), reports(third=None), reports(holder=0)):
        assert decide_policy(cluster_view(state=state, reports=lagging)) is None

    told = decide_policy(cluster_view(state=state, reports=reports()))
    assert told is not None
    assert told.reason is Reason.POLICY_ADOPTED
    assert told.actions == (Propose(command=AdoptPolicy(policy_revision=1)),)


def test_a_node_that_is_long_silent_is_not_waited_for_unless_it_holds() -> None:
    state = after(founded(), to(Profile.FAST, 1))
    away = reports(third=0, third_at=NOW_MS - 60_000)
    assert decide_policy(cluster_view(state=state, reports=away)) is not None

    holder = received(report(2, policy_revision=1), report(3, policy_revision=1))
    assert decide_policy(cluster_view(state=state, reports=holder)) is None


@pytest.mark.parametrize("later", ["policy_seen", "elected"])
def test_a_shorter_lease_is_settled_a_whole_longer_one_after(later: str) -> None:
    state = after(founded(), to(Profile.FAST, 1), AdoptPolicy(policy_revision=1))
    policy = longest_lease_policy(state)
    assert policy is not None
    due_ms = NOW_MS - stretched_ms(policy)

    def told(instant_ms: int) -> Reason | None:
        seen = instant_ms if later == "policy_seen" else 0
        elected = instant_ms if later == "elected" else 0
        decision = decide_policy(
            cluster_view(
                state=state,
                policy_seen_ms=seen,
                raft=raft_view(elected_ms=elected),
                now_ms=NOW_MS,
            )
        )
        return decision.reason if decision is not None else None

    assert told(due_ms + 1) is None
    assert told(due_ms) is Reason.POLICY_SETTLED
