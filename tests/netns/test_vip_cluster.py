"""A cluster with an address: it follows the role, and once the role follows it."""

import subprocess
import time
from collections.abc import Iterator

import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.settings import Plan
from support.lab_clients import pgbastion
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]

ADDRESS = "10.77.0.50"
SECTION = {"address": f"{ADDRESS}/24", "interface": "eth0"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    try:
        with Lab(Plan(profile="fast", vip=SECTION), keep_logs_in=KEPT_LOGS) as made:
            config = made.node("n1").config
            text = config.read_text()
            assert "interface: eth0" in text
            config.write_text(text.replace("interface: eth0", "interface: eth5"))
            made.start()
            yield made
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def holders(lab: Lab) -> list[str]:
    found = []
    for name in lab.nodes:
        command = [*lab.network.command(name), "ip", "-o", "address", "show"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        if f" {ADDRESS}/" in shown.stdout:
            found.append(name)
    return found


def reported(lab: Lab) -> str | None:
    return lab.reported_primary(list(lab.nodes.values()))


def test_the_role_leaves_a_node_without_the_interface_and_does_not_come_back(
    lab: Lab,
) -> None:
    first = waits.wait_for(
        "the address at another primary",
        lambda: [n for n in holders(lab) if n == reported(lab) != "n1"],
        45,
    )[0]
    lab.wait_steady()
    epoch = lab.epoch()

    told = {n["node"]: n for n in lab.node("n1").get("/vip")["nodes"]}
    assert told["n1"]["problem"] == "there is no interface eth5"
    assert told[first]["held"] == [f"{ADDRESS}/24"]
    assert lab.node(first).get("/health")["vip"] is True
    assert lab.node("n1").get("/health")["vip"] is False

    # By an order the role goes where it is wanted, also to a node that cannot have the
    # address; nobody sends it on a second time within ten minutes.
    moved = pgbastion(lab, first, "vip", "move", "--to", "n1")
    assert moved.returncode == 0, moved.stderr
    assert holders(lab) == []
    status = pgbastion(lab, "n1", "vip", "status")
    assert status.returncode == 1
    assert "held by nobody" in status.stdout
    time.sleep(13)
    assert (lab.primary(), lab.epoch()) == ("n1", epoch + 1)

    lab.wait_steady()
    back = pgbastion(lab, "n1", "vip", "move", "--to", first)
    assert back.returncode == 0, back.stderr
    waits.wait_for("the address there", lambda: holders(lab) == [first], 5)
    status = pgbastion(lab, first, "vip", "status")
    assert status.returncode == 0
    assert f"held by {first}" in status.stdout
