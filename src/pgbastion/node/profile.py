"""Takes an operator's word on the profile, and with it on how long a lease is."""

from typing import Final

from pgbastion.api.ports import Outcome, Refused
from pgbastion.model.commands import SetPolicy
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.node.parts import policy_of
from pgbastion.node.proposing import Log, OperatorCommand, happened, submit
from pgbastion.observe.logging import get_logger

LOOK: Final = "look at /cluster/state, then repeat"

log = get_logger("api")


async def change_profile(host: Log, profile: Profile, *, at: str) -> Outcome:
    """Put the change into the log; the nodes and the Raft leader carry it out.

    A longer lease counts at once; a shorter one when all go by it, and once the longer
    ones have run out.
    """
    former = host.state.policy
    if former is None:
        return Refused(
            code="no_cluster_yet",
            message="there is no cluster yet whose profile could be changed",
            remedy="write failover.profile into the file of the first node",
        )
    unaware = unaware_of_profiles(host)
    if unaware:
        return Refused(
            code="older_release",
            message=f"{', '.join(unaware)}: of a release that knows of no such change",
            remedy="upgrade all nodes first",
        )
    policy = policy_of(profile, revision=former.revision + 1)
    facts = {"profile": profile, "lease_ms": policy.lease_ms}
    asked = OperatorCommand(
        command=SetPolicy(policy=policy, at=at),
        done=f"the cluster goes by the profile {profile}",
        refused="the profile was not changed",
        look=LOOK,
        facts=lambda changed: {**facts, "changed": changed},
    )
    answer = await submit(host, asked)
    if happened(answer, host) and answer.facts["changed"]:
        log.info("profile_set", **facts)
    return answer


def unaware_of_profiles(host: Log) -> list[NodeId]:
    """Return the members whose release would not know what to make of the command."""
    reports = ((m.name, host.reports.get(m.name)) for m in host.state.members)
    return [n for n, r in reports if r is not None and r.report.policy_revision is None]
