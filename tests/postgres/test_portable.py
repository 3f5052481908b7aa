"""Faults where processes are watched without pidfds, as on a kernel that has none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgbastion.platform.choice import PORTABLE, VARIABLE

PROGRAM = str(Path(sys.executable).with_name("pgbastion"))
ONCE_S = 150

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
]


@pytest.mark.parametrize("fault", ["postmaster", "daemon"])
def test_no_row_is_lost_where_processes_are_watched_by_looking(fault: str) -> None:
    done = subprocess.run(
        [PROGRAM, "demo", "--once", "--fault", fault, "--profile", "normal"],
        capture_output=True,
        text=True,
        timeout=ONCE_S,
        check=False,
        env={**os.environ, VARIABLE: PORTABLE},
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["lost_rows"] == 0
    assert result["new_primary"] != result["old_primary"]
