"""A cluster whose hosts have no IPv4 address: every part speaks IPv6."""

import json
import os
from collections.abc import Iterator

import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.faults import FAULTS
from pgbastion.bench.lab.network import CLIENT
from pgbastion.bench.lab.settings import PRIMARY_PORT, REPLICA_PORT, Plan
from pgbastion.bench.lab.trial import run_trial
from support.lab_clients import pgbastion, recovers
from support.lab_faults import KEPT_LOGS
from support.vip_lab import addresses

FULL = bool(os.environ.get("PGBASTION_TEST_FULL"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not FULL, reason="a cluster of its own: test-full"),
]

PRIMARY, REPLICA = "fd77::50", "fd77::60"
SECTION = {
    "address": f"{PRIMARY}/64",
    "interface": "eth0",
    "addresses": [{"address": f"{REPLICA}/64", "interface": "eth0", "role": "replica"}],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    plan = Plan(families=(6,), vip=SECTION)
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as made:
            made.start()
            yield made
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def holders(lab: Lab, address: str) -> list[str]:
    return [name for name in lab.nodes if address in addresses(lab.network, name)]


def test_no_host_has_an_address_of_the_other_kind(lab: Lab) -> None:
    for host in (*lab.nodes, CLIENT):
        found = [a for a in addresses(lab.network, host) if "." in a]
        assert found == ["127.0.0.1"]


def test_the_file_is_found_good_and_the_commands_find_the_cluster(lab: Lab) -> None:
    checked = pgbastion(lab, "n2", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    status = pgbastion(lab, "n2", "status", "--json")
    assert status.returncode == 0, status.stderr
    shown = json.loads(status.stdout)
    assert lab.primary() in json.dumps(shown)
    members = lab.node("n3").get("/cluster")["members"]
    assert {m["host"] for m in members} == {"fd77::1", "fd77::2", "fd77::3"}
    assert all(m["api_url"].startswith("http://[fd77::") for m in members)


def test_clients_come_by_both_addresses_and_gossip_sees_all(lab: Lab) -> None:
    primary = lab.primary()
    waits.wait_for("the primary's", lambda: holders(lab, PRIMARY) == [primary], 20)
    waits.wait_for(
        "the replicas'",
        lambda: (
            len(holders(lab, REPLICA)) == 1 and primary not in holders(lab, REPLICA)
        ),
        20,
    )
    assert recovers(lab, PRIMARY, PRIMARY_PORT) is False
    assert recovers(lab, REPLICA, REPLICA_PORT) is True

    def heard_of() -> bool:
        peers = lab.node("n1").get("/raft/peers")["peers"]
        hints = [peer["gossip"] or {} for peer in peers if not peer["self"]]
        return [hint.get("state") for hint in hints] == ["alive", "alive"]

    waits.wait_for("gossip of all", heard_of, 20)


@pytest.mark.parametrize("fault", ["node", "cut", "daemon-stopped", "postmaster"])
def test_a_fault_loses_nothing_and_the_addresses_follow(lab: Lab, fault: str) -> None:
    trial = run_trial(lab, FAULTS[fault])

    assert trial.lost == 0
    assert trial.role_changed
    primary = lab.primary()
    waits.wait_for("the primary's", lambda: holders(lab, PRIMARY) == [primary], 20)
    waits.wait_for("one standby's", lambda: len(holders(lab, REPLICA)) == 1, 20)
    assert primary not in holders(lab, REPLICA)
    assert recovers(lab, PRIMARY, PRIMARY_PORT) is False
