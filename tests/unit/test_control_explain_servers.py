"""What is said of a primary that does not run, and of standbys that do not stream."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.explain import explain
from pgbastion.model.explanation import Explanation, Situation
from pgbastion.model.ids import Epoch
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.snapshot import LeaseSnapshot, NodeRole, NodeSnapshot
from pgbastion.model.trouble import Trouble
from pgbastion.observe.metrics import Metrics
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


def known(*reports: NodeReport, **state: Any) -> NodeSnapshot:
    members = tuple(member(n, joined=True) for n in (1, 2, 3))
    return primary_snapshot(
        state=cluster_state(members=members, **state), reports=received(*reports)
    )


def told(*reports: NodeReport, **state: Any) -> Explanation:
    return explain(known(*reports, **state))


def test_a_standby_that_cannot_stream_says_why() -> None:
    """To wait for it would be to wait for ever."""
    found = told(primary_report(replication=(row(2),)), report(2), failing(3))

    assert found.situation is Situation.NOT_STREAMING
    assert WHY in found.state
    assert found.next_step == f"see to n3 (it does not stream: {WHY})"


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


@pytest.mark.parametrize(
    ("dead", "words"),
    [
        (report(1, state=PostgresState.STOPPED), "n1 is stopped"),
        (primary_report(trouble=Trouble.SERVER_SILENT), "n1 hangs (neither sessions"),
    ],
)
@pytest.mark.parametrize(
    ("paused", "next_step"), [(True, "pgbastion resume"), (False, "wait: a standby")]
)
def test_a_primary_whose_server_does_not_run_is_none(
    dead: NodeReport, words: str, paused: bool, next_step: str
) -> None:
    """Under a pause it stays so: to wait for standbys would be to wait for ever."""
    found = told(dead, report(2), report(3), paused=paused)

    assert found.situation is Situation.PRIMARY_STOPPED
    assert f"no primary: PostgreSQL of {words}" in found.state
    assert found.next_step.startswith(next_step)
    assert not found.serving


def test_who_is_paged_at_night_hears_of_a_primary_that_died_under_a_pause() -> None:
    def has_primary(*reports: NodeReport) -> bool:
        told = Metrics().render(known(*reports, paused=True)).decode()
        return "pgbastion_cluster_has_primary 1.0" in told

    assert has_primary(primary_report(), report(2), report(3))
    assert not has_primary(report(1, state=PostgresState.STOPPED), report(2))


def test_a_paused_primary_that_died_does_not_call_itself_fenced() -> None:
    """It says of itself what the others say of it: it follows nobody by itself."""
    dead = report(1, state=PostgresState.STOPPED, reason=Reason.PAUSED)
    own = replace(
        known(dead, report(2), report(3), paused=True),
        lease=LeaseSnapshot(epoch=Epoch(3)),
    )

    assert own.role is NodeRole.FENCED
    assert explain(own).situation is Situation.PRIMARY_STOPPED


@pytest.mark.parametrize(
    ("settings", "state", "next_step"),
    [
        ((), "its replay is paused", "SELECT pg_wal_replay_resume() on n3"),
        (
            ("max_connections",),
            "its replay is paused until a restart (max_connections)",
            "pgbastion restart n3",
        ),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
def test_a_standby_whose_replay_waits_is_told_of_with_what_ends_it(
    settings: tuple[str, ...], state: str, next_step: str, streaming: bool
) -> None:
    """With less connections than the primary it waits for ever, and is no candidate."""
    waits = report(3, streaming=streaming, replay_paused=True, pending_restart=settings)
    found = told(primary_report(replication=(row(2), row(3))), report(2), waits)

    assert state in found.state
    assert found.next_step == next_step
    assert f"n3: {state}" in found.warnings


def test_a_server_that_lets_its_daemon_in_no_more_is_told_of() -> None:
    """Its password was changed: to wait for it would be to wait for ever."""
    refused = report(
        3,
        state=PostgresState.STARTING,
        reason=Reason.WAITING_FOR_START,
        streaming=False,
        detail="password authentication failed",
    )
    found = told(primary_report(replication=(row(2),)), report(2), refused)

    assert "password authentication failed" in found.state
