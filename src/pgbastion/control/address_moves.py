"""Whether an address for replicas can be moved at an operator's word, and whereto.

Nothing else moves one that is held well: docs/adr/0014-replica-addresses.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pgbastion.control.placing import Cause, load_of, obstacle
from pgbastion.model.cluster import ClusterState, Member
from pgbastion.model.commands import VacateAddress
from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport, PostgresState


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMoved:
    """The address is not moved."""

    code: str
    why: str


def decide_move(
    state: ClusterState,
    reports: Mapping[NodeId, NodeReport],
    address: str,
    to: NodeId | None,
) -> VacateAddress | NotMoved:
    """Say how an address for replicas is moved, or why it is not.

    Args:
        state: The cluster.
        reports: What the nodes that are not silent say.
        address: Which one.
        to: To which node; None: to the standby with the fewest that can have it.
    """
    placed = state.placement(address)
    if placed is None:
        return NotMoved(code="nowhere", why="no node has it as an address for replicas")
    if placed.ended:
        return NotMoved(code="moving", why=f"it leaves {placed.node}: {placed.cause}")
    if to == placed.node:
        return NotMoved(code="there_already", why=f"{to} has it already")
    obstacles = {
        member.name: _obstacle(state, member, reports.get(member.name), address)
        for member in state.servers
        if member.name != placed.node
    }
    if to is not None:
        obstacles = {to: obstacles.get(to, "is not a member with PostgreSQL")}
    able = [node for node, why in obstacles.items() if not why]
    if not able:
        why = "; ".join(f"{node} {why}" for node, why in obstacles.items())
        return NotMoved(code="unfit", why=why or "there is no other node")
    load = load_of(state)
    chosen = min(able, key=lambda node: load[node])
    return VacateAddress(
        address=address, serial=placed.serial, cause=Cause.MOVED, to=chosen
    )


def _obstacle(
    state: ClusterState, member: Member, report: NodeReport | None, address: str
) -> str:
    if state.is_held_by(member.member_id):
        return "is the primary"
    why = obstacle(state, member.name, report, address)
    if why or report is None:
        return why
    if report.state is not PostgresState.STANDBY:
        return "runs no standby"
    return "" if report.streaming else "does not stream"
