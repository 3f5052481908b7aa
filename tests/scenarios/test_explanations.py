"""What simulated clusters say of themselves, each brought into a situation."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import pytest

from pgbastion.control.explain import explain
from pgbastion.control.explain_text import LINES_MAX, render_explanation
from pgbastion.model.report import Disk, Vitals
from pgbastion.model.snapshot import CertificateSnapshot, NodeSnapshot
from pgbastion.testing.sim.scripts import THREE
from support.simulated import staged, steady, take
from support.situations import SITUATIONS, healthy

DAY_S = 86_400
Change = Callable[[NodeSnapshot], NodeSnapshot]


def _reporting(names: Collection[str], **facts: object) -> Change:
    """Return a change: these nodes report that, beside what the cluster brought."""

    def change(snapshot: NodeSnapshot) -> NodeSnapshot:
        reports = {
            name: replace(received, report=replace(received.report, **facts))  # type: ignore[arg-type]
            if name in names
            else received
            for name, received in snapshot.reports.items()
        }
        return replace(snapshot, reports=reports)

    return change


def _certificate_expires(snapshot: NodeSnapshot) -> NodeSnapshot:
    shown = CertificateSnapshot(
        subject="n1",
        places=("n1",),
        own=False,
        expires_s=5 * DAY_S,
        authority_expires_s=5 * DAY_S,
        left_s=5 * DAY_S,
        expires_soon=True,
    )
    return replace(snapshot, certificate=shown)


FILLING = Vitals(probe_ms=1, disks=(Disk(holds="data", free_bytes=4, size_bytes=100),))
EVERYBODY = ("n1", "n2", "n3")
# What no simulated server has is reported by a cluster that runs all the same. Real
# clusters are brought there too, and say the same (netns/test_alerts.py); taken over is
# one of a single node (postgres/test_daemon_takeover.py).
FACTS: Mapping[str, Change] = {
    "certificate_expiring": _certificate_expires,
    "disk_filling": _reporting(("n2",), vitals=FILLING),
    "pending_restart": _reporting(
        EVERYBODY, pending_restart=("max_files_per_process",)
    ),
    "taken_over": _reporting(("n1",), adopted=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_a_fact_that_wants_attention_is_explained_as_reviewed(
    name: str, golden: Callable[[str, str], None]
) -> None:
    with staged(THREE) as stage:
        snapshot = take(stage, healthy(stage))
    lines = render_explanation(explain(FACTS[name](snapshot)))

    assert len(lines) <= LINES_MAX
    assert "Next: " in lines[0]
    golden(f"explanations/{name}.txt", "\n".join(map(steady, lines)) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_the_explanation_of_a_situation_is_as_reviewed(
    name: str, golden: Callable[[str, str], None]
) -> None:
    script, shape = SITUATIONS[name]
    with staged(shape) as stage:
        lines = render_explanation(explain(take(stage, script(stage))))

    assert len(lines) <= LINES_MAX
    golden(f"explanations/{name}.txt", "\n".join(map(steady, lines)) + "\n")
