"""Programs that read from the primary: pg_basebackup and pg_rewind."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.archive import ArchiveBacklog
from pgbastion.postgres.config_files import ConfigFiles
from pgbastion.postgres.files import Files, remove_durably
from pgbastion.postgres.layout import BACKUP_LABEL, PgIdentity, PgPaths
from pgbastion.postgres.mark import MARK_NAME, Mark, name_backup, render_mark
from pgbastion.postgres.parse import parse_progress
from pgbastion.postgres.programs import Output, ProgramError, Programs
from pgbastion.postgres.render import Upstream, slot_name, source_conninfo
from pgbastion.postgres.staging import Elsewhere, Staging, emptied_of
from pgbastion.postgres.wal_place import (
    make_wal_dir,
    place_of_wal,
    remove_unused_wal,
)

# Terabytes take days over a slow network; one that is silent ends them much sooner.
COPY_DEADLINE_S: Final = 14 * 24 * 3600.0
REWIND_DEADLINE_S: Final = 24 * 3600.0
# The replaced directory stays while this part of the file system is free.
ROOM_TO_KEEP: Final = 0.2
# pg_rewind's word for "the target is an ancestor of the source".
NOT_REQUIRED: Final = "no rewind required"
# A copy may be this much larger than what it replaces.
ROOM_FOR_COPY: Final = 1.1

Progress = Callable[[int, int], None]
"""Is told (done, total) in bytes."""

log = get_logger("postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindFailed:
    """The rewind cannot be done, and nothing was changed: a copy can."""

    reason: str


class FromPrimary:
    """Makes the stopped server's directory a descendant of the primary's."""

    def __init__(
        self,
        paths: PgPaths,
        identity: PgIdentity,
        files: Files,
        programs: Programs,
        config: ConfigFiles,
    ) -> None:
        self._paths = paths
        self._identity = identity
        self._config = config
        self._files = files
        self._programs = programs
        self.archive = ArchiveBacklog(paths, files, programs)

    async def copy(
        self, upstream: Upstream, mark: Mark, *, progress: Progress | None = None
    ) -> None:
        """Replace the data directory by a copy of the primary's, over our slot there.

        The copy carries ``mark``, which must have a new data id; the old directory is
        untouched until the copy is complete, and kept beside it while there is room.
        Configuration files and ``standby.signal`` come after.

        Raises:
            PostgresError: The copy failed; the data directory is as it was.
        """
        await self._save_wal()
        staging = await Staging.of(self._paths, self._files)
        await staging.begin(replace=True)
        try:
            elsewhere = await self._files.run("look for links", self.elsewhere)
            await self._empty_tablespaces(elsewhere.tablespaces, mark)
            await self._make_room(staging, elsewhere)
            await self._config.write_passfile(upstream)
            wal = await self._wal_options(elsewhere.wal, mark)
            await self._base_backup(upstream, str(staging.path), progress, *wal)
            label = await self._files.read(staging.path / BACKUP_LABEL)
            mark = replace(mark, backup=name_backup(label or ""))
            await self._files.write(staging.path / MARK_NAME, render_mark(mark))
            await self._files.remove(staging.path / "standby.signal")
        except PostgresError:
            await staging.abandon()
            raise
        free, total = await self._room(staging)
        await staging.install(keep_old=free >= total * ROOM_TO_KEEP)
        if elsewhere.wal is not None:
            tidy = partial(
                remove_unused_wal, elsewhere.wal, self._paths.data_dir, staging.old
            )
            await self._files.run_on_tree(f"tidy {elsewhere.wal}", tidy)
        await self._files.remove(self._paths.work_flag)

    async def _save_wal(self) -> None:
        """Save WAL that waits for the archive, as far as the directory allows it.

        A rewind has saved it before it began, and leaves files half written.
        """
        if await self._files.read(self._paths.work_flag) is not None:
            return
        try:
            await self.archive.hand_over()
        except PostgresError as exc:
            log.warning("wal_not_saved", error=str(exc))

    async def _make_room(self, staging: Staging, elsewhere: Elsewhere) -> None:
        """Give up what was kept, then the directory itself, where both do not fit.

        Its own size stands for that of the copy: they are of one cluster.
        """
        needed = await self._files.run_on_tree("measure the data", self._needed_bytes)
        if (await self._room(staging))[0] < needed:
            await staging.remove_old()
        if (await self._room(staging))[0] < needed:
            log.warning("data_emptied_for_copy", directory=str(self._paths.data_dir))
            await staging.wipe(elsewhere)

    async def _empty_tablespaces(self, parts: Sequence[Path], mark: Mark) -> None:
        """Remove our part of the tablespaces: a copy needs their places empty.

        The directory is of no use without them, so it counts as unfinished first.
        """
        if parts:
            await self._files.write(self._paths.work_flag, render_mark(mark))
        for part in parts:
            log.warning("tablespace_emptied_for_copy", directory=str(part))
            await self._files.run_on_tree(f"remove {part}", partial(_remove_tree, part))

    async def _wal_options(self, place: Path | None, mark: Mark) -> tuple[str, ...]:
        if place is None:
            return ()
        made = await self._files.run(
            f"make a directory in {place}",
            partial(make_wal_dir, place, mark.data_id, self._paths.account),
        )
        return (f"--waldir={made}",)

    def elsewhere(self) -> Elsewhere:
        """Return where this cluster's tablespaces and its WAL are. Reads the disk.

        Other versions may use the same places for tablespaces; each has a directory
        named after its version.
        """
        data_dir = self._paths.data_dir
        version = data_dir / "PG_VERSION"
        if not version.exists():
            emptied = emptied_of(data_dir)
            return emptied or Elsewhere(tablespaces=[], wal=None)
        major = version.read_text(encoding="ascii").strip()
        parts = sorted(
            part
            for link in (data_dir / "pg_tblspc").glob("*")
            if link.is_symlink()
            for part in link.resolve().glob(f"PG_{major}_*")
        )
        return Elsewhere(tablespaces=parts, wal=place_of_wal(data_dir))

    async def _room(self, staging: Staging) -> tuple[int, int]:
        """Return how many bytes are free, of how many, where the copy is made.

        A data directory may be a file system of its own.
        """
        place = staging.path.parent
        usage = await self._files.run("look for room", lambda: shutil.disk_usage(place))
        return usage.free, usage.total

    def _needed_bytes(self) -> int:
        sizes = (f.lstat().st_size for f in self._paths.data_dir.rglob("*"))
        return int(sum(sizes) * ROOM_FOR_COPY)

    async def _base_backup(
        self,
        upstream: Upstream,
        target: str,
        progress: Progress | None,
        *options: str,
    ) -> None:
        roles = self._identity.roles
        source = source_conninfo(
            upstream,
            user=roles.replication,
            passfile=str(self._paths.passfile),
            name=f"pgbastion copy to {self._identity.node}",
            dbname=None,
        )
        await self._programs.run(
            "pg_basebackup",
            f"--pgdata={target}",
            f"--dbname={source}",
            f"--slot={slot_name(self._identity.node)}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-password",
            "--progress",
            *options,
            deadline_s=COPY_DEADLINE_S,
            env=self._environment(),
            on_error_text=_listener(progress),
        )

    async def rewind(
        self, upstream: Upstream, mark: Mark, *, progress: Progress | None = None
    ) -> RewindFailed | None:
        """Take back what the primary does not have. The server ended cleanly.

        A trial run comes first: it finds out most of what can go wrong and changes
        nothing. From then on the directory counts as unfinished until the rewind is
        done, and it already has the new data id of ``mark``.

        Returns:
            Why it is impossible here, nothing having been changed; None: done.

        Raises:
            PostgresError: It failed half-way. The directory must not be started.
        """
        await self.archive.hand_over()
        await self._config.write_passfile(upstream)
        try:
            found = await self._rewind(upstream, None, "--dry-run")
        except ProgramError as exc:
            if exc.timed_out or _is_connection_failure(exc.output.stderr):
                raise
            return RewindFailed(reason=str(exc))
        if NOT_REQUIRED in found.stdout + found.stderr:
            # It compares less than we do, and calls what it leaves as it is a success.
            return RewindFailed(reason="pg_rewind finds nothing to take back")
        await self._files.write(self._paths.work_flag, render_mark(mark))
        await self._files.write(self._mark_path, render_mark(mark))
        await self._rewind(upstream, progress)
        await self._files.write(self._mark_path, render_mark(mark))
        await self._files.run("end the rewind", self._finish_rewind)
        return None

    async def _rewind(
        self, upstream: Upstream, progress: Progress | None, *options: str
    ) -> Output:
        source = source_conninfo(
            upstream,
            user=self._identity.roles.rewind,
            passfile=str(self._paths.passfile),
            name=f"pgbastion rewind of {self._identity.node}",
            dbname="postgres",
        )
        # pg_rewind reads the new history from pg_control: only a real primary will do.
        return await self._programs.run(
            "pg_rewind",
            f"--target-pgdata={self._paths.data_dir}",
            f"--source-server={source} target_session_attrs=read-write",
            "--no-ensure-shutdown",
            "--progress",
            *await self._restore_options(),
            *options,
            deadline_s=REWIND_DEADLINE_S,
            env=self._environment(),
            on_error_text=_listener(progress),
        )

    async def _restore_options(self) -> tuple[str, ...]:
        if not await self._programs.setting("restore_command"):
            return ()
        if self._paths.config_dir is None:
            return ("--restore-target-wal",)
        if (await self._programs.version()).major < 15:
            return ()
        config = self._paths.config_dir / "postgresql.conf"
        return ("--restore-target-wal", f"--config-file={config}")

    def _environment(self) -> Mapping[str, str]:
        return {
            "PGPASSFILE": str(self._paths.passfile),
            "PGOPTIONS": "-c statement_timeout=0",
        }

    def _finish_rewind(self) -> None:
        # pg_rewind has synced the directory; the source's signals are not ours.
        remove_durably(self._paths.data_dir / "recovery.signal")
        remove_durably(self._paths.work_flag)

    @property
    def _mark_path(self) -> Path:
        return self._paths.data_dir / MARK_NAME


def _remove_tree(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _is_connection_failure(text: str) -> bool:
    """Tell whether a program could not talk to the primary: it is tried again."""
    return "connection to server" in text or "closed the connection" in text


def _listener(progress: Progress | None) -> Callable[[str], None] | None:
    if progress is None:
        return None

    def listen(text: str) -> None:
        if (step := parse_progress(text)) is not None:
            progress(*step)

    return listen
