"""``GET /cluster/explain``: for programs, and as text for people."""

from typing_extensions import TypedDict

from pgbastion.control.explain import explain
from pgbastion.control.explain_text import render_explanation
from pgbastion.model.snapshot import NodeSnapshot


class StandingFacts(TypedDict):
    """Where a node that is not the primary stands."""

    node: str
    ready: bool
    sentence: str


class ForeseenFacts(TypedDict):
    """What would happen if a node died now."""

    node: str
    prospect: str
    primary: str | None
    reason: str | None
    sentence: str


class ExplainAnswer(TypedDict):
    """What is so, why, and what should be done."""

    situation: str
    state: str
    next_step: str
    node: str
    leader: str | None
    leader_url: str | None
    primary: str | None
    serving: bool
    """Whether clients are sent to the primary."""
    primary_lines: list[str]
    others: list[StandingFacts]
    if_node_died: list[ForeseenFacts]
    blocking: list[str]
    warnings: list[str]
    lines: list[str]
    """The same as text, at most forty lines."""


def explain_cluster(snapshot: NodeSnapshot) -> ExplainAnswer:
    """Answer who is primary, why not the others, what if, and what to do next."""
    explanation = explain(snapshot)
    return {
        "situation": explanation.situation,
        "state": explanation.state,
        "next_step": explanation.next_step,
        "node": explanation.node,
        "leader": explanation.leader,
        "leader_url": explanation.leader_url,
        "primary": explanation.primary,
        "serving": explanation.serving,
        "primary_lines": list(explanation.primary_lines),
        "others": [
            {"node": s.node, "ready": s.ready, "sentence": s.sentence}
            for s in explanation.others
        ],
        "if_node_died": [
            {
                "node": f.node,
                "prospect": f.prospect,
                "primary": f.primary,
                "reason": f.reason,
                "sentence": f.sentence,
            }
            for f in explanation.foreseen
        ],
        "blocking": list(explanation.blocking),
        "warnings": list(explanation.warnings),
        "lines": list(render_explanation(explanation)),
    }


def explain_as_text(snapshot: NodeSnapshot) -> str:
    """Return the same for a person's terminal."""
    return "\n".join(render_explanation(explain(snapshot))) + "\n"
