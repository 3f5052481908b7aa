"""What happened between two states of the cluster. Pure.

Keys carry the log's index, so that they are the same on every node.
"""

from collections.abc import Iterator

from pgbastion.model.cluster import ClusterState, Member
from pgbastion.observe.events import EventKind, Happening


def happenings(old: ClusterState, new: ClusterState) -> Iterator[Happening]:
    """Yield what a command, or a snapshot instead of many, has changed."""
    yield from _roles(old, new)
    yield from _orders(old, new)
    yield from _members(old, new)
    if old.paused != new.paused:
        yield Happening(
            kind=EventKind.PAUSE,
            what="paused" if new.paused else "resumed",
            key=f"pause-{new.pause_revision}",
        )
    if new.settings is not None and new.settings != old.settings:
        yield Happening(
            kind=EventKind.SETTINGS,
            what="agreed",
            fields={"version": new.settings.version, "by": new.settings.by},
            key=f"settings-{new.settings.version}",
        )


def _roles(old: ClusterState, new: ClusterState) -> Iterator[Happening]:
    known = max((change.index for change in old.history), default=0)
    for change in new.history:
        # One command may write two lines, and all of them at once.
        if change.index <= known:
            continue
        yield Happening(
            kind=EventKind.ROLE,
            what=change.what,
            fields={
                "primary": change.node,
                "epoch": change.epoch,
                "timeline": change.timeline,
                "cause": change.cause,
            },
            key=f"role-{change.index}-{change.what}",
        )


def _orders(old: ClusterState, new: ClusterState) -> Iterator[Happening]:
    before = {order.order_id: order for order in old.orders}
    for order in new.orders:
        was = before.get(order.order_id)
        step = order.outcome or ("begun" if order.begun else "given")
        if was is not None and (was.outcome, was.begun) == (order.outcome, order.begun):
            continue
        yield Happening(
            kind=EventKind.ORDER,
            what=str(step),
            fields={
                "id": order.order_id,
                "order": str(order.order),
                "to": order.target,
                "cause": order.cause,
                "detail": order.detail,
            },
            key=f"order-{order.order_id}-{step}",
        )


def _members(old: ClusterState, new: ClusterState) -> Iterator[Happening]:
    before = {member.member_id: member for member in old.members}
    after = {member.member_id: member for member in new.members}
    for member_id, member in after.items():
        was = before.get(member_id)
        if was is None:
            yield _member(member, "announced", new.index)
        if member.joined and (was is None or not was.joined):
            yield _member(member, "joined", new.index)
    for member_id, member in before.items():
        if member_id not in after:
            yield _member(member, "left", new.index)


def _member(member: Member, what: str, index: int) -> Happening:
    return Happening(
        kind=EventKind.MEMBERSHIP,
        what=what,
        fields={"member": member.name, "address": member.raft_address},
        key=f"member-{index}-{member.member_id}-{what}",
    )
