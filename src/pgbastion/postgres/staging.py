"""Build a data directory beside the old one, then put it in its place.

Where the data directory can be renamed, the new one is built next to it and two renames
exchange them. Where it cannot (a mount point, or a parent that is not ours), the new one
is built in a directory inside and its entries are moved up, ``global`` last: without
pg_control a server does not start. Either way an interrupted attempt is recognised, and
the old directory is untouched until the new one is complete.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.postgres.files import Files, make_dir, sync_dir
from pgbastion.postgres.layout import PgPaths

NEW_SUFFIX: Final = ".pgbastion-new"
OLD_SUFFIX: Final = ".pgbastion-old"
INSIDE_NEW: Final = "pgbastion.new"
INSIDE_OLD: Final = "pgbastion.old"
_HARMLESS: Final = frozenset({"lost+found"})
LAST: Final = "global"


class Staging:
    """One attempt to replace (or make) the data directory of a stopped server."""

    def __init__(self, paths: PgPaths, files: Files) -> None:
        self._paths = paths
        self._files = files
        self._data = paths.data_dir
        self._beside = can_rename(paths.data_dir)
        if self._beside:
            self.path = self._data.with_name(self._data.name + NEW_SUFFIX)
            self.old = self._data.with_name(self._data.name + OLD_SUFFIX)
        else:
            self.path = self._data / INSIDE_NEW
            self.old = self._data / INSIDE_OLD

    async def begin(self, *, replace: bool) -> None:
        """Make an empty staging directory; leftovers of an earlier attempt go.

        Args:
            replace: Whether the data directory may hold a cluster.

        Raises:
            PostgresError: It is not empty and must be, or cannot be written.
        """
        await self._files.run(f"prepare {self.path}", lambda: self._begin(replace))

    async def install(self, *, keep_old: bool = False) -> None:
        """Put the staging directory in the place of the data directory.

        Args:
            keep_old: Leave the old content at ``old`` instead of removing it. Inside a
                mount point it never stays: a base backup of this server would carry it.
        """
        await self._files.run(f"install {self.path}", self._install)
        if not (keep_old and self._beside):
            await self.remove_old()

    async def repair(self) -> None:
        """Undo an exchange that was cut short between its two renames."""
        await self._files.run(f"repair {self._data}", self._repair)

    async def wipe(self) -> None:
        """Remove the content of the data directory, for want of room for two."""
        await self._files.run(f"empty {self._data}", lambda: _wipe(self._data))

    async def abandon(self) -> None:
        """Remove the staging directory."""
        await self._files.run(f"remove {self.path}", lambda: _remove_tree(self.path))

    async def remove_old(self) -> None:
        """Remove the directory that was replaced."""
        await self._files.run(f"remove {self.old}", lambda: _remove_tree(self.old))

    def _begin(self, replace: bool) -> None:  # noqa: FBT001 - a thread's entry
        self._repair()
        _remove_tree(self.path)
        make_dir(self._data, self._paths.account)
        if not replace and not is_empty(self._data):
            raise PostgresError(f"{self._data} is not empty")
        make_dir(self.path, self._paths.account)

    def _repair(self) -> None:
        if self._beside and not self._data.exists() and self.old.exists():
            self.old.rename(self._data)
            sync_dir(self._data.parent)

    def _install(self) -> None:
        sync_tree_root(self.path)
        _remove_tree(self.old)
        if self._beside:
            if not is_empty(self._data):
                self._data.rename(self.old)
            self.path.rename(self._data)
            sync_dir(self._data.parent)
            return
        make_dir(self.old, self._paths.account)
        _move_entries(self._data, self.old, first=LAST)
        sync_dir(self._data)
        _move_entries(self.path, self._data, last=LAST)
        sync_dir(self._data)
        self.path.rmdir()


def can_rename(data_dir: Path) -> bool:
    """Tell whether the directory itself can be exchanged by a rename."""
    if data_dir.is_symlink() or data_dir.is_mount():
        return False
    return os.access(data_dir.parent, os.W_OK | os.X_OK)


def is_empty(data_dir: Path) -> bool:
    """Tell whether a directory holds nothing of anybody; an absent one is empty.

    Raises:
        OSError: It cannot be read, which is not the same as empty (SAFETY rule 42).
    """
    try:
        names = set(os.listdir(data_dir))  # noqa: PTH208 - only the names
    except FileNotFoundError:
        return True
    return not names - _HARMLESS - {INSIDE_NEW, INSIDE_OLD}


def is_unfinished(data_dir: Path) -> bool:
    """Tell whether an attempt inside the directory was cut short while moving."""
    return (data_dir / INSIDE_NEW).exists() and not (data_dir / LAST).exists()


def sync_tree_root(path: Path) -> None:
    """Make a finished tree durable: initdb and pg_basebackup have synced its files."""
    sync_dir(path)
    sync_dir(path.parent)


def _move_entries(
    source: Path, target: Path, *, first: str = "", last: str = ""
) -> None:
    skipped = _HARMLESS | {INSIDE_NEW, INSIDE_OLD}
    names = [name for name in os.listdir(source) if name not in skipped]  # noqa: PTH208
    for name in sorted(names, key=lambda n: (n != first, n == last, n)):
        (source / name).rename(target / name)


def _wipe(data_dir: Path) -> None:
    # Without pg_control nothing takes what is left for a cluster.
    _remove_tree(data_dir / LAST)
    sync_dir(data_dir)
    for entry in sorted(data_dir.iterdir()):
        if entry.name in _HARMLESS:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    sync_dir(data_dir)


def _remove_tree(path: Path) -> None:
    if path.is_symlink():
        raise PostgresError(f"{path} is a symbolic link: not removed")
    if path.exists():
        shutil.rmtree(path)
