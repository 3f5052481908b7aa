"""WAL that waits for the archive, before anything removes it (safety rule 48).

A former primary has it, and as a standby it would drop it: there PostgreSQL archives
nothing, and takes every segment for archived (xlogarchive.c, XLogArchiveCheckDone).
"""

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.files import Files, make_dir, sync_dir
from pgbastion.postgres.layout import PgPaths
from pgbastion.postgres.programs import Programs

SEGMENT_DEADLINE_S: Final = 60.0
KEPT_SUFFIX: Final = ".pgbastion-unarchived"

log = get_logger("postgres")


class ArchiveBacklog:
    """The segments of one server that no archive has confirmed."""

    def __init__(self, paths: PgPaths, files: Files, programs: Programs) -> None:
        self._paths = paths
        self._files = files
        self._programs = programs

    async def hand_over(self) -> None:
        """Give every waiting segment to ``archive_command``.

        The first that is refused, and all after it, are copied to a directory beside
        the data directory instead: nothing is lost, and the node does not wait for the
        archive. Only for a stopped server.

        Raises:
            PostgresError: A segment could be neither archived nor copied.
        """
        waiting = await self._list()
        if not waiting or await self._programs.setting("archive_mode") == "off":
            return
        command = await self._programs.setting("archive_command")
        for number, name in enumerate(waiting):
            if not command or not await self._archive(command, name):
                await self._keep(waiting[number:])
                return
        log.info("wal_archived_before_rewind", segments=len(waiting))

    async def catch_up(self, goes_on: Callable[[], bool]) -> int:
        """Give the waiting segments of a running standby to ``archive_command``.

        Nothing is copied elsewhere: a standby keeps them for a while.

        Args:
            goes_on: Tells whether the server is a standby still. A primary archives.

        Returns:
            How many were archived. The first that is refused ends it.

        Raises:
            PostgresError: The files or settings cannot be read.
        """
        waiting = await self._list()
        # With "always" the standby archives them itself.
        if not waiting or await self._programs.setting("archive_mode") != "on":
            return 0
        command = await self._programs.setting("archive_command")
        for number, name in enumerate(waiting):
            if not (command and goes_on() and await self._archive(command, name)):
                return number
        return len(waiting)

    async def _list(self) -> list[str]:
        return await self._files.run("list unarchived WAL", self._waiting)

    async def _archive(self, command: str, name: str) -> bool:
        try:
            # The server runs the command in its data directory, through a shell.
            await self._programs.run(
                "/bin/sh",
                "-c",
                f"cd {shlex.quote(str(self._paths.data_dir))} && "
                + expand_command(command, name),
                deadline_s=SEGMENT_DEADLINE_S,
            )
        except PostgresError as exc:
            log.warning("wal_not_archived", segment=name, error=str(exc))
            return False
        await self._files.run(f"note {name}", lambda: self._note_done(name))
        return True

    async def _keep(self, names: list[str]) -> None:
        data_dir = self._paths.data_dir
        target = data_dir.with_name(data_dir.name + KEPT_SUFFIX)
        await self._files.run_on_tree(
            f"copy unarchived WAL to {target}", lambda: self._copy(names, target)
        )
        log.warning("wal_kept_for_archive", segments=len(names), directory=str(target))

    def _copy(self, names: list[str], target: Path) -> None:
        needed = sum((self._paths.wal_dir / name).stat().st_size for name in names)
        if shutil.disk_usage(target.parent).free < needed:
            raise PostgresError(f"there is no room for {len(names)} segments")
        make_dir(target, self._paths.account)
        for name in names:
            copied = shutil.copy2(self._paths.wal_dir / name, target / name)
            with Path(copied).open("rb") as file:
                os.fsync(file.fileno())
        sync_dir(target)

    def _waiting(self) -> list[str]:
        status = self._paths.wal_dir / "archive_status"
        return sorted(
            note.stem
            for note in status.glob("*.ready")
            if (self._paths.wal_dir / note.stem).exists()
        )

    def _note_done(self, name: str) -> None:
        status = self._paths.wal_dir / "archive_status"
        (status / f"{name}.ready").rename(status / f"{name}.done")


def expand_command(command: str, name: str) -> str:
    """Put a segment into ``archive_command``: ``%p`` its path, ``%f`` its name."""
    values = {"%p": f"pg_wal/{name}", "%f": name, "%%": "%"}
    parts: list[str] = []
    position = 0
    while position < len(command):
        pair = command[position : position + 2]
        parts.append(values.get(pair, command[position]))
        position += 2 if pair in values else 1
    return "".join(parts)
