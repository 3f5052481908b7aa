"""Build a data directory beside the old one, then put it in its place.

Where the data directory can be renamed, the new one is built next to it and one atomic
exchange of names swaps them. Where it cannot (a mount point, or a parent that is not
ours), the new one is built in a directory inside and its entries are moved up,
``global`` last: without pg_control a server does not start. A list of the new entries,
durable before the first move, lets `repair` finish what was cut short.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.platform.choice import current
from pgbastion.postgres.files import (
    Files,
    make_dir,
    remove_durably,
    sync_dir,
    write_durably,
)
from pgbastion.postgres.layout import PgPaths

NEW_SUFFIX: Final = ".pgbastion-new"
OLD_SUFFIX: Final = ".pgbastion-old"
INSIDE_NEW: Final = "pgbastion.new"
INSIDE_OLD: Final = "pgbastion.old"
EMPTIED: Final = "pgbastion.emptied"
"""In a data directory that was emptied for a copy: what it had elsewhere."""
LEFTOVERS: Final = frozenset({"lost+found", INSIDE_NEW, INSIDE_OLD, EMPTIED})
"""A directory with nothing but these is empty."""
LAST: Final = "global"
COMPLETE: Final = "pgbastion.complete"
"""In the staging directory: the names of its entries, once all are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What a data directory has outside of itself."""

    tablespaces: list[Path]
    """A copy that fails leaves files there, and the next needs those places empty."""
    wal: Path | None
    """Where directories of WAL are made; None: in the data directory."""


class Staging:
    """One attempt to replace (or make) the data directory of a stopped server."""

    def __init__(self, paths: PgPaths, files: Files, *, beside: bool) -> None:
        self._paths = paths
        self._files = files
        self._data = paths.data_dir
        self._beside = beside
        if beside:
            self.path = self._data.with_name(self._data.name + NEW_SUFFIX)
            self.old = self._data.with_name(self._data.name + OLD_SUFFIX)
        else:
            self.path = self._data / INSIDE_NEW
            self.old = self._data / INSIDE_OLD

    @classmethod
    async def of(cls, paths: PgPaths, files: Files) -> "Staging":
        """Choose the place for a new directory by what the file system can do."""
        data_dir = paths.data_dir
        beside = await files.run(
            f"look at {data_dir.parent}", lambda: can_rename(data_dir)
        )
        return cls(paths, files, beside=beside)

    async def begin(self, *, replace: bool) -> None:
        """Make an empty staging directory; leftovers of an earlier attempt go.

        Args:
            replace: Whether the data directory may hold a cluster.

        Raises:
            PostgresError: It is not empty and must be, or cannot be written.
        """
        await self._files.run_on_tree(
            f"prepare {self.path}", lambda: self._begin(replace)
        )

    async def install(self, *, keep_old: bool = False) -> None:
        """Put the staging directory in the place of the data directory.

        Args:
            keep_old: Leave the old content at ``old`` instead of removing it. Inside a
                mount point it never stays: a base backup of this server would carry it.
        """
        await self._files.run_on_tree(f"install {self.path}", self._install)
        if not (keep_old and self._beside):
            await self.remove_old()

    async def wipe(self, elsewhere: Elsewhere) -> None:
        """Remove the content of the data directory, for want of room for two.

        A note stays in it: it is not empty because a file system is not mounted.
        """
        note = json.dumps(
            {
                "tablespaces": [str(path) for path in elsewhere.tablespaces],
                "wal": str(elsewhere.wal or ""),
            }
        )
        await self._files.write(self._data / EMPTIED, note)
        await self._files.run_on_tree(f"empty {self._data}", lambda: _wipe(self._data))

    async def abandon(self) -> None:
        """Remove the staging directory."""
        await self._files.run_on_tree(
            f"remove {self.path}", lambda: _remove_tree(self.path)
        )

    async def remove_old(self) -> None:
        """Remove the directory that was replaced."""
        await self._files.run_on_tree(
            f"remove {self.old}", lambda: _remove_tree(self.old)
        )

    def _begin(self, replace: bool) -> None:  # noqa: FBT001 - a thread's entry
        if not self._beside:
            self.repair()
        _remove_tree(self.path)
        make_dir(self._data, self._paths.account)
        if not replace and not is_empty(self._data):
            raise PostgresError(f"{self._data} is not empty")
        make_dir(self.path, self._paths.account)

    def repair(self) -> None:
        """Finish an installation that was cut short; runs in a thread."""
        if (self.path / COMPLETE).exists():
            self._move_in()

    def _install(self) -> None:
        sync_dir(self.path)
        _remove_tree(self.old)
        if self._beside:
            exchange(self.path, self._data)
            if is_empty(self.path):
                shutil.rmtree(self.path)
            else:
                self.path.rename(self.old)
            sync_dir(self._data.parent)
            return
        names = json.dumps(sorted(os.listdir(self.path)))  # noqa: PTH208
        write_durably(self.path / COMPLETE, names, self._paths.account)
        self._move_in()

    def _move_in(self) -> None:
        """Move old entries out and new ones in; can be begun again at any point."""
        new = frozenset(json.loads((self.path / COMPLETE).read_text(encoding="utf-8")))
        make_dir(self.old, self._paths.account)
        present = set(os.listdir(self._data))  # noqa: PTH208
        for name in sorted(present - LEFTOVERS, key=lambda n: (n != LAST, n)):
            if name not in new or (self.path / name).exists():
                (self._data / name).rename(self.old / name)
        sync_dir(self._data)
        for name in sorted(new, key=lambda n: (n == LAST, n)):
            if (self.path / name).exists():
                (self.path / name).rename(self._data / name)
        remove_durably(self._data / EMPTIED)
        sync_dir(self._data)
        shutil.rmtree(self.path)


async def repair(paths: PgPaths, files: Files) -> None:
    """Finish an installation inside the data directory that was cut short."""
    staging = Staging(paths, files, beside=False)
    await files.run_on_tree(f"repair {paths.data_dir}", staging.repair)


def exchange(one: Path, other: Path) -> None:
    """Swap the names of two directories in one step.

    Raises:
        OSError: The file system cannot, or refused.
    """
    current().exchange(str(one), str(other))


def can_rename(data_dir: Path) -> bool:
    """Tell whether the directory itself can be exchanged by a rename."""
    if data_dir.is_symlink() or data_dir.is_mount():
        return False
    return os.access(data_dir.parent, os.W_OK | os.X_OK) and _can_exchange(data_dir)


def _can_exchange(data_dir: Path) -> bool:
    """Try it: some file systems do not know how to swap names."""
    trials = [data_dir.with_name(f"{data_dir.name}.pgbastion-{n}") for n in "ab"]
    try:
        for trial in trials:
            trial.mkdir(exist_ok=True)
        exchange(*trials)
    except OSError:
        return False
    finally:
        for trial in trials:
            if trial.exists():
                trial.rmdir()
    return True


def is_empty(data_dir: Path) -> bool:
    """Tell whether a directory holds nothing of anybody; an absent one is empty.

    Raises:
        OSError: It cannot be read, which is not the same as empty (safety rule 42).
    """
    try:
        names = set(os.listdir(data_dir))  # noqa: PTH208 - only the names
    except FileNotFoundError:
        return True
    return not names - LEFTOVERS


def emptied_of(data_dir: Path) -> Elsewhere | None:
    """Return what it had elsewhere that was removed for a copy; None: nothing was.

    Raises:
        OSError: The directory cannot be read.
    """
    try:
        note = json.loads((data_dir / EMPTIED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Elsewhere(
        tablespaces=[Path(path) for path in note["tablespaces"]],
        wal=Path(note["wal"]) if note["wal"] else None,
    )


def is_unfinished(data_dir: Path) -> bool:
    """Tell whether a copy was cut short after the directory had been emptied for it."""
    return (data_dir / INSIDE_NEW).exists() and not (data_dir / LAST).exists()


def _wipe(data_dir: Path) -> None:
    # Without pg_control nothing takes what is left for a cluster.
    _remove_tree(data_dir / LAST)
    sync_dir(data_dir)
    for entry in sorted(data_dir.iterdir()):
        if entry.name in LEFTOVERS:
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
