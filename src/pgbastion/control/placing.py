"""Where the addresses for replicas are: the leader's decision, and the node's part.

The log says which node has an address. A node has it only as long as it keeps hearing
that this still stands: from when it *asked*, for the placement's lease. To move an
address the leader first ends the placement, then waits: for the node's word that it is
rid of it, or for the lease, counted from when the leader itself saw the end in the log.

Source: docs/adr/0014-replica-addresses.md.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from pgbastion.control.lease import longest_lease_policy, stretched_ms
from pgbastion.model.addresses import AddressReport, Holding, Placement, ReplicaReport
from pgbastion.model.cluster import ClusterState, Policy
from pgbastion.model.commands import PlaceAddress, VacateAddress
from pgbastion.model.ids import Epoch, MemberId, NodeId
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import Received

NS_PER_MS: Final = 1_000_000
LEASE_MIN_MS: Final = 5_000
"""Kernels count lifetimes in whole seconds: a shorter lease would make them flicker."""
MIN_HOLDING_MS: Final = 10_000
"""An address that has just come is not moved for what may pass, nor back."""
SETTLING_MS: Final = 5_000
"""After a change of the primary standbys need a moment until they stream again."""


class Cause(StrEnum):
    """Why an address for replicas is placed at a node, or leaves it."""

    CHOSEN = "the node with the fewest such addresses among the usable standbys"
    MOVED = "an operator moved it"
    NO_STANDBY = "no standby can have it"
    MEMBER_LEFT = "the node is no longer a member"
    FENCED = "the node is fenced"
    PROMOTED = "the node is the primary"
    STANDBY_AGAIN = "a standby can have it again"
    SILENT = "the node is silent"
    NOT_CONFIGURED = "the address is not in the node's configuration any more"
    DRAINING = "the node is being taken out for maintenance"
    CANNOT_HOLD = "the node cannot have it"
    NOT_RUNNING = "the node's standby does not run"
    BEHIND = "the node's standby does not stream, or lags"
    GONE = "no node can have it"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacingView:
    """What the leader decides on; instants in milliseconds on its clock."""

    now_ms: int
    state: ClusterState
    reports: Mapping[NodeId, Received]
    report_ms: int
    """How old a report of a living node may be."""
    elected_ms: int
    opened_ms: int
    """When this node first saw the current epoch opened; 0: it is not."""
    readers: tuple[NodeId, ...]
    """The standbys that readers are sent to."""
    writer: NodeId | None
    """The primary that takes writes."""
    seen_ms: Mapping[int, int] = field(default_factory=dict)
    """When this node first saw each placement that stands, by its serial."""


def decide_placing(view: PlacingView) -> tuple[PlaceAddress | VacateAddress, ...]:
    """Say what has to change about where the addresses for replicas are."""
    policy = longest_lease_policy(view.state)
    if policy is None:
        return ()
    return tuple(_Placing(view, policy).changes())


class _Placing:
    """One look at all addresses; what is placed in it counts for the next one."""

    def __init__(self, view: PlacingView, policy: Policy) -> None:
        self._view = view
        self._policy = policy
        self._load = load_of(view.state)

    def changes(self) -> Iterator[PlaceAddress | VacateAddress]:
        for placed in self._view.state.placements:
            change = self._gone(placed) if placed.ended else self._leaving(placed)
            if change is not None:
                yield change
        known = {placed.address for placed in self._view.state.placements}
        for address in sorted(self._offered() - known):
            change = self._placing(address, serial=0)
            if change is not None:
                yield change

    # An address that is somewhere

    def _leaving(self, placed: Placement) -> VacateAddress | None:
        cause = self._must_leave(placed) or self._may_leave(placed)
        if cause is None:
            return None
        return VacateAddress(address=placed.address, serial=placed.serial, cause=cause)

    def _must_leave(self, placed: Placement) -> Cause | None:
        """Say why nobody may be sent to this node any more, also if nobody else is."""
        view = self._view
        if view.state.member(placed.member_id) is None:
            return Cause.MEMBER_LEFT
        if view.state.fence(placed.node) is not None:
            return Cause.FENCED
        if view.now_ms < view.elected_ms + view.report_ms:
            # What is silent to a new leader may not have had the time to speak.
            return None
        report = self._report(placed.node)
        if report is None:
            return Cause.SILENT
        offer = offer_of(report, placed.address)
        if offer is None:
            return Cause.NOT_CONFIGURED
        if report.draining:
            return Cause.DRAINING
        promoted = self._view.state.is_held_by(placed.member_id) and not offer.fallback
        return Cause.PROMOTED if promoted else None

    def _may_leave(self, placed: Placement) -> Cause | None:
        """Say why another node should have it, if another one can."""
        view = self._view
        report = self._report(placed.node)
        offer = offer_of(report, placed.address) if report is not None else None
        if report is None or offer is None or self._successor(placed) is None:
            return None
        settled = view.now_ms >= self._seen_ms(placed) + MIN_HOLDING_MS
        if self._view.state.is_held_by(placed.member_id):
            return Cause.STANDBY_AGAIN if settled else None
        if offer.problem and not offer.conflict:
            # A stranger on the segment is in everybody's way: nothing is gained.
            return Cause.CANNOT_HOLD if settled else None
        if report.state is not PostgresState.STANDBY:
            return Cause.NOT_RUNNING
        streams_again = view.opened_ms and view.now_ms >= view.opened_ms + SETTLING_MS
        if placed.node not in view.readers and streams_again:
            return Cause.BEHIND
        return None

    def _successor(self, placed: Placement) -> NodeId | None:
        """Return another node than its own that could have it; None: there is none."""
        others = [n for n in self._able(placed.address) if n != placed.node]
        if others or self._view.state.is_held_by(placed.member_id):
            return next(iter(others), None)
        return self._fallback(placed.address)

    # An address that is to be let go

    def _gone(self, placed: Placement) -> PlaceAddress | VacateAddress | None:
        if not self._is_gone(placed):
            return None
        change = self._placing(placed.address, serial=placed.serial, named=placed.to)
        if change is not None:
            return change
        return VacateAddress(
            address=placed.address,
            serial=placed.serial,
            cause=Cause.GONE,
            forget=True,
        )

    def _is_gone(self, placed: Placement) -> bool:
        """Tell whether the node surely has the address no more."""
        # The node counts from when it asked, which was before the end was committed,
        # and that was before this node saw it.
        lease_ms = stretched_ms(replace(self._policy, lease_ms=placed.lease_ms))
        if self._view.now_ms >= self._seen_ms(placed) + lease_ms:
            return True
        if self._view.state.member(placed.member_id) is None:
            # Whoever speaks under its name now may be another machine.
            return False
        received = self._view.reports.get(placed.node)
        offer = offer_of(received.report, placed.address) if received else None
        if offer is None:
            return False
        return offer.seen == placed.serial and not offer.may_be_set

    def _seen_ms(self, placed: Placement) -> int:
        return self._view.seen_ms.get(placed.serial, self._view.now_ms)

    # An address that is nowhere

    def _offered(self) -> frozenset[str]:
        """Return every address for replicas that a living node has configured."""
        found: set[str] = set()
        for node in self._view.reports:
            report = self._report(node)
            addresses = report.addresses if report is not None else None
            if addresses is not None:
                found.update(r.address for r in addresses.replicas)
        return frozenset(found)

    def _placing(
        self, address: str, *, serial: int, named: NodeId | None = None
    ) -> PlaceAddress | None:
        able = self._able(address)
        best = min(able, key=lambda node: self._load[node], default=None)
        best = named if named in able else best
        node = best or self._fallback(address)
        member = self._view.state.named(node) if node is not None else None
        if node is None or member is None:
            return None
        self._load[node] += 1
        return PlaceAddress(
            address=address,
            serial=serial,
            member_id=member.member_id,
            node=node,
            lease_ms=max(self._policy.lease_ms, LEASE_MIN_MS),
            cause=_why(best, named),
        )

    def _able(self, address: str) -> list[NodeId]:
        """Return the standbys that could have the address, in order."""
        view = self._view
        readers = [n for n in view.readers if n != view.writer]
        return [n for n in readers if self._can_have(n, address)]

    def _fallback(self, address: str) -> NodeId | None:
        """Return the primary where it may have the address and can."""
        writer = self._view.writer
        if writer is None or not self._can_have(writer, address):
            return None
        report = self._report(writer)
        offer = offer_of(report, address) if report is not None else None
        return writer if offer is not None and offer.fallback else None

    def _can_have(self, node: NodeId, address: str) -> bool:
        return not obstacle(self._view.state, node, self._report(node), address)

    def _report(self, node: NodeId) -> NodeReport | None:
        """Return a node's report, if it is new enough to say how the node is now."""
        received = self._view.reports.get(node)
        if received is None:
            return None
        if self._view.now_ms - received.at_ms > self._view.report_ms:
            return None
        return received.report


def _why(best: NodeId | None, named: NodeId | None) -> Cause:
    if best is None:
        return Cause.NO_STANDBY
    return Cause.MOVED if best == named else Cause.CHOSEN


def load_of(state: ClusterState) -> Counter[NodeId]:
    """Return how many addresses for replicas each node has."""
    return Counter(p.node for p in state.placements if not p.ended)


def obstacle(
    state: ClusterState, node: NodeId, report: NodeReport | None, address: str
) -> str:
    """Say why a node cannot have an address for replicas; empty: it can.

    A stranger on the segment is in everybody's way, and so in nobody's more than in
    another's.
    """
    if state.fence(node) is not None:
        return "is fenced"
    if report is None:
        return "is silent"
    if report.draining:
        return "is being taken out for maintenance"
    offer = offer_of(report, address)
    if offer is None:
        return "does not have it in its configuration"
    return f"reports: {offer.problem}" if offer.problem and not offer.conflict else ""


def offer_of(report: NodeReport, address: str) -> ReplicaReport | None:
    """Return what a node says of an address for replicas; None: not configured."""
    addresses: AddressReport | None = report.addresses
    return addresses.replica(address) if addresses is not None else None


def decide_replica_holdings(
    state: ClusterState, member_id: MemberId, *, confirmed_ns: int, margin_ms: int
) -> Mapping[str, Holding]:
    """Return which addresses for replicas this node may have now, and until when.

    Args:
        state: What this node has applied.
        member_id: This node.
        confirmed_ns: When it last asked whether its state still stands, and was told
            so; CLOCK_BOOTTIME, 0: never.
        margin_ms: How long before the end they have to be gone.
    """
    if confirmed_ns <= 0:
        return {}
    return {
        placed.address: Holding(
            epoch=Epoch(placed.serial),
            until_ns=confirmed_ns + (placed.lease_ms - margin_ms) * NS_PER_MS,
        )
        for placed in state.placements
        if placed.member_id == member_id and not placed.ended
    }
