"""Every state of a node has an exit, and every row of the table is asked."""

import os

import pytest

from pgbastion.control import enumerating, node
from pgbastion.control.document import mermaid, render_reasons, table
from pgbastion.control.enumerating import Enumeration, enumerate_states, has_exit
from pgbastion.control.resting import ENDS
from pgbastion.control.transitions import TRANSITIONS, Duty, Found
from pgbastion.model.actions import AskAges, Decision
from pgbastion.model.reasons import SENTENCES, Reason

pytestmark = pytest.mark.slow

# All of them take seconds: `pgbastion fsm check`, and a full run.
EVERY = 1 if os.environ.get("PGBASTION_TEST_FULL") else 7


@pytest.fixture(scope="module")
def found() -> Enumeration:
    return enumerate_states(every=EVERY)


def test_every_state_has_an_exit_and_every_row_is_reached(found: Enumeration) -> None:
    assert found.stuck == []
    assert set(found.reasons) == {(d, f) for d in Duty for f in Found}
    assert found.states * EVERY > 100_000


def test_every_end_of_a_rest_is_one_of_a_reason_that_rests(
    found: Enumeration,
) -> None:
    seen = {reason for counts in found.reasons.values() for reason in counts}
    # Orders are not among the states that are asked.
    of_orders = {
        Reason.HANDOVER_WAITS,
        Reason.PREPARING_HANDOVER,
        Reason.HOLDING_CLIENTS,
        Reason.NOT_A_MEMBER,
        # Only with nobody in the row, or in parts that are not asked here.
        Reason.WAITING_FOR_SYNC_STANDBY,
        Reason.WITNESS,
    }

    assert set(ENDS) - of_orders <= seen


def test_a_row_without_its_last_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    row = TRANSITIONS[Duty.HOLD, Found.PRIMARY]
    broken = {**TRANSITIONS}
    broken[Duty.HOLD, Found.PRIMARY] = type(row)(row.steps[:-1], row.comment)
    monkeypatch.setattr(node, "TRANSITIONS", broken)

    assert enumerate_states(until_stuck=True, every=7).stuck


def test_a_rest_without_an_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {r: end for r, end in ENDS.items() if r is not Reason.FOLLOWING}
    monkeypatch.setattr(enumerating, "ENDS", fewer)

    stuck = enumerate_states(until_stuck=True, every=7).stuck

    assert ["following" in line for line in stuck] == [True]


def test_what_acts_or_looks_again_has_an_exit() -> None:
    assert has_exit(Decision(Reason.SURVEYING, (AskAges(),)))
    assert has_exit(Decision(Reason.SURVEYING, wake_at_ms=1))
    assert not has_exit(Decision(Reason.SURVEYING))


def test_the_documents_name_everything() -> None:
    shown = table()

    assert shown.count("\n") == 2 + len(TRANSITIONS)
    assert all(f"`{reason}`" in render_reasons() for reason in SENTENCES)
    assert all(f"subgraph {duty}" in mermaid() for duty in Duty)
