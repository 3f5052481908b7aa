"""The synchronous set: who should be in it, and the next safe step towards that.

The replicated set promises what a later survey reasons with, so it is weakened
before the server's setting and strengthened after it.

Source: docs/explanation/lease.md, "Changing the set".
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pgbastion.model.cluster import NOBODY, ClusterState, ReplicationMode, SyncSet
from pgbastion.model.ids import NodeId, standby_name


@dataclass(frozen=True, slots=True, kw_only=True)
class SetServer:
    """Put this set into the server's setting."""

    sync: SyncSet


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReplicated:
    """Put this set into the replicated state."""

    sync: SyncSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirming:
    """The server's new setting must first be effective in every walsender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """Server and replicated state both have the desired set."""


SyncStep = SetServer | SetReplicated | Confirming | InForce


def automatic_count(servers: int) -> int:
    """Return how many standbys confirm a commit when the operator names no number.

    Half of the PostgreSQL nodes, rounded down: then any majority of them that
    survives holds every commit, and losing a minority blocks nothing.
    """
    return servers // 2


def wanted_count(state: ClusterState) -> int:
    """Return how many standbys have to confirm a commit when all is well."""
    if state.mode is ReplicationMode.ASYNC:
        return 0
    if state.sync_count is not None:
        return state.sync_count
    return automatic_count(len(state.servers))


def commits_wait_for(state: ClusterState, node: NodeId) -> bool:
    """Tell whether commits may wait for this node's server, as a standby."""
    held, opened, member = state.assignment, state.opened, state.named(node)
    if held is None or opened is None or opened.epoch != held.epoch or not held.live:
        return False
    if member is None or member.data_id is None or opened.sync.num_sync == 0:
        return False
    return standby_name(node, member.data_id) in opened.sync.names


def desired_set(
    state: ClusterState,
    streaming: Iterable[str],
    kept: Iterable[str],
    *,
    absent: Collection[str] = (),
) -> SyncSet:
    """Return the set that should be in force.

    Args:
        state: Mode, count and strictness.
        streaming: Standby names that stream and may be synchronous.
        kept: Names in force now that must not leave yet, streaming or not.
        absent: Names that may be synchronous and do not stream: strict, commits wait
            for them while there is nobody else.
    """
    count = wanted_count(state)
    names = in_order(state, {*streaming, *kept})
    if count == 0:
        return NOBODY
    if len(names) >= count:
        return SyncSet(names=names, num_sync=count)
    if state.strict:
        # Nobody new can replace who is missing: commits wait for the old names.
        old = state.opened.sync if state.opened else NOBODY
        if old.num_sync:
            return old
        names = names or in_order(state, absent)
        return SyncSet(names=names, num_sync=min(count, len(names)))
    return SyncSet(names=names, num_sync=len(names))


def in_order(state: ClusterState, names: Collection[str]) -> tuple[str, ...]:
    """Return the names in the order in which ``sync`` prefers them.

    By the operator's priority, then by name; ``quorum`` knows no order.
    """
    priority = {
        standby_name(m.name, m.data_id): -m.failover_priority
        for m in state.servers
        if m.data_id is not None and state.mode is ReplicationMode.SYNC
    }
    return tuple(sorted(names, key=lambda name: (priority.get(name, 0), name)))


def satisfies(server: SyncSet | None, promise: SyncSet) -> bool:
    """Tell whether each commit that the server confirms fulfils the promise.

    ``None`` is a server that confirms nothing at all.
    """
    if server is None or promise.num_sync == 0:
        return True
    outside = len(set(server.names) - set(promise.names))
    return server.num_sync - outside >= promise.num_sync


def next_sync_step(
    replicated: SyncSet, server: SyncSet | None, desired: SyncSet, *, confirmed: bool
) -> SyncStep:
    """Return the next single step that keeps every confirmed commit accounted for.

    Args:
        replicated: The set in the replicated state.
        server: The set in the server's setting; None names nobody who exists.
        desired: Where both should arrive.
        confirmed: Whether the server's setting is effective in every walsender
            and its members have flushed past the instant at which it was.
    """
    if not satisfies(server, replicated):
        # Changed by hand: what was confirmed since may be on the primary's disk alone,
        # so the promise is weakened before anything else; then the setting is mended.
        return SetReplicated(sync=_weakened(replicated, server, desired))
    if server != desired:
        if satisfies(desired, replicated):
            return SetServer(sync=desired)
        return SetReplicated(sync=_weakened(replicated, server, desired))
    if replicated == desired:
        return InForce()
    return SetReplicated(sync=desired) if confirmed else Confirming()


def _weakened(replicated: SyncSet, server: SyncSet | None, desired: SyncSet) -> SyncSet:
    """Return a promise that the old and the new setting both keep."""
    names = tuple(sorted({*replicated.names, *desired.names}))
    count = min(replicated.num_sync, desired.num_sync)
    if server is not None:
        outside = len(set(server.names) - set(names))
        count = min(count, max(server.num_sync - outside, 0))
    return SyncSet(names=names, num_sync=count) if count else NOBODY
