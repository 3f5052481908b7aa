"""The wrong wall clock of the laboratory is wrong, and the other clocks are right."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.wall_clock import wrong_clock

_CLOCKS = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))"


@pytest.mark.slow
def test_the_wall_clock_alone_is_an_hour_off(tmp_path: Path) -> None:
    try:
        environment = wrong_clock(tmp_path, 3600)
    except CannotRun as why:
        pytest.skip(f"not run: {why}")

    out = subprocess.run(
        [sys.executable, "-c", _CLOCKS],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    wall, boot = map(float, out.split())
    assert wall - time.time() == pytest.approx(3600, abs=5)
    assert boot - time.clock_gettime(time.CLOCK_BOOTTIME) == pytest.approx(0, abs=5)
