"""Metrics: values, and the conventions that ``promtool check metrics`` asks for."""

import re
from dataclasses import replace

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pgbastion.model.claims import Claim, ClaimKind
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.snapshot import FenceCounts, NodeSnapshot, RaftSnapshot
from pgbastion.observe.document import render_metrics
from pgbastion.observe.metrics import FailoverCounts, Metrics
from pgbastion.testing.views import cluster_state, member, received, report
from support.snapshots import change, primary_snapshot, standby_snapshot

# What promtool reports: other units than base units, and types within names.
NOT_BASE_UNITS = re.compile(
    r"_(milliseconds|ms|minutes|hours|days|kilobytes|kib|mb|megabytes|percent)(_|$)"
)
TYPES_IN_NAMES = re.compile(r"_(gauge|counter|histogram|summary)(_|$)")
COUNTER_ENDS = ("_total", "_sum", "_count", "_bucket")


def text(snapshot: NodeSnapshot) -> str:
    """Return what a scrape gets."""
    return Metrics().render(snapshot).decode()


def families(snapshot: NodeSnapshot) -> dict[str, Metric]:
    """Return the metric families of a scrape by name."""
    return {f.name: f for f in text_string_to_metric_families(text(snapshot))}


def value(snapshot: NodeSnapshot, sample: str, **labels: str) -> float | None:
    """Return one sample's value; None: there is no such sample."""
    for family in families(snapshot).values():
        for found in family.samples:
            if found.name == sample and found.labels == labels:
                return float(found.value)
    return None


def test_every_metric_has_our_prefix_and_a_help_text() -> None:
    for family in families(primary_snapshot()).values():
        assert family.name.startswith("pgbastion_")
        assert family.documentation.endswith(".")


def test_counters_and_only_counters_end_in_total() -> None:
    for family in families(primary_snapshot()).values():
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter")
            cumulates = family.type in ("counter", "histogram")
            assert cumulates or not sample.name.endswith(COUNTER_ENDS)


def test_units_are_base_units_and_names_hold_no_types() -> None:
    for name in families(primary_snapshot()):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
        assert not NOT_BASE_UNITS.search(name), name
        assert not TYPES_IN_NAMES.search(name), name


def test_no_name_is_given_twice() -> None:
    names = re.findall(r"^# TYPE (\S+)", text(primary_snapshot()), re.MULTILINE)

    assert len(names) == len(set(names))


def test_the_reference_has_every_metric_of_a_node_in_a_cluster() -> None:
    """A node that knows nothing yet has them all, some of them without a sample."""
    documented = render_metrics()

    for snapshot in (primary_snapshot(), standby_snapshot()):
        for name in families(snapshot):
            assert f"| `{name}" in documented


def test_exactly_one_role_is_one() -> None:
    family = families(standby_snapshot())["pgbastion_node_role"]

    assert {s.labels["role"]: s.value for s in family.samples} == {
        "primary": 0,
        "standby": 1,
        "witness": 0,
        "fenced": 0,
        "starting": 0,
    }


@pytest.mark.parametrize(
    ("sample", "labels", "expected"),
    [
        ("pgbastion_build_info", {"version": "1.2.3", "commit": "abc"}, 1),
        ("pgbastion_lease_left_seconds", {}, 4.2),
        ("pgbastion_lease_granted_seconds", {}, 5.0),
        ("pgbastion_lease_longest_seconds", {}, 5.0),
        ("pgbastion_view_left_seconds", {}, 4.0),
        ("pgbastion_loop_lag_seconds", {}, 0.0125),
        ("pgbastion_epoch", {}, 3),
        ("pgbastion_members", {}, 3),
        ("pgbastion_sync_standbys", {}, 2),
        ("pgbastion_sync_standbys_required", {}, 1),
        ("pgbastion_raft_term", {}, 5),
        ("pgbastion_raft_quorum", {}, 2),
        ("pgbastion_raft_is_leader", {}, 1),
        ("pgbastion_raft_committed_index", {}, 42),
        ("pgbastion_member_timeline", {"node": "n2"}, 4),
        ("pgbastion_member_lag_bytes", {"node": "n2"}, 100),
        ("pgbastion_member_wal_end_bytes", {"node": "n2"}, 950),
        ("pgbastion_member_wal_replayed_bytes", {"node": "n2"}, 900),
        ("pgbastion_member_report_age_seconds", {"node": "n1"}, 0.1),
        ("pgbastion_proxy_refused_total", {"reason": "no_primary"}, 2),
        ("pgbastion_proxy_sessions", {"port": "primary", "node": "n1"}, 2),
        (
            "pgbastion_proxy_moved_bytes_total",
            {"port": "primary", "node": "n1", "direction": "to_client"},
            2_000,
        ),
        ("pgbastion_failovers_total", {"cause": "lease_ran_out"}, 0),
        ("pgbastion_fence_calls_total", {"outcome": "confirmed"}, 1),
        ("pgbastion_fence_calls_total", {"outcome": "failed"}, 3),
    ],
)
def test_a_value_is_that_of_the_snapshot_in_base_units(
    sample: str, labels: dict[str, str], expected: float
) -> None:
    fences = FenceCounts(confirmed=1, failed=3)
    snapshot = primary_snapshot(loop_lag_ms=12.5, fences=fences)

    assert value(snapshot, sample, **labels) == pytest.approx(expected)


def test_what_is_unknown_has_no_sample() -> None:
    snapshot = primary_snapshot(reports=received(report(2, wal_end=None)))

    assert value(snapshot, "pgbastion_member_lag_bytes", node="n2") is None
    assert value(snapshot, "pgbastion_member_timeline", node="n2") is None
    assert value(snapshot, "pgbastion_member_report_age_seconds", node="n3") is None


def test_a_witness_has_no_write_ahead_log() -> None:
    snapshot = primary_snapshot(
        state=cluster_state(members=(member(1), member(2, witness=True))),
        reports=received(report(2)),
    )

    assert value(snapshot, "pgbastion_member_wal_end_bytes", node="n2") is None
    assert value(snapshot, "pgbastion_member_report_age_seconds", node="n2") == 0.1


def test_a_cluster_before_its_first_command_can_be_scraped() -> None:
    raft = RaftSnapshot(
        role="follower",
        term=0,
        leader=MemberId(0),
        voters=(),
        learners=(),
        committed=0,
        applied=0,
        last_index=0,
    )
    state = cluster_state(assignment=None, opened=None, members=(), history=())
    snapshot = primary_snapshot(state=state, reports={}, raft=raft)

    assert value(snapshot, "pgbastion_raft_has_leader") == 0
    assert value(snapshot, "pgbastion_sync_standbys") == 0


def test_a_failover_counts_once_also_after_the_history_has_dropped_it() -> None:
    """A counter that went down would look like a restart of the daemon."""
    counts = FailoverCounts()
    state = cluster_state()

    for history in ([1], [1, 2], [2, 3], [3]):
        changes = tuple(change(epoch, f"n{epoch}") for epoch in history)
        counts.take(replace(state, history=changes), fresh=True)

    assert counts.by_cause["lease_ran_out"] == 2


def test_what_the_log_held_before_the_start_is_no_failover() -> None:
    """An alert on the increase would fire at every restart of a daemon."""
    counts = FailoverCounts()
    state = cluster_state()

    for history in ([1], [1, 2], [1, 2, 3]):
        changes = tuple(change(epoch, f"n{epoch}") for epoch in history)
        counts.take(replace(state, history=changes), fresh=False)

    assert not any(counts.by_cause.values())


def test_every_cause_of_a_failover_is_counted_from_nothing() -> None:
    """Prometheus sees an increase only of a series that was there before."""
    assert FailoverCounts().by_cause == {
        "lease_ran_out": 0,
        "holder_released": 0,
        "vouched_for": 0,
    }


def test_the_first_primary_of_a_cluster_is_no_failover() -> None:
    counts = FailoverCounts()

    counts.take(cluster_state(history=()), fresh=True)
    counts.take(cluster_state(history=(change(1, "n1", "first_primary"),)), fresh=True)

    assert not any(counts.by_cause.values())


def test_a_node_that_claims_the_role_wrongly_counts_once() -> None:
    claims = tuple(Claim(node=NodeId("n2"), kind=kind) for kind in ClaimKind)
    snapshot = replace(primary_snapshot(), claims=claims)

    assert value(primary_snapshot(), "pgbastion_split_brain") == 0
    assert value(snapshot, "pgbastion_split_brain") == 1
