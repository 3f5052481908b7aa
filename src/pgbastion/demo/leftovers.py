"""Clears up after demonstrations that ended without doing so themselves.

Everything that a demonstration makes is found again from its directory: a file in it
names the process that made it, and every process of its nodes carries its tag.
"""

import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.network import MARK, NAME_PREFIX, remove_namespaces
from pgbastion.bench.lab.node import remove_run_directory
from pgbastion.bench.lab.processes import Process
from pgbastion.config.rundir import run_directory
from pgbastion.demo.files import NAMES, PREFIX, remove_directory
from pgbastion.errors import ConfigError

_OWNER: Final = "owner.json"


def tag_of(directory: Path) -> str:
    """Return what marks the processes and namespaces of a demonstration."""
    return f"demo-{directory.name.removeprefix(PREFIX)}"


def sign(directory: Path) -> None:
    """Note that this process owns the demonstration in ``directory``."""
    own = processes.find(os.getpid())
    assert own is not None, "this process runs"
    (directory / _OWNER).write_text(json.dumps([own.pid, own.started]))


def remove_leftovers() -> list[Path]:
    """Remove this user's demonstrations whose process has ended; return them."""
    removed = []
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = _owner(directory)
        if owner is not None and not processes.is_alive(owner):
            remove(directory)
            removed.append(directory)
    return removed


def remove(directory: Path) -> None:
    """End every process of a demonstration, and remove its files; idempotent."""
    tag = tag_of(directory)
    processes.kill_until_none(
        lambda: [
            *processes.marked(MARK, f"{NAME_PREFIX}{tag}-"),
            *processes.working_below(directory),
        ]
    )
    if os.geteuid() == 0:
        remove_namespaces(tag)
    for name in NAMES:
        _remove_run_files(name, directory / name / "raft")
    remove_directory(directory)


def _remove_run_files(name: str, raft_dir: Path) -> None:
    # Where this environment leads to, and where another one may have led.
    with suppress(ConfigError):
        own = run_directory(name, raft_dir, os.environ)
        shutil.rmtree(own, ignore_errors=True)
    remove_run_directory(name, raft_dir)


def _owner(directory: Path) -> Process | None:
    """Return who made it; None: another user, or it cannot be told: leave it alone."""
    with suppress(OSError, ValueError, TypeError):
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return None
        pid, started = json.loads((directory / _OWNER).read_text())
        return Process(pid, started)
    return None
