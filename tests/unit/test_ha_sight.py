"""What a node sees of itself, beyond what its parts tell."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import pytest

from pgbastion.ha.executor import Executor
from pgbastion.ha.host import Host
from pgbastion.ha.ports import RaftEngine
from pgbastion.ha.sight import LeaseWords, Sight
from pgbastion.model.cluster import ClusterState
from pgbastion.model.profile import Profile
from pgbastion.model.views import Limits
from pgbastion.node.parts import limits_of
from pgbastion.testing.views import (
    INCARNATION,
    NOW_MS,
    POLICY,
    cluster_state,
    member,
)
from support.configs import understood


@dataclass
class KnownHost:
    """What is replicated, and nothing else."""

    state: ClusterState
    reports: dict[str, object] = field(default_factory=dict)


def unable(limits: Limits, lease_ms: int) -> str:
    """Return why a node with these bounds is to be no primary under such a lease."""
    state = replace(cluster_state(), policy=replace(POLICY, lease_ms=lease_ms))
    status = SimpleNamespace(status=lambda: SimpleNamespace(member_id=1))
    sight = Sight(
        host=cast("Host", KnownHost(state)),
        engine=cast("RaftEngine", status),
        guard=None,
        observer=None,
        executor=cast("Executor", None),
        own=member(1),
        incarnation=INCARNATION,
        limits=limits,
        words=LeaseWords,
    )
    return sight.look(NOW_MS, "").lease.unable


@pytest.mark.parametrize("profile", Profile)
def test_a_node_is_able_under_the_lease_of_its_profile_or_a_longer_one(
    profile: Profile,
) -> None:
    limits = limits_of(understood(failover={"profile": profile.value}))

    assert unable(limits, limits.lease_ms) == ""
    assert unable(limits, 60_000) == ""


def test_a_node_whose_file_has_a_slower_profile_than_the_cluster_is_unable() -> None:
    limits = limits_of(understood(failover={"profile": "wide"}))

    assert unable(limits, 5_000) == (
        "its timings need a lease of 30000 ms, the cluster's is 5000 ms"
    )
