"""How long a crashed primary is preferred to a standby that has everything."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node
from pgbastion.control.node_primary import CHILD_DEATHS_APART_MS, CHILD_DIED_RESTART_MS
from pgbastion.model.actions import StartPrimary, StopPostgres
from pgbastion.model.reasons import Reason
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import NodeView, PostgresView
from pgbastion.testing.views import LIMITS, NOW_MS, STOPPED, holder_view

PATIENT = replace(LIMITS, restart_ms=5_000)
JUST_NOW = NOW_MS - 100
LONG_AGO = NOW_MS - 6_000


def crashed(ended_ms: int, **changes: object) -> NodeView:
    stopped = replace(STOPPED, ended_ms=ended_ms)
    return replace(
        holder_view(postgres=stopped, limits=PATIENT),
        **changes,  # type: ignore[arg-type]
    )


def restarting(ended_ms: int, **changes: object) -> NodeView:
    server = PostgresView(
        running=True, started_as_primary=True, started_ms=JUST_NOW, ended_ms=ended_ms
    )
    return crashed(ended_ms, postgres=server, **changes)


def session_killed(view: NodeView, **changes: object) -> NodeView:
    """Return the view where the server ended since one of its processes had died."""
    server = replace(view.postgres, child_died=True, **changes)  # type: ignore[arg-type]
    return replace(view, postgres=server, limits=LIMITS)


def test_a_restart_in_place_goes_first_while_its_time_lasts() -> None:
    decision = decide_node(crashed(JUST_NOW))

    assert decision.reason is Reason.RESTARTING_IN_PLACE
    assert isinstance(decision.actions[-1], StartPrimary)


@pytest.mark.parametrize(
    "view",
    [crashed(LONG_AGO), crashed(JUST_NOW, limits=LIMITS)],
    ids=["time-is-up", "none-is-given"],
)
def test_then_a_ready_standby_gets_the_role(view: NodeView) -> None:
    assert decide_node(view).reason is Reason.CRASHED_STANDBY_READY


def test_a_restart_that_takes_too_long_is_ended() -> None:
    decision = decide_node(restarting(LONG_AGO))

    assert decision.reason is Reason.CRASHED_STANDBY_READY
    assert isinstance(decision.actions[0], StopPostgres)


@pytest.mark.parametrize(
    "view",
    [
        restarting(JUST_NOW),
        restarting(LONG_AGO, limits=LIMITS),
        restarting(LONG_AGO, reports={}),
        restarting(0),
    ],
    ids=["in-time", "no-time-given", "no-standby", "nothing-ended"],
)
def test_any_other_restart_goes_on(view: NodeView) -> None:
    assert decide_node(view).reason is Reason.PROMOTION_RUNNING


# One of its processes had died


@pytest.mark.parametrize(
    "ended_before_ms", [0, JUST_NOW - CHILD_DEATHS_APART_MS], ids=["never", "long-ago"]
)
def test_a_killed_session_leaves_the_role_where_it_is(ended_before_ms: int) -> None:
    view = session_killed(crashed(JUST_NOW), ended_before_ms=ended_before_ms)

    decision = decide_node(view)

    assert decision.reason is Reason.RESTARTING_IN_PLACE
    assert isinstance(decision.actions[-1], StartPrimary)


@pytest.mark.parametrize(
    "view",
    [
        session_killed(crashed(NOW_MS - CHILD_DIED_RESTART_MS)),
        session_killed(
            crashed(JUST_NOW), ended_before_ms=JUST_NOW - CHILD_DEATHS_APART_MS + 1
        ),
        session_killed(crashed(JUST_NOW), start_failures=1),
        replace(session_killed(crashed(JUST_NOW)), trouble=Trouble.DISK_FULL),
        replace(session_killed(crashed(JUST_NOW)), trouble=Trouble.DISK_FAILED),
    ],
    ids=["too-long", "again-at-once", "does-not-start", "disk-full", "disk-failed"],
)
def test_a_ready_standby_gets_the_role_where_a_restart_would_not_help(
    view: NodeView,
) -> None:
    released = {Reason.CRASHED_STANDBY_READY, Reason.DISK_FULL}
    assert decide_node(view).reason in released


def test_a_server_that_went_silent_as_it_died_is_restarted_all_the_same() -> None:
    view = replace(session_killed(crashed(JUST_NOW)), trouble=Trouble.SERVER_SILENT)

    assert decide_node(view).reason is Reason.RESTARTING_IN_PLACE


def test_an_end_later_than_now_gives_a_restart_no_time() -> None:
    view = crashed(NOW_MS + 1, limits=LIMITS)

    assert decide_node(view).reason is Reason.CRASHED_STANDBY_READY


def test_its_restart_is_ended_once_the_disk_turns_out_to_be_why() -> None:
    view = replace(session_killed(restarting(JUST_NOW)), trouble=Trouble.DISK_FULL)

    decision = decide_node(view)

    assert decision.reason is Reason.CRASHED_STANDBY_READY
    assert isinstance(decision.actions[0], StopPostgres)


def test_its_restart_is_ended_if_it_takes_too_long() -> None:
    in_time = session_killed(restarting(NOW_MS - CHILD_DIED_RESTART_MS + 1))
    late = session_killed(restarting(NOW_MS - CHILD_DIED_RESTART_MS))

    assert decide_node(in_time).reason is Reason.PROMOTION_RUNNING
    assert decide_node(late).reason is Reason.CRASHED_STANDBY_READY
