"""A laboratory leaves nothing behind, also when it was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.leftovers import remove_leftovers
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.waits import PROCESS_GONE_S, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]

PLAN = Plan(own_disk=frozenset({"n1"}))
# Builds a laboratory, starts a program on n1 that works in its files, and waits.
ABANDONED = """
import subprocess, sys, time
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.settings import Plan
with Lab(Plan(own_disk=frozenset({"n1"}))) as lab:
    node = lab.node("n1")
    sleeper = subprocess.Popen(
        [*lab.network.command("n1"), "sleep", "600"], cwd=node.directory
    )
    if "n1" in lab.disks:
        lab.disks["n1"].freeze()
    print(lab.directory, sleeper.pid, flush=True)
    time.sleep(600)
"""


def namespaces_of(directory: Path) -> list[Path]:
    tag = directory.name.rpartition("-")[2]
    return list(Path("/run/netns").glob(f"pgb-{tag}-*"))


def test_a_laboratory_removes_hosts_disks_and_files_at_its_end() -> None:
    try:
        with Lab(PLAN) as lab:
            directory = lab.directory
            assert namespaces_of(directory)
    except CannotRun as why:
        pytest.skip(f"not run: {why}")

    assert not directory.exists()
    assert namespaces_of(directory) == []


def test_the_next_laboratory_clears_up_after_one_that_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ABANDONED], stdout=subprocess.PIPE, text=True
    ) as abandoned:
        assert abandoned.stdout is not None
        line = abandoned.stdout.readline().split()
        if not line:
            pytest.skip("not run: a laboratory cannot be built here")
        os.kill(abandoned.pid, signal.SIGKILL)
    directory, sleeper = Path(line[0]), processes.find(int(line[1]))
    assert sleeper is not None

    remove_leftovers()

    wait_for("its process", lambda: not processes.is_alive(sleeper), PROCESS_GONE_S)
    assert not directory.exists()
    assert namespaces_of(directory) == []


def test_the_logs_of_a_laboratory_that_failed_are_kept(tmp_path: Path) -> None:
    lab = Lab(PLAN, keep_logs_in=tmp_path)

    def fail() -> None:
        with lab:
            lab.node("n1").log.write_text("last words")
            raise LabError("broken")

    try:
        with pytest.raises(LabError, match="broken"):
            fail()
    except CannotRun as why:
        pytest.skip(f"not run: {why}")

    assert lab.kept is not None
    assert (lab.kept / "n1.log").read_text() == "last words"
    assert not (lab.kept / "secret").exists()
