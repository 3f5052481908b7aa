"""Every shipped alert fires in a real fault of a real cluster, and clears after it.

Prometheus itself scrapes the nodes and evaluates the rules. Only long waits are cut
short: support/prometheus.py says which.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.settings import Plan
from support.alert_faults import (
    ADDRESSES,
    EXPLAINED,
    FAULTS,
    Expected,
    Fault,
    plug_spare_interfaces,
    use_certificates,
)
from support.lab_clients import text_of
from support.lab_faults import KEPT_LOGS
from support.prometheus import Prometheus
from support.simulated import steady

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
EXPLAINED_S = 30.0
GOLDEN = Path(__file__).parents[1] / "scenarios" / "explanations"
SUCCESSOR = re.compile(r"n1: n[23] would .* confirmed by 1 of n[23]$")
EACH = re.compile(r"\((n\d: [^()]*)\)")
HISTORY = ("  n1 is the primary since", "  why it was chosen")


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


def explained(lab: Lab) -> list[str]:
    """Return what the primary explains, with the names that the golden files have."""
    primary = lab.primary()
    text = text_of(lab, lab.node(primary), "/cluster/explain")
    others = sorted(name for name in lab.nodes if name != primary)
    # The fault is that of the first standby: names may be exchanged once each.
    names = dict(zip([primary, *others], ("n1", "n2", "n3"), strict=True))
    renamed = re.sub(r"\bn[123]\b", lambda found: names[found[0]], text)
    return comparable(map(steady, renamed.splitlines()))


def comparable(lines: Iterable[str]) -> list[str]:
    """Return an explanation without what is chance in the cluster that tells it.

    That is its history, which standby is furthest, and the members' order.
    """
    kept = (line for line in lines if not line.startswith(HISTORY))
    told = (SUCCESSOR.sub("n1: the other is the primary", line) for line in kept)
    return sorted(EACH.sub(_in_order, line) for line in told)


def _in_order(found: re.Match[str]) -> str:
    return f"({'; '.join(sorted(found[1].split('; ')))})"


def wait_until_clear(prometheus: Prometheus) -> None:
    waits.wait_for("no alert", lambda: not prometheus.firing(), CLEARS_S)


def wait_until_each_has_fired(prometheus: Prometheus, expected: Expected) -> None:
    """Wait for all of them together: one may be over before another begins."""
    missing = dict(expected)

    def all_have() -> bool:
        for found in prometheus.firing():
            name = found["alertname"]
            if name in missing and missing[name].items() <= found.items():
                sys.stdout.write(f"fires: {name} {missing.pop(name)}\n")
        return not missing

    try:
        waits.wait_for("the alerts", all_have, FIRES_S)
    except LabError as error:
        raise LabError(f"{error}: {missing}") from error


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_alerts_fire_in_their_fault_and_clear_after_it(
    watched: tuple[Lab, Prometheus], fault: Fault
) -> None:
    lab, prometheus = watched
    lab.wait_steady()
    wait_until_clear(prometheus)

    with fault(lab) as expected:
        assert set(expected) == set(FAULTS[fault])
        wait_until_each_has_fired(prometheus, expected)
        if fault in EXPLAINED:
            golden = (GOLDEN / f"{EXPLAINED[fault]}.txt").read_text(encoding="utf-8")
            waits.wait_for(
                f"as in {EXPLAINED[fault]}.txt: {explained(lab)}",
                lambda: explained(lab) == comparable(golden.splitlines()),
                EXPLAINED_S,
            )

    wait_until_clear(prometheus)
