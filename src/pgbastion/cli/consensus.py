"""Shows what the consensus engine says, as tables."""

from collections.abc import Mapping
from typing import Any, Final

from pgbastion.cli.tables import render_table

PEER_HEADINGS: Final = ("node", "member", "vote", "address", "matched", "")


def render_state(state: Mapping[str, Any]) -> str:
    """Return the engine's word on itself, one line a fact."""
    facts = {name: value for name, value in state.items() if value != ""}
    for name, value in state.items():
        if isinstance(value, dict):
            del facts[name]
            facts |= {f"{name} {inner}": each for inner, each in value.items()}
    return "\n".join(f"{name}: {_words(value)}" for name, value in facts.items())


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
