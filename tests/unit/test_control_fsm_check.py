"""Every state of a node has an exit, and every row of the table is asked."""

import os
from random import Random

import pytest

from pgbastion.control import fsm_check, node
from pgbastion.control.document import mermaid, render_reasons, table
from pgbastion.control.fsm_check import (
    STATES,
    UNUSUAL,
    Asked,
    Enumeration,
    ask,
    sum_up,
)
from pgbastion.control.fsm_questions import QUESTIONS, Unanswered, imagine
from pgbastion.control.fsm_waits import ENDS
from pgbastion.control.node import decide_node
from pgbastion.control.node_steps import STEPS
from pgbastion.control.restart_and_copy import own_work
from pgbastion.control.transitions import TRANSITIONS, Duty, Found, Step
from pgbastion.model.actions import Decision
from pgbastion.model.reasons import SENTENCES, Reason
from pgbastion.model.views import NodeView

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# All of them take half a minute: `pgbastion fsm check`, and a full run.
FULL = bool(os.environ.get("PGBASTION_TEST_FULL"))
SAMPLES = 500


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return list(ask(UNUSUAL))


@pytest.fixture(scope="module")
def usual(asked: list[Asked]) -> Enumeration:
    return sum_up(asked)


def test_every_state_has_an_exit_and_every_row_is_reached(usual: Enumeration) -> None:
    assert usual.stuck == []
    assert set(usual.reasons) == {(d, f) for d in Duty for f in Found}


@pytest.mark.skipif(not FULL, reason="of the whole matrix")
def test_no_state_is_left_out() -> None:
    found = sum_up(ask())

    assert found.stuck == []
    assert found.states == STATES


def test_what_a_decision_did_not_look_at_does_not_matter_to_it(
    asked: list[Asked],
) -> None:
    random = Random(1)
    for each in random.sample(asked, SAMPLES):
        rest = {q: random.choice(list(answers)) for q, answers in QUESTIONS.items()}

        assert decide_node(imagine({**rest, **each.chosen})) == each.decision


def test_what_nothing_is_chosen_for_cannot_be_looked_at() -> None:
    view = imagine({"pause": "on"})

    assert view.state.paused
    with pytest.raises(Unanswered, match="order"):
        assert view.state.order


def test_every_end_of_a_rest_is_one_of_a_reason_that_rests(usual: Enumeration) -> None:
    # Who is no member, or has no PostgreSQL, has no row of the table.
    assert set(ENDS) - {Reason.NOT_A_MEMBER, Reason.WITNESS} == usual.rests


def test_a_row_without_its_last_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TRANSITIONS[Duty.HOLD, Found.PRIMARY]
    broken = {**TRANSITIONS}
    broken[Duty.HOLD, Found.PRIMARY] = type(row)(row.steps[:-1], row.comment)
    monkeypatch.setattr(node, "TRANSITIONS", broken)

    assert any(sum_up([each]).stuck for each in ask(UNUSUAL))


def test_an_order_that_is_waited_for_without_an_end_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rests(view: NodeView) -> Decision | None:
        return None if own_work(view) is None else Decision(Reason.LEAVING_SYNC_SET)

    steps = {**STEPS, Step.WORK_ON_STANDBY: rests}
    monkeypatch.setattr(node, "STEPS", steps)

    (stuck,) = next(s for each in ask(UNUSUAL) if (s := sum_up([each]).stuck))

    assert "order: open" in stuck
    assert "leaving_sync_set rests without an end" in stuck


def test_a_rest_without_an_end_is_found(
    monkeypatch: pytest.MonkeyPatch, asked: list[Asked]
) -> None:
    fewer = {r: end for r, end in ENDS.items() if r is not Reason.FOLLOWING}
    monkeypatch.setattr(fsm_check, "ENDS", fewer)

    stuck = sum_up(asked).stuck

    assert stuck
    assert all("following rests without an end" in line for line in stuck)


def test_the_documents_name_everything() -> None:
    shown = table()

    assert shown.count("\n") == 2 + len(TRANSITIONS)
    assert all(f"`{reason}`" in render_reasons() for reason in SENTENCES)
    assert all(f"subgraph {duty}" in mermaid() for duty in Duty)
