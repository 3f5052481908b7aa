"""Where the virtual addresses belong, and when the role follows them.

They stand for the primary lease: the node that holds it, with its guard armed, has
them, and nobody else. They go before the epoch is released, at the lease's end by
themselves, and they never ask for anything: only a node that cannot have them hands its
role on, to one that can, and not again for a while.

Source: docs/explanation/vip.md; docs/explanation/safety.md, rules 73 to 75.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from pgbastion.control.node_rules import has_lease, holds, own_assignment
from pgbastion.control.pause import is_paused
from pgbastion.model.actions import Decision, DropAddresses, Propose
from pgbastion.model.addresses import AddressView, Holding
from pgbastion.model.commands import Release
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.views import NodeView

NS_PER_MS: Final = 1_000_000
MIN_HOLDING_MS: Final = 10_000
"""A role that has just come is not handed on for an address's sake."""
UNABLE_MS: Final = 2_000
"""How long an interface may be without carrier before the role is handed on."""
CONFLICT_MS: Final = 7_000
"""A stranger's answer counts when it was repeated, and others had time to look."""
HAND_ON_PAUSE: Final = timedelta(minutes=10)
CAUSE: Final = "the virtual address cannot be held"


def decide_holding(view: NodeView) -> Holding:
    """Say whether the addresses are to be on this node now, and until when."""
    held = own_assignment(view)
    if held is None or not holds(view, held):
        return Holding(epoch=Epoch(0), scouting=_holder_has_conflict(view))
    armed = view.lease.armed_epoch == held.epoch
    if is_paused(view):
        # A lease bounds nothing meanwhile; whoever is the primary stays it.
        return Holding(epoch=held.epoch if armed else Epoch(0))
    if not armed or not has_lease(view):
        return Holding(epoch=Epoch(0))
    until_ms = view.lease.expiry_ms - view.limits.margin_ms
    return Holding(epoch=held.epoch, until_ns=until_ms * NS_PER_MS)


def _holder_has_conflict(view: NodeView) -> bool:
    held = view.state.assignment
    received = view.reports.get(held.node) if held is not None else None
    addresses = received.report.addresses if received is not None else None
    return addresses is not None and addresses.conflict


def drop_before_release(view: NodeView, decision: Decision) -> Decision:
    """Have the addresses removed before the epoch is released."""
    releases = any(
        isinstance(a, Propose) and isinstance(a.command, Release)
        for a in decision.actions
    )
    if not releases or not view.addresses_held:
        return decision
    drop = DropAddresses(epoch=view.state.epoch)
    return replace(decision, actions=(drop, *decision.actions))


def decide_hand_on(view: AddressView) -> NodeId | None:
    """Return who should take the role over because it can have the addresses.

    None: this node can, nobody else could, or the role was handed on for that reason a
    moment ago: two nodes that both cannot must not pass it to and fro.
    """
    own = view.reports.get(view.node)
    if not view.epoch or own is None or not own.problem or not view.problem_since_ms:
        return None
    patience_ms = CONFLICT_MS if own.conflict else UNABLE_MS
    if view.now_ms < view.problem_since_ms + patience_ms:
        return None
    if view.now_ms < view.held_since_ms + MIN_HOLDING_MS:
        return None
    if any(_is_recent(at, view.at) for at in view.handed_on_at):
        return None
    able = (n for n in view.fit if n in view.reports and not view.reports[n].problem)
    return next(able, None)


def _is_recent(at: str, now: str) -> bool:
    try:
        age = datetime.fromisoformat(now) - datetime.fromisoformat(at)
    except (ValueError, TypeError):
        # A time that nobody understands must not start a circle.
        return True
    return age < HAND_ON_PAUSE
