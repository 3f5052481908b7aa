"""The answer about the virtual addresses."""

from pgbastion.api import shapes
from pgbastion.model.addresses import AddressCounts, AddressStatus, ReplicaReport
from pgbastion.model.cluster import Member
from pgbastion.model.ids import NodeId
from pgbastion.model.snapshot import NodeSnapshot


def vip(snapshot: NodeSnapshot) -> shapes.VipAnswer:
    """Tell where the virtual addresses are, here and at the other nodes."""
    counts = snapshot.address_counts or AddressCounts()
    return {
        "node": snapshot.node,
        "held": snapshot.vip,
        "holder": _holder(snapshot),
        "addresses": [_address(snapshot, status) for status in snapshot.addresses],
        "nodes": [_node(snapshot, member) for member in snapshot.state.servers],
        "replicas": [_replica(snapshot, each) for each in _replicas(snapshot)],
        "taken_total": counts.taken_total,
        "dropped_total": counts.dropped_total,
        "announcements_total": counts.announcements_total,
        "conflicts_total": counts.conflicts_total,
        "restored_total": counts.restored_total,
        "hook_failures_total": counts.hook_failures_total,
    }


def _address(snapshot: NodeSnapshot, status: AddressStatus) -> shapes.AddressFacts:
    return {
        "address": str(status.address),
        "role": status.address.role,
        "interface": status.address.interface or None,
        "label": status.address.label or None,
        "state": status.state,
        "problem": status.problem or None,
        "conflict_with": status.conflict_with or None,
        "for_ms": max(snapshot.now_ms - status.since_ms, 0),
    }


def _holder(snapshot: NodeSnapshot) -> str | None:
    if snapshot.vip:
        return snapshot.node
    for member in snapshot.state.servers:
        report = snapshot.fresh_report(member.name)
        # What this node knows of itself is newer than its last report.
        addresses = report.addresses if report else None
        if member.name != snapshot.node and addresses is not None and addresses.held:
            return member.name
    return None


def _node(snapshot: NodeSnapshot, member: Member) -> shapes.AddressesOfNode:
    report = snapshot.fresh_report(member.name)
    addresses = report.addresses if report else None
    return {
        "node": member.name,
        "held": list(addresses.held) if addresses else [],
        "problem": (addresses.problem or None) if addresses else None,
    }


def _replicas(snapshot: NodeSnapshot) -> list[str]:
    """Return the addresses for replicas that are somewhere or could be."""
    found = {placed.address for placed in snapshot.state.placements}
    for member in snapshot.state.servers:
        report = snapshot.fresh_report(member.name)
        addresses = report.addresses if report else None
        if addresses is not None:
            found.update(r.address for r in addresses.replicas)
    return sorted(found)


def _replica(snapshot: NodeSnapshot, address: str) -> shapes.ReplicaAddress:
    placed = snapshot.state.placement(address)
    if placed is None:
        return {
            "address": address,
            "node": None,
            "state": "nowhere",
            "cause": None,
            "problem": None,
        }
    offer = _offer(snapshot, placed.node, address)
    held = offer is not None and offer.held
    state = "held" if held else "placed"
    return {
        "address": address,
        "node": placed.node,
        "state": "leaving" if placed.ended else state,
        "cause": placed.cause,
        "problem": (offer.problem or None) if offer is not None else None,
    }


def _offer(snapshot: NodeSnapshot, node: NodeId, address: str) -> ReplicaReport | None:
    report = snapshot.fresh_report(node)
    addresses = report.addresses if report else None
    return addresses.replica(address) if addresses else None
