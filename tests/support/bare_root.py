"""A root directory in which no Python is installed, to run what was distributed."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = (
    *("sh", "tar", "gzip", "mkdir", "mv", "rm", "rmdir", "uname", "id", "tail"),
    *("mktemp", "chmod", "install"),
)
# What a C library opens by itself, and so ldd does not name.
LIBRARIES = (
    *("libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"),
    *("libresolv.so.2", "libnss_files.so.2", "libm.so.6", "libcrypt.so.1"),
)
DEVICES = {"null": (1, 3), "random": (1, 8), "urandom": (1, 9)}


@contextmanager
def bare_root(root: Path) -> Iterator[Path]:
    """Make the directory with a shell, the C library, and the kernel's file systems."""
    for name in (
        "bin",
        "etc",
        "tmp",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/info",
        "dev",
    ):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/lib/dpkg/status").touch()
    for program in PROGRAMS:
        _carry(root, Path(str(shutil.which(program))), root / "bin" / program)
    (libc,) = (p for p in _needed(Path("/bin/sh")) if p.name == "libc.so.6")
    for library in LIBRARIES:
        if (libc.parent / library).exists():
            _copy(root, libc.parent / library)
    for name in ("passwd", "group"):
        shutil.copy(Path("/etc") / name, root / "etc" / name)
    for name, (major, minor) in DEVICES.items():
        os.mknod(root / "dev" / name, 0o666 | 0o020000, os.makedev(major, minor))
        (root / "dev" / name).chmod(0o666)
    with ExitStack() as mounted:
        for kind, place in (("proc", "proc"), ("tmpfs", "run")):
            (root / place).mkdir()
            subprocess.run(["mount", "-t", kind, kind, str(root / place)], check=True)
            mounted.callback(
                subprocess.run, ["umount", "-l", str(root / place)], check=True
            )
        yield root


def _carry(root: Path, program: Path, target: Path) -> None:
    shutil.copy(program.resolve(), target)
    for library in _needed(program):
        _copy(root, library)


def _needed(program: Path) -> list[Path]:
    said = subprocess.run(
        ["ldd", str(program)], capture_output=True, text=True, check=True
    ).stdout
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", said)]


def _copy(root: Path, library: Path) -> None:
    target = root / library.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(library.resolve(), target)
