"""How the state takes where the addresses for replicas are.

Source: docs/adr/0014-replica-addresses.md.
"""

from dataclasses import replace
from typing import Final

from pgbastion.control.outcomes import Outcome
from pgbastion.model.addresses import Placement
from pgbastion.model.cluster import CAUSE_MAX, LEASE_MAX_MS, ClusterState
from pgbastion.model.commands import PlaceAddress, VacateAddress

PLACEMENTS_MAX: Final = 64
_ADDRESS_MAX: Final = 45
"""The longest IPv6 address in text."""


def apply_placement(
    state: ClusterState, command: PlaceAddress | VacateAddress
) -> ClusterState | Outcome:
    """Place an address, end its placement, or forget one that ended.

    The serial of every change is its log index, so that it never comes again, not
    even for an address that was forgotten in between.
    """
    old = state.placement(command.address)
    if isinstance(command, PlaceAddress):
        return _place(state, command, old)
    if old is None or old.serial != command.serial:
        return Outcome.STALE_REVISION
    if command.forget:
        return _with(state, old, None) if old.ended else Outcome.ADDRESS_HELD
    if old.ended:
        return Outcome.NO_CHANGE
    if command.to is not None and state.named(command.to) is None:
        return Outcome.UNKNOWN_MEMBER
    ended = replace(
        old,
        ended=True,
        serial=state.index,
        cause=command.cause[:CAUSE_MAX],
        to=command.to,
    )
    return _with(state, old, ended)


def _place(
    state: ClusterState, command: PlaceAddress, old: Placement | None
) -> ClusterState | Outcome:
    if old is not None and not old.ended:
        return Outcome.ADDRESS_HELD
    if command.serial != (old.serial if old is not None else 0):
        return Outcome.STALE_REVISION
    member = state.member(command.member_id)
    if member is None or member.name != command.node or member.is_witness:
        return Outcome.UNKNOWN_MEMBER
    if state.fence(command.node) is not None:
        return Outcome.FENCED
    if not 0 < len(command.address) <= _ADDRESS_MAX:
        return Outcome.SENSELESS
    if not 0 < command.lease_ms <= LEASE_MAX_MS:
        return Outcome.SENSELESS
    if old is None and len(state.placements) >= PLACEMENTS_MAX:
        return Outcome.TOO_MANY_ADDRESSES
    placed = Placement(
        address=command.address,
        serial=state.index,
        member_id=command.member_id,
        node=command.node,
        lease_ms=command.lease_ms,
        cause=command.cause[:CAUSE_MAX],
    )
    return _with(state, old, placed)


def _with(
    state: ClusterState, old: Placement | None, new: Placement | None
) -> ClusterState:
    kept = [p for p in state.placements if p is not old]
    if new is not None:
        kept.append(new)
    return replace(state, placements=tuple(sorted(kept, key=lambda p: p.address)))
