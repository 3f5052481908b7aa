"""The state machine and the list of reasons, as documents for people."""

from collections.abc import Iterator
from typing import Final

from pgbastion.control.fsm_check import UNUSUAL, ask, sum_up
from pgbastion.control.fsm_questions import QUESTIONS
from pgbastion.control.fsm_waits import ENDS
from pgbastion.control.transitions import TRANSITIONS, Duty, Found
from pgbastion.model.reasons import SENTENCES

_HEAD: Final = """# The state machine of a node

Generated from the code; `pgbastion fsm table`, `fsm mermaid` and `fsm check` print it.
What the replicated state wants of a node is its *duty*; what is there is what it
*finds*. Each pass asks the steps of the pair in order: the first that has something to
do, or to wait for, is the decision. `fsm check` asks every combination of the answers
at the end for its decision: each acts, looks again at a stated time, or rests for a
reason whose end is below.
"""
_DECIDED: Final = """
## What each pair decides

Whatever was ordered and however far that has come, and with one unusual thing more at a
time: an answer below that is not the first. `fsm check` asks for any number of them.

| duty | finds | reasons |
|---|---|---|
"""
_ASKED: Final = """
## What is asked

A decision that does not look at something is not asked again for it: one stands for all
the states that differ in nothing else.

| question | answers |
|---|---|
"""


def render_transitions() -> str:
    """Return ``docs/reference/transitions.md``."""
    ends = "\n".join(f"| `{reason}` | {end} |" for reason, end in ENDS.items())
    return (
        f"{_HEAD}\n{table()}{_DECIDED}{_decided()}"
        "\n## What ends each rest\n\n| reason | what ends it |\n"
        f"|---|---|\n{ends}\n\n## Diagram\n\n```mermaid\n{mermaid()}```\n"
        f"{_ASKED}{_asked()}"
    )


def _decided() -> str:
    decided = sum_up(ask(UNUSUAL)).reasons
    lines = []
    for duty in Duty:
        for found in Found:
            reasons = ", ".join(f"`{r}`" for r in sorted(decided[duty, found]))
            lines.append(f"| {duty} | {found} | {reasons} |")
    return "\n".join(lines) + "\n"


def _asked() -> str:
    lines = (f"| {q} | {'; '.join(answers)} |" for q, answers in QUESTIONS.items())
    return "\n".join(lines) + "\n"


def table() -> str:
    """Return the table of transitions as Markdown."""
    lines = ["| duty | finds | steps, in order | why |", "|---|---|---|---|"]
    for duty in Duty:
        for found in Found:
            row = TRANSITIONS[duty, found]
            steps = ", ".join(f"`{step}`" for step in row.steps)
            lines.append(f"| {duty} | {found} | {steps} | {row.comment} |")
    return "\n".join(lines) + "\n"


def mermaid() -> str:
    """Return the diagram: from each duty over what is found to its steps."""
    return "\n".join(["flowchart LR", *_edges()]) + "\n"


def _edges() -> Iterator[str]:
    for duty in Duty:
        yield f"  subgraph {duty}"
        for found in Found:
            steps = TRANSITIONS[duty, found].steps
            names = " --> ".join(
                f'{duty}_{found}_{n}["{step}"]' for n, step in enumerate(steps)
            )
            yield f'    {duty}_{found}(("{found}")) --> {names}'
        yield "  end"


def render_reasons() -> str:
    """Return ``docs/reference/reasons.md``."""
    lines = [
        "# Reasons",
        "",
        "Generated from the code. Every decision has one, also the decision to wait.",
        "It stands in the log (`decided`), in `GET /cluster/state`, in the history",
        "and in `pgbastion explain`.",
        "",
        "| reason | meaning |",
        "|---|---|",
    ]
    lines += [f"| `{reason}` | {text} |" for reason, text in SENTENCES.items()]
    return "\n".join(lines) + "\n"
