"""Real clients and a real server through both ports of the proxy."""

import hashlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql

from pgbastion.bench.lab.servers import (
    PlainServer,
)
from pgbastion.proxy.routes import DataPath
from support.proxy_lab import (
    kernel_path_is_possible,
)
from support.proxy_servers import (
    PASSWORD,
    PRIMARY_PORT,
    REPLICA_PORT,
    SERVER_PORT,
    Programs,
    ThreadedProxy,
    connect,
    program,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(server: PlainServer) -> Iterator[ThreadedProxy]:
    """A proxy that relays in user space."""
    with ThreadedProxy(server, DataPath.USERSPACE) as proxy:
        proxy.lead_to("n1")
        yield proxy


@pytest.fixture(params=list(DataPath)[1:])
def either_proxy(
    server: PlainServer, request: pytest.FixtureRequest
) -> Iterator[ThreadedProxy]:
    """A proxy with each data path, for tests that move bytes."""
    if request.param is DataPath.KERNEL and not kernel_path_is_possible():
        pytest.skip("the kernel data path needs CAP_BPF and CAP_NET_ADMIN")
    with ThreadedProxy(server, request.param) as proxy:
        proxy.lead_to("n1")
        yield proxy


@pytest.mark.parametrize("port", [PRIMARY_PORT, REPLICA_PORT])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_psql_logs_in_with_scram_through_both_ports(
    programs: Programs, proxy: ThreadedProxy, port: int, sslmode: str
) -> None:
    where = f"host={proxy.address} port={port} user=postgres sslmode={sslmode}"
    asked = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    done = program(programs, "psql", "-XAt", "-d", where, "-c", asked)

    assert (done.stdout.strip(), done.stderr) == (
        "t" if sslmode == "require" else "f",
        "",
    )


def test_channel_binding_holds_from_end_to_end(proxy: ThreadedProxy) -> None:
    with connect(proxy.address, sslmode="require", channel_binding="require") as db:
        assert db.execute("select 1").fetchone() == (1,)


def test_a_wrong_password_is_the_servers_to_refuse(proxy: ThreadedProxy) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication"):
        psycopg.connect(
            host=proxy.address, port=PRIMARY_PORT, user="postgres", password="wrong"
        )


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_psql_shows_why_it_is_refused(
    programs: Programs, proxy: ThreadedProxy, sslmode: str
) -> None:
    proxy.lead_to(None)
    where = f"host={proxy.address} port={PRIMARY_PORT} user=postgres sslmode={sslmode}"
    done = program(programs, "psql", "-XAt", "-d", where, "-c", "select 1")

    assert done.returncode == 2
    assert "the cluster has no primary now" in done.stderr
    assert "A switchover to n2 is under way." in done.stderr


def test_an_expired_view_refuses(proxy: ThreadedProxy) -> None:
    proxy.lead_to("n1", left_s=-1)

    with pytest.raises(psycopg.OperationalError, match="lost contact"):
        connect(proxy.address)


def test_a_held_client_reaches_the_new_primary(proxy: ThreadedProxy) -> None:
    proxy.lead_to(None, hold=True)
    timer = threading.Timer(0.3, lambda: proxy.lead_to("n2", epoch=2))
    timer.start()

    begin = time.perf_counter()
    with connect(proxy.address, sslmode="require") as db:
        assert db.execute("select 1").fetchone() == (1,)
    timer.join()
    assert 0.25 < time.perf_counter() - begin < 2


@pytest.mark.parametrize("asked", ["select 1", "select pg_sleep(20)"])
def test_a_session_of_an_ex_primary_ends_within_100_ms(
    either_proxy: ThreadedProxy, asked: str
) -> None:
    with connect(either_proxy.address, sslmode="disable") as db:
        changed_s = 0.0

        def change() -> None:
            nonlocal changed_s
            changed_s = time.perf_counter()
            either_proxy.lead_to("n2", epoch=2)

        timer = threading.Timer(0.3, change)
        timer.start()
        if asked == "select 1":
            timer.join()
        with pytest.raises(errors.AdminShutdown, match="n2 in epoch 2"):
            db.execute(asked)
        assert time.perf_counter() - changed_s < 0.1
        timer.join()


def test_an_encrypted_session_of_an_ex_primary_ends_without_words(
    proxy: ThreadedProxy,
) -> None:
    with connect(proxy.address, sslmode="require") as db:
        timer = threading.Timer(0.2, lambda: proxy.lead_to("n2", epoch=2))
        timer.start()
        with pytest.raises(psycopg.OperationalError):
            db.execute("select pg_sleep(20)")
        timer.join()


@pytest.mark.parametrize("sslmode", ["disable", "require"])
@pytest.mark.parametrize("port", [PRIMARY_PORT, REPLICA_PORT])
def test_a_query_is_cancelled_through_the_proxy(
    proxy: ThreadedProxy, sslmode: str, port: int
) -> None:
    """Psycopg's request is encrypted where its session is."""
    with connect(proxy.address, port, sslmode=sslmode) as db:
        timer = threading.Timer(0.3, db.cancel_safe)
        timer.start()
        begin = time.perf_counter()
        with pytest.raises(errors.QueryCanceled):
            db.execute("select pg_sleep(20)")
        timer.join()
        assert time.perf_counter() - begin < 5
        assert db.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_control_c_in_psql_cancels_its_query(
    programs: Programs, proxy: ThreadedProxy, sslmode: str
) -> None:
    """Psql's request is in the clear, also where its session is encrypted."""
    where = f"host={proxy.address} port={PRIMARY_PORT} user=postgres sslmode={sslmode}"
    with subprocess.Popen(
        [str(programs[1] / "psql"), "-XAt", "-d", where, "-c", "select pg_sleep(20)"],
        env={"PGPASSWORD": PASSWORD},
        stderr=subprocess.PIPE,
        text=True,
    ) as psql:
        time.sleep(0.5)
        psql.send_signal(signal.SIGINT)
        _, complaint = psql.communicate(timeout=5)

    assert "canceling statement due to user request" in complaint


def _copy_out(address: str, port: int, sslmode: str) -> str:
    digest = hashlib.sha256()
    with (
        connect(address, port, sslmode=sslmode) as db,
        db.cursor().copy("copy (select * from t order by id) to stdout") as copy,
    ):
        for block in copy:
            digest.update(block)
    return digest.hexdigest()


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_copy_is_exact_to_the_byte_in_both_directions(
    server: PlainServer, either_proxy: ThreadedProxy, sslmode: str
) -> None:
    direct = _copy_out(server.target.address, SERVER_PORT, "disable")
    assert _copy_out(either_proxy.address, PRIMARY_PORT, sslmode) == direct

    table = sql.Identifier(f"copied_{sslmode}")
    with (
        connect(either_proxy.address, sslmode=sslmode) as source,
        connect(either_proxy.address, sslmode=sslmode) as sink,
    ):
        sink.execute(sql.SQL("create temp table {} (like t)").format(table))
        into = sql.SQL("copy {} from stdin").format(table)
        with (
            source.cursor().copy("copy t to stdout") as out,
            sink.cursor().copy(into) as to,
        ):
            for block in out:
                to.write(block)
        differing = sql.SQL(
            "select count(*) from t full join {} c using (id)"
            " where t.body is distinct from c.body"
        ).format(table)
        assert sink.execute(differing).fetchone() == (0,)


def test_pgbench_runs_through_both_ports(
    programs: Programs, either_proxy: ThreadedProxy
) -> None:
    common = ["-h", either_proxy.address, "-U", "postgres"]
    made = program(
        programs, "pgbench", "-i", "-q", "-p", str(PRIMARY_PORT), *common, "postgres"
    )
    assert made.returncode == 0, made.stderr
    for port, extra in (
        (PRIMARY_PORT, ["-N", "-t", "200"]),
        (REPLICA_PORT, ["-S", "-t", "500", "-M", "prepared"]),
        (PRIMARY_PORT, ["-S", "-C", "-t", "10"]),
    ):
        done = program(
            programs, "pgbench", "-n", "-c", "4", "-p", str(port), *common, *extra,
            "postgres",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "number of failed transactions: 0" in done.stdout


def test_pg_dump_sees_the_same_through_the_proxy(
    programs: Programs, server: PlainServer, either_proxy: ThreadedProxy
) -> None:
    def dump(address: str, port: int) -> list[str]:
        done = program(
            programs, "pg_dump", "-h", address, "-p", str(port), "-U", "postgres",
            "-t", "t", "postgres",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # Newer versions put a random word into the dump's first and last line.
        return [line for line in done.stdout.splitlines() if "restrict" not in line]

    through = dump(either_proxy.address, REPLICA_PORT)
    assert through == dump(server.target.address, SERVER_PORT)
    assert len(through) > 20_000
