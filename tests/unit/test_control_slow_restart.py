"""How long a crashed primary is preferred to a standby that has everything."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node
from pgbastion.model.actions import StartPrimary, StopPostgres
from pgbastion.model.reasons import Reason
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
