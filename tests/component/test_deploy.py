"""Dashboard and alert rules against the names that the program really gives."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgbastion.model.addresses import (
    AddressCounts,
    AddressState,
    AddressStatus,
    VirtualAddress,
)
from pgbastion.model.ids import NodeId
from pgbastion.model.report import Disk, SlotRow, Vitals
from pgbastion.model.snapshot import ApiCertificateSnapshot
from pgbastion.model.wal import Lsn
from pgbastion.observe.metrics import Metrics
from pgbastion.testing.views import end, primary_report, received, report
from support.alert_faults import FAULTS as REAL_FAULTS
from support.prometheus import ALERTS, shipped
from support.snapshots import primary_snapshot

DEPLOY: Final = Path(__file__).parent.parent.parent / "deploy"
DASHBOARD: Final = DEPLOY / "grafana" / "pgbastion.json"
NAME: Final = re.compile(r"\bpgbastion_[a-z0-9_]+")
PROMTOOL: Final = shutil.which("promtool")
TOOL_S: Final = 30

SLOT: Final = SlotRow(
    name="pgbastion_n2",
    kind="physical",
    active=True,
    restart_lsn=Lsn(800),
    wal_status="reserved",
    retained_bytes=200,
    node=NodeId("n2"),
)
WATCHED: Final = Vitals(
    probe_ms=2,
    slots=(SLOT,),
    disks=(Disk(holds="data", free_bytes=10, size_bytes=100),),
)
EVERYTHING: Final = primary_snapshot(
    reports=received(
        primary_report(wal_end=end(1_000), vitals=WATCHED),
        report(2, replay_lsn=Lsn(900)),
    ),
    api_certificate=ApiCertificateSnapshot(
        expires_s=1 << 40, left_s=1 << 30, expires_soon=False
    ),
    addresses=(
        AddressStatus(
            address=VirtualAddress(address="10.0.0.5", prefix=24, interface="eth0"),
            state=AddressState.HELD,
        ),
    ),
    address_counts=AddressCounts(),
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The series of a fault; each begins, lasts for 20 steps of 30 s, and ends."""

    series: Mapping[str, str]
    labels: Mapping[str, str]
    fires_at: str = "5m"
    clear_at: str = "25m"
    lasts: int = 20


ONE_NODE: Final = '{job="main", instance="a"}'
OF_NODE: Final = {"job": "main", "instance": "a"}
OF_CLUSTER: Final = {"job": "main"}
OF_MEMBER: Final = {"job": "main", "node": "n2"}
OF_ADDRESS: Final = 'job="main", address="10.0.0.5", state="held"'


def fault(metric: str, bad: float, labels: Mapping[str, str], **changes: Any) -> Fault:
    """Return the fault in which one series has a bad value, and 1 - bad before."""
    good = 0 if bad else 1
    lasts = changes.get("lasts", 20)
    held = ", ".join(f'{k}="{v}"' for k, v in {**labels, "instance": "a"}.items())
    values = f"{good} {bad}x{lasts} {good}x100"
    return Fault(series={f"{metric}{{{held}}}": values}, labels=labels, **changes)


FAULTS: Final[Mapping[str, Fault]] = {
    "PgbastionNoPrimary": fault("pgbastion_cluster_has_primary", 0, OF_CLUSTER),
    "PgbastionSplitBrain": fault("pgbastion_split_brain", 1, OF_CLUSTER),
    "PgbastionNodeDown": Fault(
        series={
            f"up{ONE_NODE}": "1 0x20 1x100",
            f"pgbastion_members{ONE_NODE}": "3x120",
        },
        labels=OF_NODE,
    ),
    "PgbastionNoRaftLeader": fault("pgbastion_raft_has_leader", 0, OF_NODE),
    "PgbastionViewExpired": fault("pgbastion_view_left_seconds", 0, OF_NODE),
    "PgbastionDegraded": fault("pgbastion_degraded", 1, OF_CLUSTER),
    "PgbastionFenced": fault("pgbastion_node_fenced", 1, OF_NODE),
    "PgbastionFailover": Fault(
        series={'pgbastion_failovers_total{job="main", cause="x"}': "1x4 2x120"},
        labels={"job": "main", "cause": "x"},
    ),
    "PgbastionAddressConflict": fault("pgbastion_vip_conflict", 1, OF_NODE),
    "PgbastionAddressNowhere": Fault(
        series={
            f'pgbastion_vip_state{{{OF_ADDRESS}, instance="{node}"}}': values
            for node, values in (("a", "1 0x20 1x100"), ("b", "0x120"))
        },
        labels={**OF_CLUSTER, "address": "10.0.0.5"},
    ),
    "PgbastionAddressUnusable": fault(
        "pgbastion_vip_state",
        1,
        {**OF_NODE, "address": "10.0.0.5", "state": "failed"},
    ),
    "PgbastionStandbyNotStreaming": Fault(
        series={
            'pgbastion_member_streaming{job="main", node="n2"}': "1 0x20 1x100",
            'pgbastion_member_is_primary{job="main", node="n2"}': "0x120",
            'pgbastion_member_streaming{job="main", node="n1"}': "0x120",
            'pgbastion_member_is_primary{job="main", node="n1"}': "1x120",
        },
        labels=OF_MEMBER,
    ),
    "PgbastionStandbyLagging": fault(
        "pgbastion_member_lag_bytes", 1 << 30, OF_MEMBER, fires_at="8m"
    ),
    "PgbastionMemberSilent": fault(
        "pgbastion_member_report_age_seconds", 60, OF_MEMBER
    ),
    "PgbastionPaused": fault(
        "pgbastion_paused", 1, OF_CLUSTER, fires_at="70m", clear_at="110m", lasts=180
    ),
    "PgbastionDiskFilling": Fault(
        series={
            f"pgbastion_member_disk_{what}_bytes"
            '{job="main", node="n2", holds="data"}': values
            for what, values in (("free", "50 5x20 50x100"), ("size", "100x120"))
        },
        labels={**OF_MEMBER, "holds": "data"},
    ),
    "PgbastionWalRetained": fault(
        "pgbastion_slot_retained_wal_bytes",
        1 << 40,
        {"job": "main", "slot": "s"},
        fires_at="8m",
    ),
    "PgbastionProbeSlow": fault("pgbastion_member_probe_seconds", 2, OF_MEMBER),
    "PgbastionClientsRefused": Fault(
        series={
            'pgbastion_proxy_refused_total{job="main", reason="x"}': "0+60x20 1200x120"
        },
        labels={"job": "main", "reason": "x"},
        fires_at="8m",
    ),
    "PgbastionLoopLate": fault("pgbastion_loop_lag_seconds", 2, OF_NODE),
    "PgbastionCertificateExpires": Fault(
        series={
            "pgbastion_certificate_expiry_timestamp_seconds"
            '{job="main", instance="a", of="api"}': f"{1 << 40} 86400x20 {1 << 40}x100"
        },
        labels={**OF_NODE, "of": "api"},
    ),
    "PgbastionRestartPending": fault(
        "pgbastion_member_pending_restart",
        2,
        OF_MEMBER,
        fires_at="70m",
        clear_at="110m",
        lasts=180,
    ),
}


def samples() -> set[str]:
    """Return the name of every sample that a scrape can have."""
    text = Metrics().render(EVERYTHING).decode()
    return {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def expressions() -> list[str]:
    """Return every expression of the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def promtool(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if PROMTOOL is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run(
        [PROMTOOL, *arguments],
        input=stdin,
        capture_output=True,
        timeout=TOOL_S,
        check=False,
    )


def test_every_name_in_an_alert_is_one_of_ours() -> None:
    used = {name for rule in shipped().values() for name in NAME.findall(rule["expr"])}

    assert used
    assert used <= samples()


def test_every_name_in_the_dashboard_is_one_of_ours() -> None:
    used = {name for expression in expressions() for name in NAME.findall(expression)}

    assert used
    assert used <= samples()


def test_every_alert_says_what_to_do() -> None:
    for rule in shipped().values():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "remedy"}


def test_every_alert_has_series_and_a_real_fault_that_it_is_tried_with() -> None:
    assert set(FAULTS) == set(shipped())
    assert {name for names in REAL_FAULTS.values() for name in names} == set(shipped())


@pytest.mark.parametrize("patroni_names", [False, True])
def test_promtool_accepts_the_metrics(patroni_names: bool) -> None:
    text = Metrics(lambda: patroni_names).render(EVERYTHING)

    judged = promtool("check", "metrics", stdin=text)

    assert (judged.returncode, judged.stderr) == (0, b"")


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    plain = [e.replace("$__range", "1h").replace("$job", "main") for e in expressions()]
    made = [{"record": f"test:{n}", "expr": e} for n, e in enumerate(plain)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "g", "rules": made}]}))

    judged = promtool("check", "rules", str(path))

    assert judged.returncode == 0, judged.stderr


def test_each_alert_fires_in_its_fault_and_clears_after_it(tmp_path: Path) -> None:
    cases = []
    for name, case in FAULTS.items():
        about = {"severity": shipped()[name]["labels"]["severity"], **case.labels}
        cases.append(
            {
                "name": name,
                "interval": "30s",
                "input_series": [
                    {"series": series, "values": values}
                    for series, values in case.series.items()
                ],
                "alert_rule_test": [
                    {
                        "eval_time": case.fires_at,
                        "alertname": name,
                        "exp_alerts": [{"exp_labels": about}],
                    },
                    {"eval_time": case.clear_at, "alertname": name, "exp_alerts": []},
                ],
            }
        )
    # What the annotations say is for people: their templates are not compared.
    plain = shipped()
    for rule in plain.values():
        del rule["annotations"]
    (tmp_path / "alerts.yml").write_text(
        json.dumps({"groups": [{"name": "g", "rules": list(plain.values())}]})
    )
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": ["alerts.yml"], "tests": cases}))

    judged = promtool("test", "rules", str(path))

    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_promtool_accepts_the_alerts() -> None:
    judged = promtool("check", "rules", str(ALERTS))

    assert judged.returncode == 0, judged.stderr
