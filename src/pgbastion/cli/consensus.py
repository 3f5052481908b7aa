"""Shows what the consensus engine says, as tables."""

from collections.abc import Mapping
from typing import Any, Final

from pgbastion.cli.tables import render_table

PEER_HEADINGS: Final = ("node", "member", "vote", "address", "matched", "")


def render_facts(facts: Mapping[str, Any]) -> str:
    """Return one line a fact, those of a group last; an empty text is left out."""
    groups = {name: value for name, value in facts.items() if isinstance(value, dict)}
    single = {n: v for n, v in facts.items() if n not in groups and v != ""}
    grouped = {f"{g} {name}": v for g in groups for name, v in groups[g].items()}
    return "\n".join(f"{n}: {_words(v)}" for n, v in (single | grouped).items())


def render_peers(answer: Mapping[str, Any]) -> str:
    """Return the members with their votes as a table."""
    rows = [
        [
            peer.get("id"),
            peer.get("member_id"),
            peer.get("suffrage"),
            peer.get("address"),
            peer.get("matched_index"),
            "leader" if peer.get("leader") else None,
        ]
        for peer in answer.get("peers", [])
    ]
    return render_table(PEER_HEADINGS, rows, right=("member", "matched"))


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)
