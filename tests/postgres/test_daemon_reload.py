"""What a running daemon takes over from a changed file."""

import os
import signal
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import API_PORT, PRIMARY_PORT, Plan
from pgbastion.bench.lab.waits import wait_for
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

READY_S = 60.0
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


def reload(node: Node) -> None:
    before = node.log.read_text().count('"reloaded"')
    daemon = node.daemon()
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for("a reload", lambda: node.log.read_text().count('"reloaded"') > before, 10)


def logs_in(node: Node, password: str) -> bool:
    try:
        psycopg.connect(
            host=node.address,
            port=PRIMARY_PORT,
            user="postgres",
            password=password,
            connect_timeout=5,
        ).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_standby_may_read_a_changed_password_before_the_primary(lab: Lab) -> None:
    """Either order works: until the primary has it, the former one is used."""
    primary = lab.node(lab.primary())
    (standby,) = (n for n in lab.nodes.values() if n is not primary)
    roles = ("postgres", "replicator", "rewinder")
    passwords = lab.directory / "passwords"
    passwords.write_text("".join(f"{role}:changed {role}\n" for role in roles))

    reload(standby)
    assert not logs_in(primary, "changed postgres")
    assert logs_in(primary, lab.password)
    reload(primary)

    assert logs_in(primary, "changed postgres")
    assert not logs_in(primary, lab.password)
    # New connections of the daemons and of replication use the new ones.
    with psycopg.connect(
        host=primary.address,
        port=PRIMARY_PORT,
        user="postgres",
        password="changed postgres",
        autocommit=True,
    ) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type IN"
            " ('client backend', 'walsender')"
        )

        def streams() -> bool:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            ).fetchone()
            return row is not None and row[0] > 0

        wait_for("the standby to stream", streams, SOON_S)
    answer = wait_for("an answer", lambda: primary.get("/cluster"), SOON_S)
    assert answer["primary"] == primary.name


def test_the_proxy_takes_another_bound_for_new_sessions(lab: Lab) -> None:
    node = lab.nodes["n1"]
    text = node.config.read_text()
    node.config.write_text(text.replace("proxy:\n", "proxy:\n  max_connections: 1\n"))

    said = tried(node, (lab.directory / "token").read_text().strip())
    assert "nothing was changed; would be applied: proxy.max_connections" in said
    assert "applied: proxy.max_connections" not in node.log.read_text()

    # Had the trial changed anything, there would be nothing left to apply.
    reload(node)

    assert "applied: proxy.max_connections" in node.log.read_text()
    node.config.write_text(text)
    reload(node)


def test_a_changed_token_counts_after_a_reload(lab: Lab) -> None:
    node = lab.nodes["n1"]
    file = lab.directory / "token"
    old = file.read_text().strip()
    file.write_text("another-token\n")

    assert resume(node, old) == 200
    reload(node)

    assert (resume(node, old), resume(node, "another-token")) == (401, 200)
    file.write_text(old + "\n")
    reload(node)


def tried(node: Node, token: str) -> str:
    """Return what a reload would change."""
    answer = httpx.post(
        f"http://{node.address}:{API_PORT}/reload",
        headers={"Authorization": f"Bearer {token}"},
        json={"dry_run": True},
        timeout=10,
        trust_env=False,
    )
    return str(answer.json().get("applied"))


def resume(node: Node, token: str) -> int:
    answer = httpx.post(
        f"http://{node.address}:{API_PORT}/cluster/resume",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
        trust_env=False,
    )
    return answer.status_code
