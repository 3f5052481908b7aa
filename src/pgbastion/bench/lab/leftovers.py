"""Clear up after laboratories that died without doing so.

Everything that a laboratory makes carries its tag, the last part of its directory's
name, and a file in that directory names the process that made it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.network import MARK, NAME_PREFIX, remove_namespaces
from pgbastion.bench.lab.node import remove_run_directory
from pgbastion.bench.lab.processes import Process

PREFIX: Final = "pgb-lab-"
_OWNER: Final = "owner.json"


def sign(directory: Path) -> None:
    """Note that this process owns the laboratory in ``directory``."""
    own = processes.find(os.getpid())
    assert own is not None, "this process runs"
    (directory / _OWNER).write_text(json.dumps([own.pid, own.started]))


def remove_leftovers() -> None:
    """Remove every laboratory whose owner has ended, with all that runs in it."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = _owner(directory)
        if owner is not None and not processes.is_alive(owner):
            _remove(directory)


def _owner(directory: Path) -> Process | None:
    """Return who made the laboratory; None: it cannot be told, so leave it alone."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        pid, started = json.loads((directory / _OWNER).read_text())
        return Process(pid, started)
    return None


def _remove(directory: Path) -> None:
    tag = directory.name.removeprefix(PREFIX)
    mounted = [path for path in directory.iterdir() if path.is_mount()]
    for path in mounted:
        # Who waits for a frozen disk cannot be killed; one that is not frozen refuses.
        _try("fsfreeze", "--unfreeze", str(path))
    remove_namespaces(tag)
    processes.kill_until_none(lambda: processes.marked(MARK, f"{NAME_PREFIX}{tag}-"))
    processes.kill_until_none(lambda: processes.working_below(directory))
    for settings in directory.glob("*.yaml"):
        remove_run_directory(settings.stem, directory / settings.stem / "raft")
    for path in mounted:
        _try("umount", "--lazy", str(path))
    shutil.rmtree(directory, ignore_errors=True)


def _try(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)
