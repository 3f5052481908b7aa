"""What is said of standbys that follow a primary and do not stream from it."""

from typing import Any

from pgbastion.control.explain import explain
from pgbastion.model.explanation import Situation
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport
from pgbastion.testing.views import (
    any_of,
    cluster_state,
    member,
    opened,
    primary_report,
    received,
    report,
    row,
)
from support.snapshots import primary_snapshot

WHY = 'could not connect to the primary server: no password for "replicator"'


def failing(n: int, **changes: Any) -> NodeReport:
    return report(
        n, reason=Reason.FOLLOWING, streaming=False, stream_failure=WHY, **changes
    )


def told(*reports: NodeReport, **state: Any) -> Any:
    members = tuple(member(n, joined=True) for n in (1, 2, 3))
    return explain(
        primary_snapshot(
            state=cluster_state(members=members, **state), reports=received(*reports)
        )
    )


def test_a_standby_that_cannot_stream_says_why() -> None:
    """To wait for it would be to wait for ever."""
    found = told(primary_report(replication=(row(2),)), report(2), failing(3))

    assert found.situation is Situation.NOT_STREAMING
    assert WHY in found.state
    assert found.next_step == "see to what n3 says: it tries again by itself"


def test_where_nobody_can_stream_the_next_step_is_no_wait() -> None:
    alone = opened(1, 3, any_of(0))
    found = told(primary_report(), failing(2), failing(3), opened=alone)

    assert found.situation is Situation.DEGRADED
    assert found.next_step.startswith(f"see to n2 (it does not stream: {WHY})")


def test_a_standby_on_its_way_does_not_tell_of_earlier_attempts() -> None:
    coming = failing(3)
    found = told(
        primary_report(replication=(row(2),)),
        report(2),
        report(3, reason=Reason.REPOINTING, streaming=False, stream_failure=WHY),
    )

    assert coming.stream_failure == WHY
    assert WHY not in found.state
