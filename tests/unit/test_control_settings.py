"""The cluster's settings of PostgreSQL: what the log takes, and who gets what when."""

import pytest

from pgbastion.control.apply import apply
from pgbastion.control.apply_settings import (
    LENGTH_MAX,
    PARAMETERS_MAX,
    VERSIONS_MAX,
)
from pgbastion.control.outcomes import Outcome
from pgbastion.control.settings import effective, held_back, overrides, why_restart
from pgbastion.model.cluster import ClusterState, decode_state, encode_state
from pgbastion.model.commands import SetParameters, encode_command
from pgbastion.model.settings import STANDBY_LIMITS, NodeSettings, Parameters
from pgbastion.postgres.parse import FLOORS
from pgbastion.testing.views import cluster_state


def agreed(*pairs: tuple[str, str], base: int = 0) -> SetParameters:
    return SetParameters(base=base, parameters=tuple(pairs), by="a test", at="now")


def after(state: ClusterState, command: SetParameters) -> tuple[ClusterState, Outcome]:
    applied = apply(state, state.index + 1, "", encode_command(command))
    return applied.state, applied.outcome


# The log


def test_each_change_is_another_version_and_the_newest_counts() -> None:
    state, _ = after(cluster_state(), agreed(("work_mem", "8MB")))
    state, outcome = after(state, agreed(("work_mem", "16MB"), base=1))

    assert outcome is Outcome.OK
    assert [v.version for v in state.settings_versions] == [1, 2]
    assert state.settings is not None
    assert state.settings.parameters == (("work_mem", "16MB"),)
    assert state.settings.by == "a test"


def test_a_change_of_another_version_than_the_newest_is_refused() -> None:
    """Two operators at once: the second one has not seen what the first one did."""
    state, _ = after(cluster_state(), agreed(("work_mem", "8MB")))

    unchanged, outcome = after(state, agreed(("jit", "off"), base=0))

    assert outcome is Outcome.STALE_REVISION
    assert unchanged.settings == state.settings


def test_the_same_settings_are_no_version() -> None:
    state, _ = after(cluster_state(), agreed(("work_mem", "8MB")))

    assert after(state, agreed(("work_mem", "8MB"), base=1))[1] is Outcome.NO_CHANGE


@pytest.mark.parametrize(
    "parameters",
    [
        (("b", "1"), ("a", "1")),
        (("a", "1"), ("a", "2")),
        (("", "1"),),
        (("a" * 200, "1"),),
        (("a", "1" * LENGTH_MAX),),
        tuple((f"a{n:03}", "1") for n in range(PARAMETERS_MAX + 1)),
    ],
    ids=["unsorted", "twice", "no name", "long name", "long value", "too many"],
)
def test_what_makes_no_sense_is_refused(parameters: Parameters) -> None:
    assert after(cluster_state(), agreed(*parameters))[1] is Outcome.SENSELESS


def test_the_number_of_versions_is_bounded() -> None:
    state = cluster_state()
    for base in range(VERSIONS_MAX + 5):
        state, _ = after(state, agreed(("a", str(base)), base=base))

    assert len(state.settings_versions) == VERSIONS_MAX
    assert state.settings is not None
    assert state.settings.version == VERSIONS_MAX + 5


def test_settings_do_not_refuse_a_decision_about_roles() -> None:
    state = cluster_state()

    assert after(state, agreed(("a", "1")))[0].revision == state.revision


# Who gets what


def test_a_nodes_own_file_counts_before_the_cluster_and_is_shown() -> None:
    cluster = (("jit", "off"), ("work_mem", "8MB"))
    local = {"work_mem": "64MB", "port": "1"}

    assert effective(cluster, local) == {"jit": "off", "work_mem": "64MB", "port": "1"}
    assert overrides(cluster, local) == (("work_mem", "64MB"),)


def running(connections: int) -> NodeSettings:
    return NodeSettings(version=1, limits=(("max_connections", connections),))


RAISED = {"max_connections": "200"}


def test_a_primary_takes_a_raised_limit_after_its_standbys() -> None:
    """Else they pause replay, and a failover waits for their restart."""
    assert held_back(RAISED, running(100), [running(200), running(100)]) == {
        "max_connections": 100
    }
    assert held_back(RAISED, running(100), [running(200), running(200)]) == {}


def test_a_primary_without_standbys_waits_for_nobody() -> None:
    assert held_back(RAISED, running(100), []) == {}


def test_a_primary_that_crashed_is_not_restarted_above_its_standbys() -> None:
    assert held_back(RAISED, None, [running(100)]) == {"max_connections": 100}


def test_a_primary_that_runs_with_it_keeps_it() -> None:
    """A standby that came later with less does not take the primary's limit down."""
    assert held_back(RAISED, running(200), [running(100)]) == {}


def test_a_lowered_limit_is_not_held_back_on_a_primary() -> None:
    assert held_back({"max_connections": "50"}, running(100), [running(100)]) == {}


@pytest.mark.parametrize(
    ("name", "have", "wanted", "word"),
    [
        ("max_connections", 100, "200", "standbys first"),
        ("max_connections", 100, "50", "primary first"),
        ("shared_buffers", None, "1GB", "started"),
        ("max_connections", None, "50", "started"),
    ],
)
def test_a_restart_says_in_which_order(
    name: str, have: int | None, wanted: str, word: str
) -> None:
    assert word in why_restart(name, have, wanted)


def test_the_limits_are_those_that_pg_control_knows() -> None:
    assert set(STANDBY_LIMITS) == set(FLOORS)


def test_settings_survive_a_snapshot() -> None:
    state, _ = after(cluster_state(), agreed(("work_mem", "8MB")))

    assert decode_state(encode_state(state)) == state
