"""Where the virtual addresses belong, and when the role follows them."""

from dataclasses import replace
from typing import Any

import pytest

from pgbastion.control.addresses import (
    CONFLICT_MS,
    MIN_HOLDING_MS,
    UNABLE_MS,
    decide_hand_on,
    decide_holding,
    drop_before_release,
)
from pgbastion.control.node import decide_node
from pgbastion.model.actions import Decision, DropAddresses, Propose, StopPostgres
from pgbastion.model.addresses import AddressReport, AddressView
from pgbastion.model.commands import Release
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.views import NodeView
from pgbastion.testing.views import (
    INCARNATION,
    LIMITS,
    NOW_MS,
    assignment,
    cluster_state,
    holder_view,
    lease_view,
    primary_report,
    received,
    standby_view,
)

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
BROKEN = AddressReport(problem="the interface eth0 has no carrier")
TAKEN = AddressReport(problem="02:00 answers for 10.0.0.5", conflict=True)
FREE = AddressReport()


def holding_epoch(view: NodeView) -> int:
    return decide_holding(view).epoch


# Who has them


def test_the_holder_has_them_up_to_the_margin_before_its_lease_ends() -> None:
    view = holder_view()

    holding = decide_holding(view)

    assert holding.epoch == 3
    until_ms = view.lease.expiry_ms - LIMITS.margin_ms
    assert holding.until_ns == until_ms * 1_000_000


def test_a_standby_has_none() -> None:
    assert holding_epoch(standby_view()) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"armed_epoch": Epoch(0)},
        {"armed_epoch": Epoch(2)},
        {"epoch": Epoch(2)},
        {"expiry_ms": NOW_MS + LIMITS.stop_ms + LIMITS.margin_ms},
        {"released_epoch": Epoch(3)},
        {"ended_epoch": Epoch(3)},
    ],
)
def test_without_a_lease_that_the_guard_watches_nobody_has_them(
    changes: dict[str, Any],
) -> None:
    view = holder_view(lease=replace(lease_view(), **changes))

    assert holding_epoch(view) == 0


@pytest.mark.parametrize("ending", ["revoked", "released"])
def test_an_epoch_that_has_ended_takes_them_away(ending: str) -> None:
    state = cluster_state(assignment=assignment(**{ending: True}))

    assert holding_epoch(holder_view(state=state)) == 0


def test_under_a_pause_they_stay_without_a_lease() -> None:
    lease = replace(lease_view(), expiry_ms=0, paused=True)
    view = holder_view(state=cluster_state(paused=True), lease=lease)

    holding = decide_holding(view)

    assert (holding.epoch, holding.until_ns) == (3, 0)


def test_under_a_pause_a_holder_that_is_not_armed_has_none() -> None:
    lease = replace(lease_view(), armed_epoch=Epoch(0), paused=True)
    view = holder_view(state=cluster_state(paused=True), lease=lease)

    assert holding_epoch(view) == 0


def test_a_standby_looks_for_strangers_when_the_holder_has_one() -> None:
    told = primary_report(addresses=TAKEN)

    assert decide_holding(standby_view(reports=received(told))).scouting
    assert not decide_holding(standby_view()).scouting


# Removed before the release


def release() -> Propose:
    command = Release(
        epoch=Epoch(3), incarnation=INCARNATION, lsn=None, cause="stopped", at=""
    )
    return Propose(command=command)


def test_addresses_go_before_the_epoch_is_released() -> None:
    view = holder_view(addresses_held=True)
    decision = Decision(Reason.RELEASING, (release(),))

    first, second = drop_before_release(view, decision).actions

    assert first == DropAddresses(epoch=Epoch(3))
    assert second == release()


def test_nothing_is_dropped_where_nothing_is_held_or_released() -> None:
    giving = Decision(Reason.RELEASING, (release(),))
    going_on = Decision(Reason.PRIMARY_RUNNING)

    assert drop_before_release(holder_view(), giving) == giving
    assert drop_before_release(holder_view(addresses_held=True), going_on) == going_on


def test_a_node_that_gives_its_epoch_back_drops_them_first() -> None:
    state = cluster_state(assignment=assignment(revoked=True))
    stopped = replace(holder_view().postgres, running=False, in_recovery=None)
    view = holder_view(state=state, postgres=stopped, addresses_held=True)

    actions = decide_node(view).actions

    assert isinstance(actions[0], DropAddresses)
    assert isinstance(actions[-1], Propose)
    assert isinstance(actions[-1].command, Release)
    assert not any(isinstance(a, StopPostgres) for a in actions)


# The role follows only where that helps


def address_view(**changes: object) -> AddressView:
    made = AddressView(
        now_ms=NOW_MS,
        node=N1,
        epoch=Epoch(3),
        held_since_ms=NOW_MS - MIN_HOLDING_MS,
        reports={N1: BROKEN, N2: FREE, N3: FREE},
        problem_since_ms=NOW_MS - UNABLE_MS,
        at="2026-01-01T12:00:00.000+00:00",
        fit=(N2, N3),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_node_that_cannot_have_them_hands_the_role_on() -> None:
    assert decide_hand_on(address_view()) == N2


@pytest.mark.parametrize(
    "changes",
    [
        {"reports": {N1: FREE, N2: FREE}},
        {"reports": {N2: FREE}},
        {"epoch": Epoch(0)},
        {"problem_since_ms": 0},
        {"problem_since_ms": NOW_MS - UNABLE_MS + 1},
        {"held_since_ms": NOW_MS - MIN_HOLDING_MS + 1},
        {"fit": ()},
        {"reports": {N1: BROKEN, N2: BROKEN, N3: TAKEN}},
        {"reports": {N1: BROKEN}},
        {"reports": {N1: TAKEN, N2: FREE}, "problem_since_ms": NOW_MS - UNABLE_MS},
        {"handed_on_at": ("2026-01-01T11:51:00.000+00:00",)},
        {"handed_on_at": ("yesterday",)},
        {"handed_on_at": ("2026-01-01T11:51:00",)},
    ],
    ids=[
        "it can",
        "says nothing of itself",
        "it has no role",
        "no problem yet",
        "a moment ago",
        "the role has just come",
        "nobody is fit",
        "nobody else can",
        "nobody else says so",
        "a stranger's answer has to be repeated",
        "handed on minutes ago",
        "handed on at an unknown time",
        "handed on at a time without a zone",
    ],
)
def test_addresses_that_fail_hand_the_role_on_only_where_that_helps(
    changes: dict[str, object],
) -> None:
    assert decide_hand_on(address_view(**changes)) is None


def test_the_first_that_can_have_them_is_taken() -> None:
    reports = {N1: BROKEN, N2: BROKEN, N3: FREE}

    assert decide_hand_on(address_view(reports=reports)) == N3


def test_an_address_that_another_host_keeps_hands_the_role_on() -> None:
    reports = {N1: TAKEN, N2: FREE}
    since_ms = NOW_MS - CONFLICT_MS

    assert decide_hand_on(address_view(reports=reports, problem_since_ms=since_ms))


def test_after_a_while_the_role_may_be_handed_on_again() -> None:
    at = ("2026-01-01T11:50:00.000+00:00",)

    assert decide_hand_on(address_view(handed_on_at=at)) == N2
