"""Operations that go on after their answer: what became of one, by its id.

Every node knows them all: they are orders in the replicated state. Only how far a copy
has come is told by the node that makes it, in its report.
"""

from http import HTTPStatus
from typing import Final

from typing_extensions import TypedDict

from pgbastion.api import shapes
from pgbastion.api.answers import directives
from pgbastion.api.problems import Problem, ProblemError
from pgbastion.api.shapes import DirectiveFacts
from pgbastion.control.explain_facts import doing, needs_attention
from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport
from pgbastion.model.snapshot import NodeSnapshot

PATH: Final = "/operations"
ONE: Final = "/operations/{id}"
# What is answered at once with an id, and goes on.
LONG: Final = frozenset(
    {
        "/cluster/switchover",
        "/cluster/failover",
        "/cluster/restart",
        "/cluster/reinit",
    }
)
SCHEDULED: Final = "scheduled"
WAITING: Final = "waiting"
RUNNING: Final = "running"


class OperationFacts(DirectiveFacts):
    """An operation and how far it has come."""

    state: str
    """``scheduled``, ``waiting``, ``running``, then its outcome: ``done``, ..."""
    progress: str | None
    """What the node does that it is about, in words; None: nothing is known."""
    place: str
    """Where it can be followed, at any node."""


class OperationsAnswer(TypedDict):
    """The newest operations, oldest first."""

    operations: list[OperationFacts]


class AcceptedAnswer(shapes.OkAnswer):
    """An operation was taken and goes on."""

    id: str
    to: str | None
    """The node; None: it is chosen when the time has come."""
    operation: str
    """Where it can be followed, at any node."""


def place_of(operation_id: str) -> str:
    """Return the path under which an operation is told of."""
    return f"{PATH}/{operation_id}"


def operations(snapshot: NodeSnapshot) -> OperationsAnswer:
    """Tell the newest operations and how far each has come."""
    return {
        "operations": [
            _operation(snapshot, order) for order in directives(snapshot)["directives"]
        ]
    }


def operation(snapshot: NodeSnapshot, operation_id: str) -> OperationFacts:
    """Tell how far one operation has come; the newest 50 are known.

    Raises:
        ProblemError: This node knows none of that id.
    """
    for order in directives(snapshot)["directives"]:
        if order["id"] == operation_id:
            return _operation(snapshot, order)
    raise ProblemError(
        Problem(
            status=HTTPStatus.NOT_FOUND,
            code="unknown_operation",
            message="this node knows no operation of that id",
            remedy=f"look at {PATH}: only the newest are kept, and a node that has "
            "been busy may hear of a new one a moment later",
        )
    )


def _operation(snapshot: NodeSnapshot, order: DirectiveFacts) -> OperationFacts:
    open_one = order["outcome"] is None
    node = order["to"]
    report = snapshot.fresh_report(NodeId(node)) if node and order["begun"] else None
    return {
        **order,
        "state": _state(order),
        "progress": _progress(report) if report is not None and open_one else None,
        "place": place_of(order["id"]),
    }


def _progress(report: NodeReport) -> str | None:
    return doing(report) if needs_attention(report) else report.progress


def _state(order: DirectiveFacts) -> str:
    if order["outcome"] is not None:
        return order["outcome"]
    if order["epoch"] is None:
        return SCHEDULED
    return RUNNING if order["begun"] else WAITING
