"""What people order for one node or for later, with real servers and daemons."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import READS
from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import API_PORT
from pgbastion.demo.stage import READY_S, Picture, Stage

ORDER_S = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(profile="normal") as made:
        made.start()
        made.wait_complete(READY_S)
        yield made
    for node in made.nodes.values():
        # It has ended; nobody else asks how.
        node.exit_code()


def ask(
    stage: Stage, path: str, body: dict[str, object], method: str = "POST"
) -> dict[str, Any]:
    node = next(iter(stage.nodes.values()))
    request = urllib.request.Request(
        f"http://{node.address}:{API_PORT}{path}",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {stage.keys.token_file.read_text().strip()}"
        },
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.loads(answer.read()))


def directives(stage: Stage) -> list[dict[str, Any]]:
    said = next(iter(stage.nodes.values())).get("/raft/directives") or {}
    return list(said.get("directives", []))


def settled(stage: Stage, order_id: str) -> dict[str, Any]:
    def outcome() -> dict[str, Any] | None:
        found = (o for o in directives(stage) if o["id"] == order_id and o["outcome"])
        return next(found, None)

    return waits.wait_for("the order's outcome", outcome, ORDER_S)


def whole(stage: Stage) -> Picture:
    def seen() -> Picture | None:
        picture = stage.look()
        return picture if picture.complete else None

    return waits.wait_for("a complete cluster", seen, ORDER_S)


def started(stage: Stage, name: str) -> object:
    rows = stage.nodes[name].query("SELECT pg_postmaster_start_time()")
    return rows[0][0] if rows else None


def system_of(stage: Stage, name: str) -> object:
    """Return what a copy replaces: the directory's own id."""
    mark = stage.nodes[name].data_dir / "pgbastion.cluster"
    return json.loads(mark.read_text())["data_id"]


def test_the_primary_restarts_in_its_place_and_a_standby_in_its_own(
    stage: Stage,
) -> None:
    before = whole(stage)
    primary = str(before.primary)
    standby = min(set(stage.nodes) - {primary})
    then = {name: started(stage, name) for name in (primary, standby)}

    for name in (standby, primary):
        given = ask(stage, "/cluster/restart", {"node": name, "drain": "0s"})
        assert settled(stage, given["id"])["outcome"] == "done"

    after = whole(stage)
    assert (after.primary, after.epoch) == (primary, before.epoch)
    for name, instant in then.items():
        assert started(stage, name) not in (None, instant)


def test_a_server_that_hangs_keeps_no_answer_waiting(stage: Stage) -> None:
    """Answers come from memory; a node's get gives up after two seconds."""
    before = whole(stage)
    node = stage.nodes[min(set(stage.nodes) - {str(before.primary)})]
    frozen = processes.freeze(node.postgres)
    try:
        for path in (*READS, *CHECKS):
            assert node.get(path) is not None, path
    finally:
        processes.resume(frozen)
    assert whole(stage).epoch == before.epoch


def sync_names(primary: Node) -> str:
    """Return for whom commits wait, as the server has it."""
    rows = primary.query("SHOW synchronous_standby_names")
    assert rows
    return str(rows[0][0])


def test_a_standby_that_is_told_to_stop_is_waited_for_by_no_commit(
    stage: Stage,
) -> None:
    """The primary's setting names it no more when its server ends."""
    before = whole(stage)
    primary = stage.nodes[str(before.primary)]
    standby = stage.nodes[min(set(stage.nodes) - {primary.name})]
    name = f'"{standby.name}_'
    assert name in sync_names(primary)
    said = standby.log.stat().st_size

    assert standby.stop() == 0

    assert name not in sync_names(primary)
    with standby.log.open() as log:
        log.seek(said)
        events = [json.loads(line) for line in log if line.startswith("{")]
    [left] = [e for e in events if e["event"] == "sync_set_left"]
    assert left["left"]
    standby.start()
    assert whole(stage).epoch == before.epoch


def test_a_standby_is_copied_anew(stage: Stage) -> None:
    before = whole(stage)
    standby = max(set(stage.nodes) - {str(before.primary)})
    then = system_of(stage, standby)

    given = ask(stage, "/cluster/reinit", {"node": standby})

    assert settled(stage, given["id"])["outcome"] == "done"
    for node in stage.nodes.values():
        # Any node tells of it, under the place that was answered.
        def heard(node: Node = node) -> bool:
            return (node.get(given["operation"]) or {}).get("state") == "done"

        waits.wait_for(f"{node.name} to tell of it", heard, ORDER_S)
    assert system_of(stage, standby) != then
    assert whole(stage).epoch == before.epoch


def test_a_fenced_primary_hands_over_and_takes_no_part_until_it_is_freed(
    stage: Stage,
) -> None:
    before = whole(stage)
    old = str(before.primary)

    ask(stage, "/cluster/fence", {"node": old, "drain": "0s"})

    def moved() -> Picture | None:
        picture = stage.look()
        return picture if picture.primary not in (None, old) else None

    after = waits.wait_for("another primary", moved, ORDER_S)
    assert after.epoch == before.epoch + 1

    def fenced() -> bool:
        health = stage.nodes[old].get("/health") or {}
        return health.get("role") == "fenced"

    waits.wait_for("the role in /health", fenced, ORDER_S)
    new = stage.nodes[str(after.primary)]

    def confirms_nothing() -> bool:
        rows = new.query(
            "SELECT application_name FROM pg_stat_replication"
            " WHERE sync_state = 'quorum'"
        )
        return bool(rows) and not any(str(row[0]).startswith(old) for row in rows or ())

    waits.wait_for("the set without the fenced node", confirms_nothing, ORDER_S)
    history = next(iter(stage.nodes.values())).get("/cluster/history")
    assert history["changes"][-1]["former"] == old
    assert "is fenced" in history["changes"][-1]["ordered_by"]

    ask(stage, "/cluster/unfence", {"node": old})
    waits.wait_for("the node to be free", lambda: not fenced(), ORDER_S)


def test_what_is_scheduled_comes_once_or_is_cancelled(stage: Stage) -> None:
    before = whole(stage)
    to = min(set(stage.nodes) - {str(before.primary)})
    soon: dict[str, object] = {"to": to, "at": "+2s", "drain": "0s"}

    later = ask(stage, "/cluster/switchover", {"at": "+1h"})
    assert [o["id"] for o in directives(stage) if "due_at" in o] == [later["id"]]
    told = ask(stage, "/cluster/switchover", {}, "DELETE")
    assert told["cancelled"] == [later["id"]]
    given = ask(stage, "/cluster/switchover", soon)

    assert settled(stage, given["id"])["outcome"] == "done"
    assert settled(stage, later["id"])["outcome"] == "cancelled"
    after = whole(stage)
    assert (after.primary, after.epoch) == (to, before.epoch + 1)

    def measured() -> bool:
        told = next(iter(stage.nodes.values())).get("/cluster/history") or {}
        return told["changes"][-1]["gap_ms"] is not None

    waits.wait_for("the gap in the history", measured, ORDER_S)
