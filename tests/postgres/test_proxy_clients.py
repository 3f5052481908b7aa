"""Clients that nobody here wrote, through both ports, where TLS ends in the proxy."""

import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from pgbastion.bench.lab.servers import PlainServer, as_os_user, os_user
from pgbastion.proxy.routes import DataPath
from pgbastion.proxy.tls import TlsFiles
from support.certificates import make_certificate
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

POOLER_PORT = 15444
STARTED_S = 10.0


@pytest.fixture(params=["off", "ca"])
def ending(
    server: PlainServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ThreadedProxy]:
    """A proxy in which TLS ends; with the server it speaks plainly, or TLS again."""
    cert, key = make_certificate(tmp_path, "proxy")
    ca = server.data_dir / "server.crt" if request.param == "ca" else None
    files = TlsFiles(cert=cert, key=key, required=True, verify=request.param, ca=ca)
    # Two certificates: what a client binds to is not what the server has.
    monkeypatch.setenv("PGCHANNELBINDING", "disable")
    with ThreadedProxy(server, DataPath.USERSPACE, tls=files) as proxy:
        proxy.lead_to("n1")
        yield proxy


Client = Callable[[Programs, str, int], str]


def by_psql(programs: Programs, address: str, port: int) -> str:
    where = f"host={address} port={port} user=postgres sslmode=require"
    return output(programs, "psql", "-XAt", "-d", where, "-c", "select count(*) from t")


def by_psycopg(_programs: Programs, address: str, port: int) -> str:
    with connect(address, port, sslmode="require") as db:
        row = db.execute("select count(*) from t").fetchone()
    assert row is not None
    return str(row[0])


def by_asyncpg(_programs: Programs, address: str, port: int) -> str:
    async def count() -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = await asyncpg.connect(
            host=address,
            port=port,
            user="postgres",
            password=PASSWORD,
            database="postgres",
            ssl=context,
            timeout=10,
        )
        try:
            return str(await connection.fetchval("select count(*) from t"))
        finally:
            await connection.close()

    return asyncio.run(count())


def by_pg_dump(programs: Programs, address: str, port: int) -> str:
    where = f"host={address} port={port} user=postgres sslmode=require dbname=postgres"
    dumped = output(programs, "pg_dump", "-d", where, "-t", "t", "--data-only")
    return str(len(re.findall(r"^\d+\t[0-9a-f]{960}$", dumped, re.MULTILINE)))


def by_pgbench(programs: Programs, address: str, port: int) -> str:
    script = programs[0] / "count.sql"
    script.write_text("select 1 / (count(*) = 20000)::int from t where id > 0;\n")
    script.chmod(0o644)
    where = f"host={address} port={port} user=postgres sslmode=require dbname=postgres"
    said = output(
        programs, "pgbench", "-n", "-c", "4", "-t", "25", "-f", str(script), where
    )
    assert "number of transactions actually processed: 100/100" in said
    return "20000"


def by_pgbouncer(programs: Programs, address: str, port: int) -> str:
    if shutil.which("pgbouncer", path=PATH) is None:
        pytest.skip("the program pgbouncer is missing (package pgbouncer)")
    with pooler(programs, address, port):
        where = f"host={address} port={POOLER_PORT} user=postgres dbname=postgres"
        arguments = ("-XAt", "-d", where, "-c", "select count(*) from t")
        return output(programs, "psql", *arguments)


PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"


@contextmanager
def pooler(programs: Programs, address: str, port: int) -> Iterator[None]:
    """Run PgBouncer, which speaks TLS to the proxy and plainly to its clients."""
    home = programs[0] / f"pooler-{port}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / "users.txt").write_text(f'"postgres" "{PASSWORD}"\n')
    (home / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host={address} port={port}\n"
        f"[pgbouncer]\nlisten_addr = {address}\nlisten_port = {POOLER_PORT}\n"
        f"auth_type = scram-sha-256\nauth_file = {home}/users.txt\n"
        f"unix_socket_dir = {home}\nserver_tls_sslmode = require\n"
        f"pool_mode = transaction\nlogfile = {home}/log\npidfile = {home}/pid\n"
    )
    if os.geteuid() == 0:
        for path in (home, *home.iterdir()):
            shutil.chown(path, os_user())
    found = shutil.which("pgbouncer", path=PATH)
    assert found is not None
    command = [*as_os_user(), found, "--quiet", str(home / "pgbouncer.ini")]
    with subprocess.Popen(command, cwd="/") as process:
        try:
            until = time.monotonic() + STARTED_S
            while "process up" not in _read(home / "log"):
                assert process.poll() is None, _read(home / "log")
                assert time.monotonic() < until, "PgBouncer did not start"
                time.sleep(0.05)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def output(programs: Programs, name: str, *arguments: str) -> str:
    done = program(programs, name, *arguments, PGCHANNELBINDING="disable")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CLIENTS: list[Client] = [
    by_psql,
    by_psycopg,
    by_asyncpg,
    by_pg_dump,
    by_pgbench,
    by_pgbouncer,
]


@pytest.mark.parametrize("port", [PRIMARY_PORT, REPLICA_PORT])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reads_through_a_proxy_in_which_tls_ends(
    programs: Programs, ending: ThreadedProxy, client: Client, port: int
) -> None:
    assert client(programs, ending.address, port) == "20000"


def test_the_servers_side_is_encrypted_where_it_is_verified(
    server: PlainServer, ending: ThreadedProxy
) -> None:
    asked = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    assert ending.tls is not None
    with connect(ending.address, sslmode="require") as db:
        row = db.execute(asked).fetchone()
    assert row == (ending.tls.verify != "off",)
    with connect(server.target.address, SERVER_PORT, sslmode="disable") as db:
        assert db.execute(asked).fetchone() == (False,)


def test_channel_binding_holds_where_proxy_and_server_have_one_certificate(
    server: PlainServer, tmp_path: Path
) -> None:
    files = {}
    for name in ("server.crt", "server.key"):
        files[name] = tmp_path / name
        shutil.copyfile(server.data_dir / name, files[name])
    cert = files["server.crt"]
    both = TlsFiles(cert=cert, key=files["server.key"], verify="ca", ca=cert)
    with ThreadedProxy(server, DataPath.USERSPACE, tls=both) as proxy:
        proxy.lead_to("n1")
        with connect(proxy.address, sslmode="require", channel_binding="require") as db:
            assert db.execute("select 1").fetchone() == (1,)
