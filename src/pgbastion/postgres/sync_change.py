"""One change of the primary's synchronous set, from the setting to its effect."""

from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId
from pgbastion.model.wal import Lsn
from pgbastion.postgres.primary import Primary


class SyncChange:
    """How far the newest change has come; a later server begins anew."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self.forget()

    def forget(self) -> None:
        """Forget what an earlier server was told."""
        self._sync: SyncSet | None = None
        self._ends_older = False
        self._position: Lsn | None = None

    async def apply(self, mode: ReplicationMode, sync: SyncSet, own: DataId) -> bool:
        """Put the set into the setting; tell whether it is effective everywhere.

        Effective: every walsender goes by it, and as many of its members as have to
        confirm a commit have flushed what was written since.
        """
        if self._sync != sync:
            raised = self._sync is not None and sync.num_sync > self._sync.num_sync
            await self._primary.set_sync(mode, sync, own)
            self._sync, self._ends_older, self._position = sync, raised, None
        effect = await self._primary.sync_effect(mode, sync)
        if not effect.effective:
            return False
        if self._ends_older:
            # The number does not show in a walsender; a new one knows it.
            await self._primary.end_older_walsenders(sync.names)
            self._ends_older = False
            return False
        return sync.num_sync == 0 or await self._has_flushed(sync)

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
