"""A planned change of the primary under load, with real servers and daemons."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.checker import compare, longest_gap
from pgbastion.bench.lab.settings import API_PORT, PRIMARY_PORT
from pgbastion.bench.lab.workload import USER, Writers
from pgbastion.clock import boottime_ns
from pgbastion.control.orders import LAG_MAX_BYTES
from pgbastion.demo.stage import READY_S, Picture, Stage

ORDER_S = 60
BACK_S = 60
# The bound is loose: what is measured here is that nothing waits for a time-out.
GAP_MS_MAX = 4_000
REPORTED_S = 15
WRITE = "SELECT pg_logical_emit_message(false, 'lab', %s)"
MESSAGE = "x" * (1 << 20)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(profile="normal") as made:
        made.start()
        primary = made.wait_complete(READY_S).primary
        made.make_tables(str(primary))
        yield made
    for node in made.nodes.values():
        # It has ended; nobody else asks how.
        node.exit_code()


class Newcomers:
    """Opens sessions through every proxy in turn, and notes who was refused."""

    def __init__(self, stage: Stage) -> None:
        self._hosts = [node.address for node in stage.nodes.values()]
        self._password = stage.keys.password
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.refused: list[str] = []
        self.served = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()
        self._thread.join(30)

    def _run(self) -> None:
        turn = 0
        while not self._ends.wait(0.03):
            turn += 1
            try:
                psycopg.connect(
                    host=self._hosts[turn % len(self._hosts)],
                    port=PRIMARY_PORT,
                    user=USER,
                    password=self._password,
                    dbname="postgres",
                    connect_timeout=20,
                ).close()
                self.served += 1
            except psycopg.Error as error:
                self.refused.append(str(error))


def post(stage: Stage, node: str, path: str, body: dict[str, object]) -> Any:
    request = urllib.request.Request(
        f"http://{stage.nodes[node].address}:{API_PORT}{path}",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {stage.keys.token_file.read_text().strip()}"
        },
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def settled(stage: Stage, order_id: str) -> dict[str, Any]:
    def outcome() -> dict[str, Any] | None:
        said = next(iter(stage.nodes.values())).get("/raft/directives") or {}
        for order in said.get("directives", []):
            if order["id"] == order_id and order["outcome"]:
                return dict(order)
        return None

    return waits.wait_for("the order's outcome", outcome, ORDER_S)


def wait_whole(stage: Stage) -> Picture:
    def whole() -> Picture | None:
        seen = stage.look()
        return seen if seen.complete else None

    return waits.wait_for("both standbys to stream again", whole, BACK_S)


def check_rows(stage: Stage, primary: str, writers: Writers) -> None:
    """Every acknowledged row is on every server, once."""
    end = stage.nodes[primary].query("SELECT pg_current_wal_lsn()::text")
    assert end
    for node in stage.nodes.values():

        def replayed(name: str = node.name) -> bool:
            rows = stage.nodes[name].query(
                "SELECT NOT pg_is_in_recovery()"
                " OR pg_last_wal_replay_lsn() >= %s::pg_lsn",
                end[0][0],
            )
            return bool(rows and rows[0][0])

        waits.wait_for("the rows to be replayed", replayed, waits.REPLAYED_S)
        stored = node.query("SELECT id FROM lab_writes")
        assert stored is not None
        ids = [int(row) for (row,) in stored]
        acknowledged = [row.id for row in writers.acknowledged()]
        found = compare(node.name, ids, acknowledged, writers.attempted())
        assert not found.lost, found


def test_a_switchover_loses_nothing_refuses_nobody_and_brings_the_old_one_back(
    stage: Stage,
) -> None:
    before = wait_whole(stage)
    old = str(before.primary)
    to = min(set(stage.nodes) - {old})
    asked = min(set(stage.nodes) - {old, to})
    place, proxies = stage.write_load
    with Writers(place, proxies) as writers, Newcomers(stage) as newcomers:
        writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        since_ns = boottime_ns()
        time.sleep(1)
        # Any node takes the order.
        given = post(stage, asked, "/cluster/switchover", {"to": to})
        assert given.get("ok"), given
        order = settled(stage, given["id"])
        writers.wait_for_write(boottime_ns(), BACK_S)
        after = wait_whole(stage)
        time.sleep(1)

    assert (order["outcome"], order["to"]) == ("done", to), order
    assert (after.primary, after.epoch) == (to, before.epoch + 1)
    assert newcomers.refused == []
    assert newcomers.served > 10
    gap = longest_gap(writers.acknowledged(), since_ns, boottime_ns())
    assert gap.ms < GAP_MS_MAX, gap
    check_rows(stage, to, writers)


def test_a_switchover_to_a_node_that_cannot_take_it_is_refused(stage: Stage) -> None:
    before = wait_whole(stage)
    old = str(before.primary)

    to_itself = post(stage, old, "/cluster/switchover", {"to": old})
    to_nobody = post(stage, old, "/cluster/switchover", {"to": "n9"})

    assert to_itself["error"]["code"] == "unfit"
    assert to_nobody["error"]["code"] == "unfit"
    assert wait_whole(stage).epoch == before.epoch


def test_a_switchover_with_a_replay_lagged_standby_is_refused(stage: Stage) -> None:
    """It has received everything, and would keep clients waiting for its replay."""
    before = wait_whole(stage)
    old = stage.nodes[str(before.primary)]
    to = min(set(stage.nodes) - {old.name})
    with stage.nodes[to].connect() as reader, old.connect() as writer:
        # Replay of the primary's lock waits for this reader.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM lab_samples")
        writer.execute("TRUNCATE lab_samples")
        for _ in range(LAG_MAX_BYTES // len(MESSAGE) + 4):
            writer.execute(
                "SELECT pg_logical_emit_message(false, 'lab', %s)", [MESSAGE]
            )

        def refused() -> bool:
            dry = {"to": to, "dry_run": True}
            said = post(stage, old.name, "/cluster/switchover", dry)
            return "replays" in said.get("error", {}).get("message", "")

        waits.wait_for("its replay to lag", refused, REPORTED_S)
        said = post(stage, old.name, "/cluster/switchover", {"to": to})

        assert said["error"]["code"] == "unfit", said
        assert "replays" in said["error"]["message"]
    after = wait_whole(stage)
    assert (after.primary, after.epoch) == (old.name, before.epoch)


def test_a_primary_that_is_told_to_stop_hands_its_role_on(stage: Stage) -> None:
    before = wait_whole(stage)
    old = stage.nodes[str(before.primary)]

    assert old.stop() == 0

    rows = next(iter(n for n in stage.nodes.values() if n is not old)).get(
        "/raft/directives"
    )
    assert rows["directives"][-1]["outcome"] == "done"
    assert old.postgres() == []
    old.start()
    assert wait_whole(stage).epoch == before.epoch + 1
