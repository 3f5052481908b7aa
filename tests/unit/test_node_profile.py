"""An operator changes the profile: what becomes of it, and what explain says."""

from typing import Any

import pytest

from pgbastion.api.ports import Done, Refused
from pgbastion.control.explain import explain
from pgbastion.model.cluster import ClusterState, Policy, Shortening
from pgbastion.model.profile import Profile
from pgbastion.model.report import NodeReport
from pgbastion.node.parts import policy_of
from pgbastion.node.profile import change_profile
from pgbastion.node.proposing import Log, Rehearsal
from pgbastion.testing.views import cluster_state, primary_report, received, report
from support.snapshots import primary_snapshot

pytestmark = pytest.mark.anyio

FAST, NORMAL, WIDE = Profile
SHORTENING = Shortening(lease_ms=5_000, drift_ppm=1_000)


class Heard:
    """A log that is only looked at, and what the nodes say."""

    def __init__(self, state: ClusterState, *reports: NodeReport) -> None:
        self.state = state
        self.reports = received(*reports)

    def raft(self) -> Any:
        return type("Raft", (), {"leader": 1})


async def change(to: Profile, state: ClusterState, *reports: NodeReport) -> Any:
    there: Any = Heard(state, *reports)
    log: Log = Rehearsal(there)
    return log, await change_profile(log, to, at="")


async def test_the_log_has_the_profile_and_its_lease() -> None:
    before = cluster_state(policy=policy_of(NORMAL, revision=4))

    log, told = await change(FAST, before, primary_report(), report(2))

    assert told == Done(facts={"profile": FAST, "lease_ms": 2_000, "changed": True})
    assert log.state.policy == policy_of(FAST, revision=5)
    assert log.state.shortening == SHORTENING


async def test_the_profile_that_it_has_is_no_change() -> None:
    before = cluster_state(policy=policy_of(NORMAL, revision=4))

    log, told = await change(NORMAL, before, primary_report())

    assert told.facts["changed"] is False
    assert log.state.revision == before.revision


async def test_a_cluster_of_an_earlier_release_takes_a_profile() -> None:
    """There each node goes by its own file's."""
    before = cluster_state(
        policy=Policy(lease_ms=5_000, drift_ppm=1_000, margin_ms=500)
    )

    log, told = await change(NORMAL, before, primary_report())

    assert told.facts["changed"] is True
    assert log.state.policy == policy_of(NORMAL, revision=1)
    assert log.state.shortening is None


async def test_a_node_that_would_not_know_the_command_forbids_it() -> None:
    before = cluster_state(policy=policy_of(NORMAL))

    _, told = await change(FAST, before, report(2, policy_revision=None))

    assert isinstance(told, Refused)
    assert told.code == "older_release"
    assert told.message.startswith("n2: ")


async def test_without_a_cluster_there_is_none_to_change() -> None:
    _, told = await change(FAST, ClusterState())

    assert isinstance(told, Refused)
    assert told.code == "no_cluster_yet"


def warnings(*reports: NodeReport, **changes: Any) -> str:
    usual = (primary_report(), report(2), report(3))
    told = {r.node: r for r in (*usual, *reports)}
    state = cluster_state(policy=policy_of(FAST), **changes)
    known = primary_snapshot(state=state, reports=received(*told.values()))
    return "\n".join(explain(known).warnings)


def test_explain_is_silent_while_all_go_by_the_profile() -> None:
    assert "profile" not in warnings()


def test_explain_names_who_is_waited_for() -> None:
    lagging = report(2, policy_revision=-1)

    assert "the profile becomes fast: leases stay at 5 s, it waits for n2" in warnings(
        lagging, shortening=SHORTENING
    )


def test_explain_says_how_long_a_failover_waits_until_then() -> None:
    adopted = Shortening(lease_ms=5_000, drift_ppm=1_000, adopted=True)

    assert "a failover still waits for leases of 5 s" in warnings(shortening=adopted)


def test_explain_names_who_cannot_and_whose_file_differs() -> None:
    told = warnings(
        report(2, unpaced="its watchdog counts seconds"),
        report(3, file_profile=WIDE),
    )

    assert "n2 cannot go by fast: its watchdog counts seconds" in told
    assert "the file of n3 says failover.profile wide, the cluster goes by fast" in told
