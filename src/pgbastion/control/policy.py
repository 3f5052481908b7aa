"""How a cluster comes to a shorter lease: the leader's steps, and who is waited for.

Source: docs/explanation/lease.md, "How long a lease is".
"""

from collections.abc import Iterable

from pgbastion.control.lease import longest_lease_policy, stretched_ms
from pgbastion.model.actions import Decision, Propose
from pgbastion.model.cluster import ClusterState, Member
from pgbastion.model.commands import AdoptPolicy, SettlePolicy
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, Reports


def decide_policy(view: ClusterView) -> Decision | None:
    """Take the next step to a shorter lease; None: there is none to take now."""
    state, policy = view.state, view.state.policy
    longest = longest_lease_policy(state)
    if state.shortening is None or policy is None or longest is None:
        return None
    if not state.shortening.adopted:
        # Who was silent for a lease is waited for by nobody.
        reports = view.reports_within(max(view.report_ms, longest.lease_ms))
        if any(not_adopted(state, reports)):
            return None
        adopt = AdoptPolicy(policy_revision=policy.revision)
        return Decision(Reason.POLICY_ADOPTED, (Propose(command=adopt),))
    # This leader grants no longer lease since it applied the step before; an earlier
    # one, that may not have heard of it, none since this one was elected.
    since_ms = max(view.policy_seen_ms, view.raft.elected_ms)
    if view.now_ms < since_ms + stretched_ms(longest):
        return None
    settle = SettlePolicy(policy_revision=policy.revision)
    return Decision(Reason.POLICY_SETTLED, (Propose(command=settle),))


def not_adopted(state: ClusterState, reports: Reports) -> Iterable[Member]:
    """Yield the members that do not go by the policy's timings, as far as is known.

    The holder counts also when it is silent: a lease that is shorter than it thinks
    would stop it.
    """
    policy = state.policy
    for member in state.members:
        report = reports.fresh(member.name)
        if report is None:
            if state.is_held_by(member.member_id):
                yield member
        elif policy is None or report.policy_revision != policy.revision:
            yield member
