"""A systemd of a test's own, which runs the shipped unit.

It is one for a user (``systemd --user``) in a mount namespace with a ``/run`` of its
own, below a control group of its own: it sees nothing of the machine's, and leaves
nothing.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.processes import Process
from pgbastion.cli.unit import render_unit

SYSTEMD: Final = Path("/usr/lib/systemd/systemd")
UNIT: Final = "pgbastion.service"
PROGRAM: Final = Path(sys.executable).with_name("pgbastion")
GROUPS: Final = Path("/sys/fs/cgroup/systemd")
COMMAND_S: Final = 150.0
BOOTED_S: Final = 15.0
ENDED_S: Final = 30.0

ENTER: Final = """
echo $$ > "$1/cgroup.procs"
exec unshare --mount --cgroup --propagation private sh -ec "$2" "$0"
"""
# What sd_booted(3) looks for; the rest of /run is this one's alone, and a change of
# /etc or /root too. A service that is not root has to reach the socket that it reports
# to, and a Python that may lie below root's home.
BEGIN: Final = """
umask 0
mount -t tmpfs -o mode=755 tmpfs /run
for name in etc root; do
    mkdir -m 755 /run/$name /run/$name.work
    mount -t overlay -o "lowerdir=/$name,upperdir=/run/$name,workdir=/run/$name.work" \
        overlay /$name
    chmod 755 /$name
done
mkdir -m 755 /run/systemd /run/systemd/system /run/systemd/inaccessible
# What hides a path from a service; a systemd for a user makes its own elsewhere.
cd /run/systemd/inaccessible
touch reg
mkdir dir
mkfifo fifo
mknod chr c 0 0
mknod blk b 0 0
cd /
exec "$0" --user --log-target=console
"""


class Systemd:
    """Runs the unit of one node of a laboratory.

    Args:
        lab: The laboratory.
        node: The node.
        drop_in: Text that goes beside the unit; empty: nothing.
    """

    def __init__(self, lab: Lab, node: Node, *, drop_in: str = "") -> None:
        self.lab, self.node = lab, node
        self._drop_in = drop_in
        self._home = lab.directory / "home"
        self._log = lab.directory / "systemd.log"
        self._manager: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator["Systemd"]:
        """Run it until the block ends; skip the test where it cannot be had."""
        if os.geteuid() != 0 or not SYSTEMD.exists() or not GROUPS.is_dir():
            pytest.skip("not run: a systemd of its own needs root, systemd and cgroups")
        self._install()
        group = GROUPS / f"pgb-test-{secrets.token_hex(4)}"
        group.mkdir()
        try:
            with self._log.open("wb") as log:
                self._manager = subprocess.Popen(
                    ["sh", "-ec", ENTER, str(SYSTEMD), str(group), BEGIN],
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/",
                    env=self._environment,
                )  # fmt: skip
            waits.wait_for("systemd", self._is_up, BOOTED_S)
            yield self
        finally:
            self._end()
            _remove(group)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command where it sees what the service sees."""
        assert self._manager is not None
        return subprocess.run(
            ["nsenter", "--target", str(self._manager.pid), "--mount", *command],
            env=self._environment, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip

    def control(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run ``systemctl``."""
        return self.run("systemctl", "--user", *words)

    def done(self, *words: str) -> None:
        """Run ``systemctl`` and fail when it does."""
        found = self.control(*words)
        assert found.returncode == 0, (
            f"{found.stderr}{self.show('ExecMainStatus')}\n{self.log()}"
        )

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.control(
            "show", UNIT, f"--property={name}", "--value"
        ).stdout.strip()

    def daemon(self) -> Process | None:
        """Return the daemon that it knows as the main process."""
        pid = int(self.show("MainPID") or 0)
        return processes.find(pid) if pid else None

    def log(self) -> str:
        """Return what it and the daemon have said."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),
            # As the machine's own has it: the unit's RuntimeDirectory lies here.
            "XDG_RUNTIME_DIR": "/run",
        }

    def _install(self) -> None:
        """Write the unit as it is shipped, with the program that is tested."""
        units = self._home / ".config/systemd/user"
        extra = units / f"{UNIT}.d"
        extra.mkdir(parents=True)
        (units / UNIT).write_text(render_unit(PROGRAM))
        (extra / "way.conf").write_text(self._drop_in)
        (extra / "config.conf").write_text(
            f"[Service]\nEnvironment=PGBASTION_CONFIG={self.node.config}\n"
            f"StandardError=append:{self.node.log}\n"
        )

    def _is_up(self) -> bool:
        assert self._manager is not None
        if self._manager.poll() is not None:
            raise LabError(f"systemd ended: {self.log()[-500:]}")
        return self.control("is-system-running").stdout.strip() in (
            "running",
            "degraded",
        )

    def _end(self) -> None:
        if self._manager is None:
            return
        self.control("kill", "--signal=KILL", UNIT)
        self.node.kill()
        self._manager.terminate()
        try:
            self._manager.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self._manager.kill()
            self._manager.wait()


def has_systemd() -> bool:
    """Tell whether there is anything to run."""
    return SYSTEMD.exists() and shutil.which("systemctl") is not None


def _remove(group: Path) -> None:
    """Remove a control group and those below; whoever is left in one is killed."""

    def empty() -> bool:
        inner = sorted(group.rglob("cgroup.procs"), reverse=True)
        pids = [int(p) for file in inner for p in file.read_text().split()]
        processes.kill(p for p in map(processes.find, pids) if p is not None)
        return not pids

    waits.wait_for("an empty control group", empty, ENDED_S)
    for folder in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
        folder.rmdir()
    group.rmdir()
