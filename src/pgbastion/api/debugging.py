"""``GET /debug/decisions``: what was decided lately, with what it was decided on."""

from collections.abc import Generator
from typing import Any

from pgbastion.model.recording import encode_recorded
from pgbastion.model.snapshot import NodeSnapshot


def decisions(snapshot: NodeSnapshot) -> Generator[dict[str, Any], None, None]:
    """Answer with the newest decisions that differed from the one before."""
    return (encode_recorded(kept) for kept in snapshot.records)
