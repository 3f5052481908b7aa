"""Decisions with the views that they were made on, as they are kept and replayed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pgbastion.model.actions import Decision
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, NodeView

RECORDS_MAX: Final = 64
"""So many of the newest are kept."""
RECORD_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What a node decided for itself."""

    number: int
    view: NodeView
    reason: Reason
    detail: str
    actions: tuple[str, ...]
    kind: Literal["node"] = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecord:
    """What the Raft leader, or who is none, decided for the cluster."""

    number: int
    view: ClusterView
    reason: Reason
    detail: str
    actions: tuple[str, ...]
    kind: Literal["cluster"] = "cluster"


Record = NodeRecord | ClusterRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    v: int
    r: Annotated[Record, Field(discriminator="kind")]


@cache
def _envelope() -> TypeAdapter[_Envelope]:
    """Made when a record is first written or read: no daemon's start waits for it."""
    return TypeAdapter(_Envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDecision:
    """A decision and its view, as a daemon keeps them: by reference, written later."""

    number: int
    view: NodeView | ClusterView
    decision: Decision


def encode_recorded(kept: RecordedDecision) -> dict[str, Any]:
    """Return a record as plain values for JSON."""
    view, decision = kept.view, kept.decision
    facts: dict[str, Any] = {
        "number": kept.number,
        "reason": decision.reason,
        "detail": decision.detail,
        "actions": tuple(map(repr, decision.actions)),
    }
    made: Record = (
        NodeRecord(view=view, **facts)
        if isinstance(view, NodeView)
        else ClusterRecord(view=view, **facts)
    )
    plain: dict[str, Any] = _envelope().dump_python(
        _Envelope(v=RECORD_VERSION, r=made), mode="json"
    )
    return plain


def decode_record(line: str | bytes) -> Record | None:
    """Read a record; None if it is none of a version that we know."""
    try:
        envelope = _envelope().validate_json(line)
    except ValidationError:
        return None
    return envelope.r if envelope.v == RECORD_VERSION else None


Decide = Callable[[Any], Decision]


def differences(kept: Record, decide: Mapping[str, Decide]) -> tuple[str, ...]:
    """Return in what today's decision on a recorded view differs from that of then.

    Args:
        kept: The record.
        decide: The decision of each kind.
    """
    now = decide[kept.kind](kept.view)
    pairs = (
        ("reason", str(kept.reason), str(now.reason)),
        ("detail", kept.detail, now.detail),
        ("actions", " ".join(kept.actions), " ".join(map(repr, now.actions))),
    )
    return tuple(
        f"{what}: then {then or 'none'}, now {today or 'none'}"
        for what, then, today in pairs
        if then != today
    )
