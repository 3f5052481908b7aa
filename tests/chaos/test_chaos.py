"""Random faults on real nodes, and a history of appends that has to fit the end."""

import secrets
import sys

import pytest

from pgbastion.bench.chaos import run_chaos
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.settings import Plan
from support.lab_faults import KEPT_LOGS

MINUTES = 5
NAMES = ("n1", "n2", "n3")
STEERED = Plan(own_disk=frozenset(NAMES), clock_off_s=dict.fromkeys(NAMES, 0))

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1_500)]


def test_random_faults_lose_double_and_reorder_nothing() -> None:
    seed = secrets.randbelow(1 << 31)
    again = f"python -m pgbastion.bench chaos --seed {seed} --minutes {MINUTES}"
    sys.stdout.write(f"repeat: {again}\n")
    try:
        with Lab(STEERED, KEPT_LOGS) as lab:
            lab.start()
            finding = run_chaos(lab, seed=seed, seconds=MINUTES * 60)
            sys.stdout.write(f"{finding}\n")
            assert finding.clean, f"{finding}\nrepeat: {again}\n{lab.keep_logs()}"
    except CannotRun as why:
        pytest.skip(f"not run: {why}")
    assert finding.acknowledged
