"""The guide to backups as it stands: a new cluster has the rows of an instant."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML

from pgbastion.bench.lab.waits import wait_for
from pgbastion.config.reading import understand
from pgbastion.demo import leftovers
from pgbastion.demo.stage import READY_S, Stage
from pgbastion.postgres.layout import resolve_account
from support.guides import ROOT, blocks, environment, run_blocks

GUIDE = "docs/howto/backup-and-restore.md"
ADDRESS = "127.45.0.1"
ARCHIVED_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a place that PostgreSQL's user may write to."""
    made = Path(tempfile.mkdtemp(prefix="restore-test-"))
    for name in ("", "backup", "backup/wal", "sockets"):
        (made / name).mkdir(exist_ok=True)
        (made / name).chmod(0o777)
    yield made
    leftovers.remove(made)


def archive(stage: Stage, folder: Path) -> None:
    """Have every node archive its WAL, as the guide says."""
    yaml = YAML()
    for node in stage.nodes.values():
        settings: dict[str, Any] = yaml.load(node.config)
        settings["postgresql"]["parameters"] |= {
            "archive_mode": "on",
            "archive_command": archive_command().replace("/backup", f"{folder}/backup"),
        }
        yaml.dump(settings, node.config)


def archive_command() -> str:
    """Return the guide's command."""
    _, settings, _ = (ROOT / GUIDE).read_text("utf-8").split("```", 2)
    read: Any = YAML().load(settings.removeprefix("yaml"))
    return str(read["postgresql"]["parameters"]["archive_command"])


def insert(connection: "psycopg.Connection[Any]", first: int, last: int) -> None:
    connection.execute(
        "INSERT INTO kept SELECT i, md5(i::text) "
        "FROM generate_series(%s::int, %s::int) i",
        (first, last),
    )
    connection.commit()


def rows(connection: "psycopg.Connection[Any]") -> list[Any]:
    return connection.execute("SELECT * FROM kept ORDER BY 1").fetchall()


def switch_wal(connection: "psycopg.Connection[Any]") -> None:
    """Wait until everything that is written by now is in the archive."""
    found = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
    assert found is not None
    connection.commit()

    def archived() -> bool:
        told = connection.execute(
            "SELECT last_archived_wal >= %s FROM pg_stat_archiver", found
        ).fetchone()
        connection.commit()
        return told is not None and bool(told[0])

    wait_for("the archive", archived, ARCHIVED_S)


def new_cluster(stage: Stage, folder: Path) -> Path:
    """Write the configuration of the new cluster's first node."""
    yaml = YAML()
    settings: dict[str, Any] = yaml.load(stage.nodes["n1"].config)
    own = {"bind_address": ADDRESS}
    settings["node"] = {"name": "r1", "address": ADDRESS}
    settings["cluster"] |= {"name": "restored", "peers": [ADDRESS]}
    settings["raft"] = {"data_dir": str(folder / "raft"), "bootstrap": True}
    settings["postgresql"]["data_dir"] = str(folder / "restored")
    settings["postgresql"]["parameters"].pop("archive_command")
    settings["postgresql"]["parameters"].pop("archive_mode")
    settings["proxy"] = settings["metrics"] = dict(own)
    settings["api"] |= own
    path = folder / "r1.yaml"
    yaml.dump(settings, path)
    return path


def served(config: Path, password: str, log: Path) -> list[Any]:
    """Start a node with a restored directory; return the rows that clients see."""
    program = Path(sys.executable).with_name("pgbastion")
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [str(program), "start", "--config", str(config)], stderr=said
        ) as daemon,
    ):

        def connect() -> "psycopg.Connection[Any] | None":
            assert daemon.poll() is None, log.read_text()
            try:
                return psycopg.connect(
                    host=ADDRESS,
                    port=5432,
                    user="postgres",
                    password=password,
                    dbname="postgres",
                    connect_timeout=5,
                )
            except psycopg.Error:
                return None

        try:
            with wait_for("the new cluster", connect, READY_S) as connection:
                return rows(connection)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)


def test_a_new_cluster_has_the_rows_of_the_instant_that_was_asked_for(
    folder: Path,
) -> None:
    with Stage(profile="normal", namespaces=True) as stage:
        archive(stage, folder)
        stage.start()
        primary = stage.nodes[str(stage.wait_complete(READY_S).primary)]
        section = understand(primary.config).postgresql
        assert section is not None
        account = resolve_account(section.os_user)
        user = [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
        as_user = ["setpriv", *user]
        shell = environment(
            section.bin_dir,
            NODE1=primary.address,
            BACKUP=str(folder / "backup"),
            RESTORED=str(folder / "restored"),
            SOCKETS=str(folder / "sockets"),
            PGPASSWORD=stage.keys.password,
        )
        with primary.connect() as connection:
            connection.autocommit = False
            connection.execute("CREATE TABLE kept (number int PRIMARY KEY, text text)")
            insert(connection, 1, 100)
            on_node = [*primary.network.command(primary.name), *as_user]
            run_blocks(blocks(GUIDE, "run backup"), shell, prefix=on_node)
            insert(connection, 101, 200)
            wanted = rows(connection)
            connection.commit()
            time.sleep(1.1)
            until = connection.execute("SELECT now()::text").fetchone()
            connection.commit()
            assert until is not None
            time.sleep(1.1)
            insert(connection, 201, 300)
            switch_wal(connection)
        run_blocks(
            blocks(GUIDE, "run restore"), {**shell, "UNTIL": until[0]}, prefix=as_user
        )
        config = new_cluster(stage, folder)
        found = served(config, stage.keys.password, folder / "r1.log")
    for node in stage.nodes.values():
        # It has ended; nobody else asks how.
        node.exit_code()

    assert len(wanted) == 200
    assert [tuple(row) for row in found] == [tuple(row) for row in wanted]
