"""One change of the primary's synchronous set, from the setting to its effect."""

import asyncio
from typing import Final, TypedDict

from pgbastion.clock import boottime_ns
from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId
from pgbastion.model.wal import Lsn
from pgbastion.postgres.primary import Primary
from pgbastion.postgres.render import parse_sync_names, sync_names

SETTLED_NS: Final = 200_000_000
"""How long after a setting took effect every session surely reads it."""
TAKEN_UP_NS: Final = 1_000_000_000
"""How long a server may take to read a setting that was written."""

WAITS_AGAIN_S: Final = 0.05
"""How soon to look again whether commits wait."""


class SyncFacts(TypedDict):
    """What the server's setting says; fields of `ha.ports.ServerFacts`."""

    sync_setting: SyncSet | None
    sync_text: str
    sync_foreign: bool
    sync_reworded: bool


class SyncChange:
    """How far the newest change has come; a later server begins anew."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self.forget()

    def forget(self) -> None:
        """Forget an earlier server, and what it was told."""
        self._ends_older = False
        self._seen_count = 0
        self._waits = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._wanted: tuple[ReplicationMode, SyncSet | None] | None = None
        self._position: Lsn | None = None
        self._older: frozenset[int] | None = None
        self._effective_ns: int | None = None
        self._written_ns = 0

    async def apply(
        self, mode: ReplicationMode, sync: SyncSet, own: DataId, *, first: bool
    ) -> bool:
        """Put the set into the setting; tell whether it is effective everywhere.

        Effective: every walsender goes by it, and as many of its members as have to
        confirm a commit have flushed what was written since. With ``first`` no set was
        promised before: then sessions may not wait at all, whatever walsenders say.
        """
        if sync.num_sync == 0:
            self._waits = False
        elif not first:
            self._waits = True
        elif not self._waits:
            self._waits = await self._are_seen_to_wait(mode, own)
            if not self._waits:
                # Its checkpointer may be busy for long, and each try is a commit.
                await asyncio.sleep(WAITS_AGAIN_S)
                return False
        if self._wanted != (mode, sync):
            if self._raises(sync):
                self._ends_older = True
            # What fails half-way has perhaps been written: it is written anew then.
            await self._write(mode, sync, own)
        effect = await self._primary.sync_effect(mode, sync)
        if not effect.effective:
            return False
        if self._effective_ns is None:
            self._effective_ns = boottime_ns()
        if self._ends_older and not await self._have_older_ended(sync):
            return False
        return sync.num_sync == 0 or await self._has_flushed(sync)

    async def _write(
        self, mode: ReplicationMode, sync: SyncSet | None, own: DataId
    ) -> None:
        self._begin_anew()
        await self._primary.set_sync(mode, sync, own)
        self._wanted = mode, sync
        self._written_ns = boottime_ns()

    async def _are_seen_to_wait(self, mode: ReplicationMode, own: DataId) -> bool:
        """Have the setting name nobody, and tell whether a commit waits under it."""
        if self._wanted != (mode, None):
            await self._primary.prepare_to_commit()
            await self._write(mode, None, own)
        return await self._primary.commits_wait()

    def facts(self, mode: ReplicationMode, text: str, sent_ns: int) -> SyncFacts:
        """Judge what the server said of its setting.

        Args:
            mode: What the cluster wants now.
            text: What the server has.
            sent_ns: When it was asked.
        """
        sync = parse_sync_names(text)
        named = sync is not None and sync.num_sync > 0
        self._seen_count = _count(text)
        return {
            "sync_setting": sync,
            "sync_text": text,
            "sync_foreign": self._notice(text, sent_ns),
            "sync_reworded": named and text != sync_names(mode, sync),
        }

    def _raises(self, sync: SyncSet) -> bool:
        """Tell whether fewer may be enough for a walsender that knows the last set.

        That set may be a former daemon's, or somebody else's.
        """
        _, wanted = self._wanted or (None, None)
        wanted_count = wanted.num_sync if wanted is not None else 0
        return any(
            0 < count < sync.num_sync for count in (wanted_count, self._seen_count)
        )

    def _notice(self, names: str, sent_ns: int) -> bool:
        """Tell whether somebody else has changed the setting; then forget our own."""
        if self._wanted is None:
            return False
        # What was written and never took effect is overridden by somebody, too.
        settled_ns = self._written_ns + TAKEN_UP_NS
        if self._effective_ns is not None:
            settled_ns = self._effective_ns + SETTLED_NS
        if sent_ns < settled_ns:
            return False
        if names == sync_names(*self._wanted):
            return False
        self._begin_anew()
        self._waits = False
        return True

    async def _have_older_ended(self, sync: SyncSet) -> bool:
        """End the walsenders that may need fewer, and tell whether they are gone.

        The number does not show in them. The setting is in force here, so those that
        come later know it.
        """
        senders = await self._primary.senders()
        pids = {sender.pid for sender in senders if sender.name in sync.names}
        if self._older is None:
            self._older = frozenset(pids)
        left = pids & self._older
        if left:
            await self._primary.end_walsenders(left)
        else:
            self._ends_older = False
        return not left

    async def _has_flushed(self, sync: SyncSet) -> bool:
        if self._position is None:
            self._position = await self._primary.write_position()
        position = self._position
        flushed = {
            sender.name
            for sender in await self._primary.senders()
            if sender.flush_lsn >= position
        }
        return len(flushed.intersection(sync.names)) >= sync.num_sync


def _count(text: str) -> int:
    """Return how many confirm a commit under a setting; 0: it names nobody."""
    sync = parse_sync_names(text)
    if not text or sync is None:
        return 0
    # Of a form that we do not write: one is the least.
    return sync.num_sync or 1
