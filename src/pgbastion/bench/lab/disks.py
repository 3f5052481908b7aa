"""A file system in a file, for a node whose disk is to freeze or to fill."""

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.errors import CannotRun, LabError

_NEEDED: Final = ("mkfs.ext4", "mount", "umount", "fsfreeze")
_COMMAND_S: Final = 30.0
_CHUNK: Final = 8 << 20


class LoopDisk:
    """An ext4 file system in ``image``, mounted at ``mount_point``."""

    def __init__(self, image: Path, mount_point: Path, size_bytes: int) -> None:
        """Make and mount it.

        Raises:
            CannotRun: A program is missing, or this user may not mount.
        """
        missing = [program for program in _NEEDED if shutil.which(program) is None]
        if missing:
            raise CannotRun(f"missing programs: {', '.join(missing)}")
        self._image = image
        self._mount_point = mount_point
        self._frozen = False
        with image.open("wb") as file:
            file.truncate(size_bytes)
        # No reserve for root: full has to be full for every user.
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        mount_point.mkdir(exist_ok=True)
        try:
            self.mount()
        except LabError as error:
            raise CannotRun(f"no loop mounts here: {error}") from error

    def mount(self) -> None:
        """Mount it, as at its making."""
        _run("mount", "-o", "loop", str(self._image), str(self._mount_point))

    def unmount(self) -> None:
        """Leave the bare mount point; nobody may use it."""
        _run("umount", str(self._mount_point))

    def freeze(self) -> None:
        """Let every write block until `thaw`."""
        _run("fsfreeze", "--freeze", str(self._mount_point))
        self._frozen = True

    def thaw(self) -> None:
        """Let writes go on; idempotent."""
        if self._frozen:
            _run("fsfreeze", "--unfreeze", str(self._mount_point))
            self._frozen = False

    def fill(self) -> None:
        """Take all space that is left."""
        fill(self._ballast)

    def fill_to(self, share: float) -> None:
        """Take so much of the space that ``share`` of the disk is used."""
        size = shutil.disk_usage(self._mount_point)
        wanted = int(share * size.total) - size.used
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(wanted, 1))

    def empty(self) -> None:
        """Give the space back; idempotent."""
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount and delete it, also when it is frozen; idempotent."""
        self.thaw()
        if self._mount_point.is_mount():
            _run("umount", "--lazy", str(self._mount_point))
        self._image.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self._mount_point / "ballast"


def fill(ballast: Path) -> None:
    """Let a file take all space that is left on its file system."""
    with ballast.open("ab", buffering=0) as file:
        for size in (_CHUNK, 4096, 1):
            with contextlib.suppress(_NoSpace):
                while True:
                    _write(file.fileno(), size)


class _NoSpace(Exception):  # noqa: N818 - it is what `fill` waits for
    pass


def _write(descriptor: int, size: int) -> None:
    try:
        os.write(descriptor, bytes(size))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _NoSpace from error
        raise


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_COMMAND_S
        )
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}: {error.stderr.strip()}") from error
