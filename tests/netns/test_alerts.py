"""Every shipped alert fires in a real fault of a real cluster, and clears after it.

Prometheus itself scrapes the nodes and evaluates the rules. Only long waits are cut
short: support/prometheus.py says which.
"""

import os
import sys
from collections.abc import Iterator

import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.settings import Plan
from support.alert_faults import (
    ADDRESSES,
    FAULTS,
    Fault,
    Labels,
    plug_spare_interfaces,
    use_certificates,
)
from support.lab_faults import KEPT_LOGS
from support.prometheus import Prometheus

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
]

# The longest wait of a rule is an hour, which lasts a minute here; a member is silent
# for half a minute before the half minute of its rule begins.
FIRES_S = 120.0
CLEARS_S = 120.0


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[Lab, Prometheus]]:
    plan = Plan(own_disk=frozenset({"n1", "n2", "n3"}), vip=ADDRESSES)
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            use_certificates(lab)
            plug_spare_interfaces(lab)
            lab.start()
            with Prometheus(lab).running() as prometheus:
                yield lab, prometheus
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def wait_until_clear(prometheus: Prometheus) -> None:
    waits.wait_for("no alert", lambda: not prometheus.firing(), CLEARS_S)


def wait_until_fires(prometheus: Prometheus, name: str, labels: Labels) -> None:
    wanted = {"alertname": name, **labels}.items()

    def fires() -> bool:
        return any(wanted <= found.items() for found in prometheus.firing())

    waits.wait_for(f"{name} {labels}", fires, FIRES_S)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_alerts_fire_in_their_fault_and_clear_after_it(
    watched: tuple[Lab, Prometheus], fault: Fault
) -> None:
    lab, prometheus = watched
    lab.wait_steady()
    wait_until_clear(prometheus)

    with fault(lab) as expected:
        assert set(expected) == set(FAULTS[fault])
        for name, labels in expected.items():
            wait_until_fires(prometheus, name, labels)
            sys.stdout.write(f"fires: {name} {labels}\n")

    wait_until_clear(prometheus)
