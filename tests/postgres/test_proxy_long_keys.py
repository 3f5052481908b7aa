"""Protocol 3.2 and its longer cancel keys: PostgreSQL 18 and its own psql."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.bench.lab.servers import PlainServer, choose, installed
from pgbastion.proxy.routes import DataPath
from support.lab_servers import lab_directory
from support.proxy_lab import own_address
from support.proxy_servers import (
    PASSWORD,
    PRIMARY_PORT,
    SERVER_PORT,
    ThreadedProxy,
    connect,
)

pytestmark = pytest.mark.slow

FIRST_MAJOR = 18
WAIT_S = 20


@pytest.fixture
def bin_dir() -> Iterator[Path]:
    """Programs that speak it, copied to where servers may use them."""
    newest = max(installed(), default=0)
    if newest < FIRST_MAJOR:
        pytest.skip(f"needs PostgreSQL {FIRST_MAJOR}, the newest here is {newest}")
    with lab_directory() as directory:
        yield choose(str(newest), directory / "programs")


@pytest.fixture
def server(bin_dir: Path) -> Iterator[PlainServer]:
    with lab_directory() as directory:
        server = PlainServer(
            bin_dir, directory / "n1", own_address(), SERVER_PORT, PASSWORD
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


def test_a_long_cancel_key_reaches_the_server(
    bin_dir: Path, server: PlainServer
) -> None:
    """Control-C in psql, once the server is seen to run the query."""
    with ThreadedProxy(server, DataPath.USERSPACE) as proxy:
        proxy.lead_to("n1")
        where = (
            f"host={proxy.address} port={PRIMARY_PORT} user=postgres sslmode=disable"
            " min_protocol_version=3.2 application_name=of_3_2"
        )
        command = [str(bin_dir / "psql"), "-XAt", "-d", where]
        with subprocess.Popen(
            [*command, "-c", "select pg_sleep(20)"],
            env={"PGPASSWORD": PASSWORD},
            stderr=subprocess.PIPE,
            text=True,
        ) as psql:
            try:
                _wait_until_it_runs(server, psql)
                psql.send_signal(signal.SIGINT)
                _, complaint = psql.communicate(timeout=WAIT_S)
            finally:
                psql.kill()

    assert "canceling statement due to user request" in complaint


def _wait_until_it_runs(server: PlainServer, psql: "subprocess.Popen[str]") -> None:
    runs = (
        "select 1 from pg_stat_activity"
        " where application_name = 'of_3_2' and wait_event = 'PgSleep'"
    )
    with connect(server.target.address, SERVER_PORT, sslmode="disable") as db:
        until_s = time.monotonic() + WAIT_S
        while not db.execute(runs).fetchone():
            assert psql.poll() is None, psql.communicate()[1]
            assert time.monotonic() < until_s, "the query did not start in time"
            time.sleep(0.02)
