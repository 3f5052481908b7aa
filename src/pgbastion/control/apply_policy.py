"""How the state takes a change of the lease's length.

A longer lease counts at once: grants name it and waits count with it. A shorter one
comes in three steps: first the nodes go by its timings, under leases as long as before;
then grants name it; then, once no longer one can run, waits count with it.

Source: docs/explanation/lease.md, "How long a lease is".
"""

from dataclasses import replace
from typing import Final, assert_never

from pgbastion.control.outcomes import Outcome
from pgbastion.model.cluster import (
    AT_MAX,
    LEASE_MAX_MS,
    ClusterState,
    Policy,
    Shortening,
)
from pgbastion.model.commands import AdoptPolicy, SetPolicy, SettlePolicy
from pgbastion.model.ids import Revision

DRIFT_MAX_PPM: Final = 100_000


def is_sensible(policy: Policy) -> bool:
    """Tell whether a cluster could live by this policy."""
    return (
        0 < policy.lease_ms <= LEASE_MAX_MS
        and 0 <= policy.drift_ppm <= DRIFT_MAX_PPM
        and 0 <= policy.margin_ms < policy.lease_ms
    )


def apply_policy(
    state: ClusterState, command: SetPolicy | AdoptPolicy | SettlePolicy
) -> ClusterState | Outcome:
    """Take a step of a change of the policy."""
    policy = state.policy
    if policy is None:
        return Outcome.NOT_FOUNDED
    match command:
        case SetPolicy():
            return _set(state, policy, command)
        case AdoptPolicy():
            return _adopt(state, policy, command)
        case SettlePolicy():
            return _settle(state, policy, command)
        case _:
            assert_never(command)


def _set(
    state: ClusterState, old: Policy, command: SetPolicy
) -> ClusterState | Outcome:
    new = command.policy
    if new.revision != old.revision + 1:
        return Outcome.STALE_REVISION
    if new.profile is None or not is_sensible(new):
        return Outcome.SENSELESS
    if replace(new, revision=old.revision) == old:
        return Outcome.NO_CHANGE
    # What a former change has not waited out is still to be waited out.
    running = state.shortening or old
    longest = Shortening(
        lease_ms=max(new.lease_ms, old.lease_ms, running.lease_ms),
        drift_ppm=max(new.drift_ppm, old.drift_ppm, running.drift_ppm),
    )
    shorter = (longest.lease_ms, longest.drift_ppm) != (new.lease_ms, new.drift_ppm)
    changed = replace(state, policy_at=command.at[:AT_MAX])
    return _raised(changed, policy=new, shortening=longest if shorter else None)


def _adopt(
    state: ClusterState, policy: Policy, command: AdoptPolicy
) -> ClusterState | Outcome:
    if command.policy_revision != policy.revision:
        return Outcome.STALE_REVISION
    shortening = state.shortening
    if shortening is None or shortening.adopted:
        return Outcome.NO_CHANGE
    adopted = replace(shortening, adopted=True)
    return _raised(state, policy=policy, shortening=adopted)


def _settle(
    state: ClusterState, policy: Policy, command: SettlePolicy
) -> ClusterState | Outcome:
    if command.policy_revision != policy.revision:
        return Outcome.STALE_REVISION
    if state.shortening is None:
        return Outcome.NO_CHANGE
    if not state.shortening.adopted:
        # Longer leases are still granted.
        return Outcome.SENSELESS
    return _raised(state, policy=policy, shortening=None)


def _raised(
    state: ClusterState, *, policy: Policy, shortening: Shortening | None
) -> ClusterState:
    """Return the state with this policy; what was decided before it is refused."""
    return replace(
        state,
        revision=Revision(state.revision + 1),
        policy=policy,
        shortening=shortening,
    )
