"""Faults of the demonstration on every platform: what it lacks costs no row."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbastion.cli.commands.service import Fault
from pgbastion.platform.choice import NO_PIDFD, PORTABLE, VARIABLE

PROGRAM = str(Path(sys.executable).with_name("pgbastion"))
ONCE_S = 150

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

of_the_matrix = pytest.mark.skipif(
    not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not run: root may cut")


def runs() -> Iterator[Any]:
    """Yield platforms and faults; one of them is no part of the matrix."""
    for platform in (PORTABLE, NO_PIDFD):
        for fault in Fault:
            marks = []
            if (platform, fault) != (PORTABLE, Fault.POSTMASTER):
                marks.append(of_the_matrix)
            if fault is Fault.CUT:
                marks.append(needs_root)
            yield pytest.param(platform, fault.value, marks=marks)


@pytest.mark.parametrize(("platform", "fault"), list(runs()))
def test_no_row_is_lost_without_what_linux_has(platform: str, fault: str) -> None:
    done = subprocess.run(
        [PROGRAM, "demo", "--once", "--fault", fault, "--profile", "normal"],
        capture_output=True,
        text=True,
        timeout=ONCE_S,
        check=False,
        env={**os.environ, VARIABLE: platform},
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["lost_rows"] == 0
    same = result["new_primary"] == result["old_primary"]
    assert same == (fault == Fault.STANDBY)
