"""Every state that a node can be in, asked for its decision: each has an exit.

A state is one answer to each of the questions of :mod:`.fsm_questions`: the assignment
in the log, an operator's order, what is in the data directory, what the server does,
lease, guard, evidence, pause, what the others report. There are far too many to ask
them all, and no need to: a decision is asked with nothing chosen, and where it looks at
something it is asked again with each of the answers. What it never looked at does not
matter to it: one decision stands for all the states that differ in nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Final

from pgbastion.control.fsm_questions import QUESTIONS, Choice, Unanswered, imagine
from pgbastion.control.fsm_waits import ENDS
from pgbastion.control.node import decide_node, duty, find
from pgbastion.control.transitions import Duty, Found
from pgbastion.errors import InvariantError
from pgbastion.model.actions import Decision
from pgbastion.model.reasons import Reason

STATES: Final = prod(len(answers) for answers in QUESTIONS.values())
"""How many states there are."""
UNUSUAL: Final = 1
"""So many unusual answers at a time are asked where asking them all takes too long."""
_MAIN: Final = frozenset(
    {
        "assignment",
        "server",
        "data",
        "rejoin",
        "order",
        "its kind",
        "its target",
        "begun",
    }
)
_USUAL: Final = {question: next(iter(a)) for question, a in QUESTIONS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A decision, and what it looked at."""

    chosen: Choice
    duty: Duty
    found: Found
    decision: Decision | InvariantError

    @property
    def states(self) -> int:
        """For how many states it stands."""
        return STATES // prod(len(QUESTIONS[question]) for question in self.chosen)


def ask(unusual: int | None = None) -> Iterator[Asked]:
    """Ask all states for their decisions.

    Args:
        unusual: Only states with at most so many answers, besides those to the main
            questions, that are not the first, which is the usual one.
    """
    waiting: list[tuple[Choice, int]] = [({}, 0)]
    while waiting:
        chosen, so_far = waiting.pop()
        view = imagine(chosen)
        try:
            due, found = duty(view), find(view)
        except Unanswered as unanswered:
            waiting += _answered(chosen, so_far, unanswered.question, unusual)
            continue
        try:
            decision: Decision | InvariantError = decide_node(view)
        except Unanswered as unanswered:
            waiting += _answered(chosen, so_far, unanswered.question, unusual)
            continue
        except InvariantError as error:
            decision = error
        yield Asked(chosen=chosen, duty=due, found=found, decision=decision)


def _answered(
    chosen: Choice, so_far: int, question: str, unusual: int | None
) -> Iterator[tuple[Choice, int]]:
    """Yield the choice with each answer that is to be asked, and how unusual it is."""
    for answer in QUESTIONS[question]:
        odd = so_far + (question not in _MAIN and answer != _USUAL[question])
        if unusual is None or odd <= unusual:
            yield {**chosen, question: answer}, odd


@dataclass(slots=True)
class Enumeration:
    """What came of asking."""

    states: int = 0
    decisions: int = 0
    reasons: dict[tuple[Duty, Found], Counter[Reason]] = field(default_factory=dict)
    rests: set[Reason] = field(default_factory=set)
    """Reasons for which a node only waited for somebody else's word."""
    stuck: list[str] = field(default_factory=list)
    """States without an exit, in words."""


def sum_up(asked: Iterable[Asked]) -> Enumeration:
    """Count the decisions, and name those without an exit."""
    summed = Enumeration()
    for each in asked:
        summed.decisions += 1
        summed.states += each.states
        decision = each.decision
        if isinstance(decision, InvariantError):
            summed.stuck.append(f"{_name(each.chosen)}: {decision}")
            continue
        row = summed.reasons.setdefault((each.duty, each.found), Counter())
        row[decision.reason] += 1
        if decision.actions or decision.wake_at_ms is not None:
            continue
        summed.rests.add(decision.reason)
        if decision.reason not in ENDS:
            end = f"{decision.reason} rests without an end"
            summed.stuck.append(f"{_name(each.chosen)}: {end}")
    return summed


def _name(chosen: Choice) -> str:
    return ", ".join(f"{question}: {answer}" for question, answer in chosen.items())
