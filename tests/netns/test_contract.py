"""The configuration file of the contract works as it stands, and so do its answers."""

import asyncio
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.network import WATCH
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.servers import SUPERUSER
from pgbastion.bench.lab.settings import PRIMARY_PORT, Plan
from pgbastion.bench.lab.waits import STEADY_S, wait_for
from pgbastion.node.slot_carrying import EVERY_S
from pgbastion.proxy.wire import CANCEL_REQUEST_CODE
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

# The contract's lines; /srv/lab stands for the laboratory's directory. What a node of
# the laboratory has of its own is filled in by `written_for`.
CONTRACT = """\
node: {name: n1, address: 10.77.0.1}
cluster: {name: lab, peers: [10.77.0.1, 10.77.0.2, 10.77.0.3], \
secret_file: /srv/lab/secret}
raft: {data_dir: /srv/lab/n1/raft, bootstrap: true, tls_enabled: false}
failover: {profile: fast}
replication: {mode: quorum, sync_count: 1, strict: false}
postgresql: {bin_dir: /usr/lib/postgresql/15/bin, data_dir: /srv/lab/n1/pg, \
password_file: /srv/lab/passwords, parameters: {shared_buffers: 128MB}}
api: {auth_token_file: /srv/lab/token}
vip: {address: 10.77.0.50/24, interface: eth0}
"""
ANSWER_S = 10.0
SLEEP = "select pg_sleep(30)"
HEALTH = {
    "node",
    "role",
    "state",
    "vip",
    "leader",
    "term",
    "epoch",
    "timeline",
    "lease_left_ms",
    "paused",
    "version",
}
MEMBER = {"name", "role", "state", "host", "port", "api_url", "timeline", "lag"}


def written_for(node: Node, lab: Lab) -> str:
    """Return the contract's file with what differs on ``node``."""
    lines = CONTRACT.splitlines(keepends=True)
    if lab.plan.is_witness(node.name):
        lines = [line for line in lines if not line.startswith("postgresql:")]
    if node.name != "n1":
        lines[0] = f"node: {{name: {node.name}, address: {node.address}}}\n"
    text = "".join(lines).replace("/srv/lab/n1", f"/srv/lab/{node.name}")
    if node.name != "n1":
        text = text.replace("bootstrap: true", "bootstrap: false")
    text = text.replace("/usr/lib/postgresql/15/bin", str(lab.bin_dir))
    return text.replace("/srv/lab", str(lab.directory))


@contextmanager
def cluster(plan: Plan) -> Iterator[Lab]:
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            for node in lab.nodes.values():
                node.config.write_text(written_for(node, lab))
                # Only the three files are there; what the daemon needs, it makes.
                node.directory.rmdir()
            lab.start()
            yield lab
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


@pytest.fixture(scope="module")
def three() -> Iterator[Lab]:
    with cluster(Plan(profile="fast", sync_count=1)) as lab:
        yield lab


def test_the_file_makes_a_cluster_of_three_nodes(three: Lab) -> None:
    answer = three.node("n1").get("/cluster")

    assert answer["scope"] == "lab"
    assert answer["primary"] == "n1"
    assert answer["epoch"] >= 1
    assert {member["name"] for member in answer["members"]} == {"n1", "n2", "n3"}
    assert set(answer["backends"]) == {"primary", "replica"}


def test_every_member_is_described_in_the_words_that_tools_read(three: Lab) -> None:
    def members() -> dict[str, dict[str, Any]] | None:
        found = {m["name"]: m for m in three.node("n2").get("/cluster")["members"]}
        states = [member["state"] for member in found.values()]
        return (
            found if sorted(states) == ["running", "streaming", "streaming"] else None
        )

    found = wait_for("every member's state", members, STEADY_S)

    assert all(set(member) >= MEMBER for member in found.values())
    assert found["n1"]["role"] == "leader"
    assert found["n1"]["host"] == three.node("n1").address
    assert {found[name]["role"] for name in ("n2", "n3")} <= {
        "quorum_standby",
        "sync_standby",
    }


@pytest.mark.parametrize(
    ("name", "role"), [("n1", "primary"), ("n2", "standby"), ("n3", "standby")]
)
def test_the_health_of_a_node_has_every_field(three: Lab, name: str, role: str) -> None:
    health = three.node(name).get("/health")

    assert set(health) >= HEALTH
    assert (health["node"], health["role"]) == (name, role)
    assert health["leader"] in three.nodes
    assert health["vip"] is (role == "primary")
    assert health["paused"] is False
    if role == "primary":
        assert 0 < health["lease_left_ms"] <= 2_000


def test_the_file_makes_a_cluster_of_two_nodes_and_a_witness() -> None:
    plan = Plan(postgres_nodes=2, witnesses=1, profile="fast", sync_count=1)
    with cluster(plan) as lab:
        assert lab.node("n3").get("/health")["role"] == "witness"
        assert lab.node("n2").get("/cluster")["primary"] == "n1"


def test_bootstrap_in_every_file_makes_one_cluster() -> None:
    plan = Plan(profile="fast", bootstrap=frozenset({"n1", "n2", "n3"}))
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            lab.start()
            primaries = {node.get("/cluster")["primary"] for node in lab.nodes.values()}
            systems = {
                str(node.query("SELECT system_identifier FROM pg_control_system()"))
                for node in lab.nodes.values()
            }
    except CannotRun as why:
        pytest.skip(f"not run: {why}")

    assert len(primaries) == 1
    assert len(systems) == 1


def test_standbys_carry_the_slots_that_they_would_need(three: Lab) -> None:
    """Whoever is promoted next has the WAL that the others lack."""
    standby = three.node("n2")

    def carried() -> set[str]:
        rows = standby.query("SELECT slot_name FROM pg_replication_slots")
        return {str(row[0]) for row in rows or ()}

    wait_for(
        "the slots of n1 and n3 on n2",
        lambda: carried() == {"pgbastion_n1", "pgbastion_n3"},
        2 * EVERY_S,
    )


def test_a_query_is_cancelled_through_another_nodes_proxy(three: Lab) -> None:
    """A balancer may send the cancel request to any node."""
    through, asked = three.node("n2").address, three.node("n3").address

    async def cancelled() -> str:
        session = await asyncpg.connect(
            host=through,
            port=PRIMARY_PORT,
            user=SUPERUSER,
            password=three.password,
            database="postgres",
            ssl=False,
        )
        protocol = session._protocol
        key = struct.pack("!i", protocol.backend_pid) + struct.pack(
            "!i", protocol.backend_secret
        )
        primary = three.node(three.primary())
        running = f"select count(*) from pg_stat_activity where query = '{SLEEP}'"
        query = asyncio.ensure_future(session.execute(SLEEP))
        await asyncio.to_thread(
            wait_for, "the query", lambda: primary.query(running) == [(1,)], ANSWER_S
        )
        _, writer = await asyncio.open_connection(asked, PRIMARY_PORT)
        writer.write(struct.pack("!II", 8 + len(key), CANCEL_REQUEST_CODE) + key)
        done, _ = await asyncio.wait({query}, timeout=ANSWER_S)
        writer.close()
        await writer.wait_closed()
        assert done, "nobody cancelled the query"
        await session.close(timeout=ANSWER_S)
        return str(getattr(query.exception(), "sqlstate", "it ended by itself"))

    with three.network.inside(WATCH):
        assert asyncio.run(cancelled()) == "57014"
