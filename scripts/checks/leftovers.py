"""Finds and ends processes that a layer of checks has left behind on the machine.

A process is ours when its environment carries this run's name, or when it works below
this run's directory (PostgreSQL overwrites its environment, but works in its data).
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

RUN_VARIABLE: Final = "PGBASTION_TEST_RUN"
# Processes that are just ending get this long before they count.
SETTLE_S: Final = 3.0
GONE_S: Final = 10.0
LOOK_S: Final = 0.1


class Process(NamedTuple):
    """A process that runs."""

    pid: int
    command: str


class Leftovers:
    """The processes of the run that works in ``scratch``."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def remove(self) -> list[str]:
        """End what was left behind; return what it was, one line each."""
        deadline = time.monotonic() + SETTLE_S
        while (found := self._look()) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        self._kill()
        return [f"process {process.pid}: {process.command}" for process in found]

    def _look(self) -> list[Process]:
        """Return who is there; who sees nobody looks once more.

        A process that is just being replaced by another program shows no environment.
        """
        found = list(self._processes())
        if not found:
            time.sleep(LOOK_S)
            found = list(self._processes())
        return found

    def _kill(self) -> None:
        deadline = time.monotonic() + GONE_S
        while (found := list(self._processes())) and time.monotonic() < deadline:
            for process in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.1)

    def _processes(self) -> Iterator[Process]:
        mark = f"{RUN_VARIABLE}={self._scratch.name}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if self._is_ours(entry, mark):
                    yield _process(entry)
            except OSError:
                continue

    def _is_ours(self, entry: Path, mark: bytes) -> bool:
        with contextlib.suppress(PermissionError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                return True
        with contextlib.suppress(PermissionError):
            return (entry / "cwd").readlink().is_relative_to(self._scratch)
        return False


def _process(entry: Path) -> Process:
    status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    fields = status.rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError
    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
    return Process(int(entry.name), words.decode("utf-8", "replace").strip()[:120])
