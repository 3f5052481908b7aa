"""Settings that the cluster agrees on, down to the running servers."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import API_PORT, Plan
from pgbastion.bench.lab.waits import wait_for
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SOON_S = 15.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    plan = Plan(postgres_nodes=2, profile="normal", namespaces=False)
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as one:
            one.start()
            yield one
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def ask(lab: Lab, node: Node, method: str, body: dict[str, Any]) -> httpx.Response:
    token = (lab.directory / "token").read_text().strip()
    return httpx.request(
        method,
        f"http://{node.address}:{API_PORT}/config",
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        timeout=20,
        trust_env=False,
    )


def both(lab: Lab, name: str) -> set[str]:
    found = set()
    for node in lab.servers():
        rows = node.query(f"SHOW {name}")
        found.add(str(rows[0][0]) if rows else "")
    return found


def status_of(lab: Lab, asked: Node, name: str) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = asked.get("/config/status")["nodes"]
    return next(node for node in nodes if node["node"] == name)


def test_settings_reach_every_server_from_any_node(lab: Lab) -> None:
    primary = lab.node(lab.primary())
    (standby,) = (n for n in lab.servers() if n is not primary)
    version = primary.get("/config")["version"]

    answer = ask(
        lab,
        standby,
        "PATCH",
        {
            "parameters": {
                "work_mem": "7MB",
                "search_path": ["$user", "public"],
                "TimeZone": "Asia/Kathmandu",
            }
        },
    )

    assert answer.json() == {"ok": True, "version": version + 1, "changed": True}
    wait_for("the setting", lambda: both(lab, "work_mem") == {"7MB"}, SOON_S)
    wait_for("a zone", lambda: both(lab, "timezone") == {"Asia/Kathmandu"}, SOON_S)
    wait_for("a list", lambda: both(lab, "search_path") == {'"$user", public'}, SOON_S)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"fsync": "off"}, "acknowledged commit"),
        ({"wokr_mem": "8MB"}, "no such setting"),
        ({"work_mem": "1B"}, "it is from"),
        ({"wal_level": "minimal"}, "standbys need"),
        ({"server_version": "1"}, "cannot be set"),
        ({"shared_preload_libraries": ["no_such_library"]}, "no_such_library.so"),
        ({"timezone": "Mars/Phobos"}, "invalid value"),
        ({"ssl": "on"}, "server.crt"),
    ],
)
def test_what_a_server_would_not_take_changes_nothing(
    lab: Lab, parameters: dict[str, Any], why: str
) -> None:
    node = lab.node(lab.primary())
    before = node.get("/config")

    answer = ask(lab, node, "PATCH", {"parameters": parameters})

    assert answer.status_code == 409
    assert why in answer.json()["error"]["message"]
    assert node.get("/config") == before


def test_a_raised_limit_waits_on_the_primary_and_says_so(lab: Lab) -> None:
    primary = lab.node(lab.primary())
    (standby,) = (n for n in lab.servers() if n is not primary)
    answer = ask(lab, primary, "PATCH", {"parameters": {"max_connections": 123}})
    assert answer.is_success

    def told() -> bool:
        first = status_of(lab, primary, primary.name)
        second = status_of(lab, primary, standby.name)
        held = [w["name"] for w in first["held_back"]]
        pending = {w["name"]: w["reason"] for w in second["pending_restart"]}
        return held == ["max_connections"] and "standbys first" in pending.get(
            "max_connections", ""
        )

    wait_for("the order of restarts", told, SOON_S)
    assert "123" not in both(lab, "max_connections")


def waiting(lab: Lab) -> list[set[str]]:
    """Return what waits for a restart, for each server."""
    asked = lab.node(lab.primary())
    rows = [status_of(lab, asked, node.name) for node in lab.servers()]
    return [{w["name"] for w in row["pending_restart"]} for row in rows]


def test_what_waits_for_a_restart_is_what_was_changed_and_no_more(lab: Lab) -> None:
    """A server goes on naming what was taken out of its files, also its defaults.

    Those limits that a standby is started with are in no file of a primary.
    """
    primary = lab.node(lab.primary())
    limits = {
        "max_locks_per_transaction",
        "max_prepared_transactions",
        "max_worker_processes",
    }
    changed = "max_files_per_process"
    before = primary.get("/config")["postgresql"]["parameters"]

    assert ask(lab, primary, "PATCH", {"parameters": {changed: 2000}}).is_success
    wait_for("both to wait", lambda: all(changed in w for w in waiting(lab)), SOON_S)
    assert not any(limits & names for names in waiting(lab))

    assert ask(lab, primary, "PUT", {"parameters": before}).is_success
    wait_for("nobody to", lambda: not any(changed in w for w in waiting(lab)), SOON_S)
    assert not any(limits & names for names in waiting(lab))
