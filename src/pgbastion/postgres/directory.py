"""What is in a data directory: whose it is, how its server ended, which histories."""

from dataclasses import replace
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.ha.ports import DataFacts
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn
from pgbastion.observe.logging import get_logger
from pgbastion.postgres import staging
from pgbastion.postgres.files import Files
from pgbastion.postgres.history import HistoryFiles
from pgbastion.postgres.layout import BACKUP_LABEL, PgPaths
from pgbastion.postgres.mark import Mark, MarkFile, name_backup, new_data_id
from pgbastion.postgres.offline import Offline

HISTORY_MAX: Final = 64
STREAMED: Final = "BACKUP METHOD: streamed"
"""Unlike that of a rewind, or of a backup that was begun in the running server."""

log = get_logger("postgres")


class DataDirectory:
    """Reads one data directory; its server may run or not."""

    def __init__(
        self, paths: PgPaths, files: Files, mark: MarkFile, offline: Offline
    ) -> None:
        self._paths = paths
        self._files = files
        self._mark = mark
        self._offline = offline
        self._histories = HistoryFiles(paths, files)

    async def inspect(self, cluster_id: str, *, running: bool) -> DataFacts:
        """Look into it; ``cluster_id`` is whose it has to be, where that is known."""
        try:
            return await self._inspect(cluster_id, running=running)
        except (PostgresError, OSError) as exc:
            # An error of reading is not emptiness.
            return DataFacts(empty=False, ours=False, problem=str(exc))

    async def _inspect(self, cluster_id: str, *, running: bool) -> DataFacts:
        data_dir = self._paths.data_dir
        if not running:
            await staging.repair(self._paths, self._files)
        if await self._files.run("look into the data directory", self._is_empty):
            emptied = staging.emptied_of(data_dir) is not None
            return DataFacts(empty=True, ours=False, emptied=emptied)
        mark = await self._mark.read()
        if mark is None:
            there = (data_dir / "PG_VERSION").exists()
            return DataFacts(
                empty=False, ours=False, problem=self._unmarked(), unmarked=there
            )
        if cluster_id and mark.cluster_id != cluster_id:
            return DataFacts(
                empty=False,
                ours=False,
                problem=f"{data_dir} belongs to the cluster {mark.cluster_id}, this "
                f"node to {cluster_id}: move it away, or correct postgresql.data_dir",
            )
        if not running:
            mark = await self._with_own_id(mark)
        control = await self._offline.control()
        timeline = None
        if not running and mark.epoch == 0:
            known = await self.newest_timeline()
            timeline = max(known, control.checkpoint.timeline)
        return DataFacts(
            empty=False,
            ours=True,
            cluster_id=mark.cluster_id,
            data_id=mark.data_id,
            epoch=mark.epoch,
            promoted_epoch=mark.promoted_epoch,
            cut_epoch=mark.cut_epoch,
            was_standby=not running and control.state.is_standby,
            system_identifier=str(control.system_identifier),
            timeline=timeline,
        )

    def _is_empty(self) -> bool:
        return staging.is_empty(self._paths.data_dir)

    def _unmarked(self) -> str:
        data_dir = self._paths.data_dir
        if (data_dir / "PG_VERSION").exists():
            return f"{data_dir} holds a PostgreSQL that is not of this cluster"
        return f"{data_dir} is not empty and holds no PostgreSQL"

    async def own_mark(self) -> Mark:
        """Return its mark.

        Raises:
            PostgresError: It has none.
        """
        mark = await self._mark.read()
        if mark is None:
            raise PostgresError(f"there is no mark in {self._paths.data_dir}")
        return mark

    async def has_backup_label(self) -> bool:
        """Tell whether it is a base backup that was never started to its end."""
        return await self._label() is not None

    async def _label(self) -> str | None:
        return await self._files.read(self._paths.data_dir / BACKUP_LABEL)

    async def _with_own_id(self, mark: Mark) -> Mark:
        """Return the mark, with a new data id where it came along with a base backup.

        Somebody has restored that one here. It may be this node's own, of long ago, and
        lacks what the data id has confirmed since.
        """
        label = await self._label()
        if label is None or STREAMED not in label:
            return mark
        backup = name_backup(label)
        if backup == mark.backup:
            return mark
        renewed = replace(mark, data_id=new_data_id(), backup=backup)
        await self._mark.write(renewed)
        log.warning("backup_found", former=mark.data_id, data_id=renewed.data_id)
        return renewed

    async def timeline_begin(self, timeline: Timeline) -> Lsn | None:
        """Return where a timeline forked off its parent; None: it is the first."""
        known = await self._histories.read(timeline)
        return None if known is None else known.begin

    async def newest_timeline(self) -> Timeline:
        """Return the highest timeline id that it knows of; 0: none."""
        return max(await self._histories.known(), default=Timeline(0))

    async def history(self, timeline: Timeline) -> tuple[tuple[Timeline, Lsn], ...]:
        """Return a timeline's newest ancestors and where each was left."""
        known = await self._histories.read(timeline)
        forks = known.forks if known is not None else ()
        return tuple((fork.parent, fork.lsn) for fork in forks[-HISTORY_MAX:])
