"""Durable files of the server, written beside the event loop.

A file is replaced as a whole: temporary file, fsync, rename, fsync of the directory. A
reader sees the old or the new content, also after a power failure.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from pgbastion.directories import make_parents
from pgbastion.errors import PostgresError
from pgbastion.postgres.layout import Account

FILE_MODE: Final = 0o600
DIR_MODE: Final = 0o700
TEMPORARY_SUFFIX: Final = ".pgbastion-tmp"
# Removing or measuring a large directory takes its time.
TREE_DEADLINE_S: Final = 3600.0

T = TypeVar("T")


class Files:
    """Reads and writes files for one account, in two threads of its own.

    One does small files, one whole directory trees. What is asked for first is done
    first, also when nobody waits for it any more: on a file system that thaws, an old
    content must not come after a newer one.
    """

    def __init__(self, account: Account, *, deadline_s: float = 30.0) -> None:
        self._account = account
        self._deadline_s = deadline_s
        self._small = ThreadPoolExecutor(1, thread_name_prefix="pg-files")
        self._trees = ThreadPoolExecutor(1, thread_name_prefix="pg-trees")

    def close(self) -> None:
        """Give the threads back without waiting for one that hangs."""
        self._small.shutdown(wait=False, cancel_futures=True)
        self._trees.shutdown(wait=False, cancel_futures=True)

    async def write(self, path: Path, content: str, *, keep_mode: bool = False) -> None:
        """Replace ``path`` by ``content``, durably; a no-op where it has it already.

        Args:
            path: The file.
            content: What it is to hold.
            keep_mode: Leave the mode of a file that exists as somebody chose it.
        """
        await self.run(f"write {path}", lambda: self._write(path, content, keep_mode))

    async def read(self, path: Path) -> str | None:
        """Return the content of ``path``, or None where there is no such file."""
        return await self.run(f"read {path}", lambda: _read(path))

    async def remove(self, path: Path) -> None:
        """Remove ``path`` durably, if it is there."""
        await self.run(f"remove {path}", lambda: remove_durably(path))

    async def make_dir(self, path: Path, mode: int = DIR_MODE) -> None:
        """Make the directory with its owner and mode; parents must exist."""
        await self.run(f"make {path}", lambda: make_dir(path, self._account, mode))

    async def run(self, what: str, work: Callable[[], T]) -> T:
        """Do ``work`` on small files in a thread, under the deadline.

        Raises:
            PostgresError: It failed, or did not end in time (it may still end later).
        """
        return await _in_thread(self._small, what, work, self._deadline_s)

    async def run_on_tree(self, what: str, work: Callable[[], T]) -> T:
        """Do ``work`` on a directory tree in a thread.

        Raises:
            PostgresError: It failed, or did not end in time (it may still end later).
        """
        return await _in_thread(self._trees, what, work, TREE_DEADLINE_S)

    def _write(self, path: Path, content: str, keep_mode: bool) -> None:  # noqa: FBT001
        old = _read(path)
        mode = FILE_MODE
        if old is not None:
            found = path.lstat()
            mode = stat.S_IMODE(found.st_mode) if keep_mode else FILE_MODE
            right = (found.st_uid, stat.S_IMODE(found.st_mode)) == (
                self._account.uid,
                mode,
            )
            if old == content and right:
                return
        write_durably(path, content, self._account, mode)


async def _in_thread(
    threads: ThreadPoolExecutor, what: str, work: Callable[[], T], deadline_s: float
) -> T:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(deadline_s):
            return await loop.run_in_executor(threads, work)
    except TimeoutError as exc:
        raise PostgresError(f"cannot {what}: the disk did not answer") from exc
    except (OSError, UnicodeError) as exc:
        raise PostgresError(f"cannot {what}: {exc}") from exc


def write_durably(
    path: Path, content: str, account: Account, mode: int = FILE_MODE
) -> None:
    """Replace ``path`` by ``content``; afterwards a power failure keeps it.

    Raises:
        OSError: The file system refused.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with suppress(FileNotFoundError):
        temporary.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    handle = os.open(temporary, flags, FILE_MODE)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        if account.is_other:
            os.fchown(file.fileno(), account.uid, account.gid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_dir(path.parent)


def remove_durably(path: Path) -> None:
    """Remove ``path`` if it is there; a power failure does not bring it back."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Make the entries of a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_dir(path: Path, account: Account, mode: int = DIR_MODE) -> None:
    """Make the directory ``path`` for ``account``, or give it one that exists."""
    make_parents(path)
    path.mkdir(mode=mode, exist_ok=True)
    found = path.stat()
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
    if account.is_other and found.st_uid != account.uid:
        os.chown(path, account.uid, account.gid)


def _read(path: Path) -> str | None:
    # The directory belongs to os_user: root must not be led elsewhere by a link in it.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read()
