"""Writers, checker and sampler against real servers without any daemon."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from pgbastion.bench.lab.checker import ServerCheck, compare
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.servers import PlainServer
from pgbastion.bench.lab.waits import FIRST_ACKNOWLEDGED_S, wait_for
from pgbastion.bench.lab.workload import (
    SAMPLER_USER,
    USER,
    Place,
    Sampler,
    Writers,
    schema,
)
from support.lab_servers import lab_directory, plain_server

Connection = psycopg.Connection[tuple[Any, ...]]

PASSWORD = secrets.token_hex(8)
PORT = 5442

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def address(target: Target) -> str:
    return f"{target.address}:{target.port}"


def connect(server: PlainServer) -> Connection:
    return psycopg.connect(server.target.conninfo(), autocommit=True)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with lab_directory() as path:
        yield path


@pytest.fixture(scope="module")
def servers(directory: Path) -> Iterator[list[PlainServer]]:
    """Two servers that know nothing of each other: both acknowledge."""
    try:
        with (
            plain_server(directory / "one", "127.36.1.1", PORT, PASSWORD) as one,
            plain_server(directory / "two", "127.36.1.2", PORT, PASSWORD) as two,
        ):
            for server in (one, two):
                with connect(server) as connection:
                    for statement in schema(PASSWORD):
                        connection.execute(statement)
            yield [one, two]
    except CannotRun as why:
        pytest.skip(str(why))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(password=PASSWORD, directory=tmp_path)


@contextmanager
def waiting_for_nobody(admin: Connection) -> Iterator[None]:
    """Let every commit wait for a standby that does not exist."""
    admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    admin.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        admin.execute("SELECT pg_reload_conf()")


def of_commits_that_wait(admin: Connection, user: str, what: LiteralString) -> int:
    query: LiteralString = (
        " FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = %s"
    )
    (number,) = admin.execute("SELECT " + what + query, (user,)).fetchone() or (0,)
    return int(number)


def check(server: PlainServer, writers: Writers) -> ServerCheck:
    with connect(server) as connection:
        rows = connection.execute(
            "SELECT id FROM lab_writes WHERE id >= %s", (writers.first_id,)
        ).fetchall()
    return compare(
        "one",
        [number for (number,) in rows],
        [row.id for row in writers.acknowledged()],
        writers.attempted(),
    )


def write_for(place: Place, targets: list[str], rows: int) -> Writers:
    with Writers(place, targets) as writers:
        wait_for(
            f"{rows} rows",
            lambda: len(writers.acknowledged()) >= rows,
            FIRST_ACKNOWLEDGED_S,
        )
    return writers


def test_a_row_that_was_removed_from_the_table_is_found_lost(
    servers: list[PlainServer], place: Place
) -> None:
    writers = write_for(place, [address(servers[0].target)], rows=100)
    assert check(servers[0], writers).clean
    victim = writers.acknowledged()[50].id

    with connect(servers[0]) as connection:
        connection.execute("DELETE FROM lab_writes WHERE id = %s", (victim,))

    assert check(servers[0], writers).lost == (victim,)


def test_a_row_that_was_inserted_again_is_found_duplicated(
    servers: list[PlainServer], place: Place
) -> None:
    writers = write_for(place, [address(servers[0].target)], rows=20)
    twin = writers.acknowledged()[10].id

    with connect(servers[0]) as connection:
        connection.execute("INSERT INTO lab_writes VALUES (%s)", (twin,))

    assert check(servers[0], writers).duplicated == (twin,)


def test_writers_go_on_at_the_next_address_when_one_refuses(
    servers: list[PlainServer], place: Place
) -> None:
    nobody = f"127.36.1.9:{PORT}"

    writers = write_for(place, [nobody, address(servers[0].target)], rows=20)

    assert {row.via for row in writers.acknowledged()} == {servers[0].target.address}
    assert writers.summary["errors"]


def test_writers_come_back_after_their_sessions_were_ended(
    servers: list[PlainServer], place: Place
) -> None:
    with Writers(place, [address(servers[0].target)]) as writers:
        writers.wait_for_write(writers.started_ns, FIRST_ACKNOWLEDGED_S)
        with connect(servers[0]) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'lab'"
            )
        last = writers.acknowledged()[-1].received_ns
        writers.wait_for_write(last, FIRST_ACKNOWLEDGED_S)

    assert check(servers[0], writers).clean


def test_a_commit_whose_wait_was_cancelled_is_not_acknowledged(
    servers: list[PlainServer], place: Place
) -> None:
    server = servers[0]
    cancel = "count(pg_cancel_backend(pid))"
    with (
        connect(server) as admin,
        waiting_for_nobody(admin),
        Writers(place, [address(server.target)]) as writers,
    ):
        wait_for(
            "a commit that waits",
            lambda: of_commits_that_wait(admin, USER, cancel),
            FIRST_ACKNOWLEDGED_S,
        )

    assert writers.acknowledged() == []
    assert check(server, writers).rows > 0


def test_two_servers_that_both_acknowledge_are_reported(
    servers: list[PlainServer], place: Place
) -> None:
    at = {
        name: address(server.target)
        for name, server in zip(("n1", "n2"), servers, strict=True)
    }
    with Sampler(place, at) as sampler:
        wait_for(
            "samples of both servers",
            lambda: min(sampler.record.read_text().count(f"write {n}") for n in at) > 9,
            FIRST_ACKNOWLEDGED_S,
        )
    report = sampler.report()

    assert {w.node for v in report.violations for w in (v.older, v.newer)} == set(at)
    assert report.longest_double_claim_ms > 200


def test_a_single_server_is_no_violation_and_samples_come_every_50_ms(
    servers: list[PlainServer], place: Place
) -> None:
    with Sampler(place, {"n1": address(servers[0].target)}) as sampler:
        wait_for(
            "twenty samples",
            lambda: sampler.record.read_text().count("write n1") >= 20,
            FIRST_ACKNOWLEDGED_S,
        )
    report = sampler.report()

    assert report.violations == []
    assert report.double_claims == []
    took_ms = (report.writes[-1].sent_ns - report.writes[0].sent_ns) / 1e6
    assert took_ms / (len(report.writes) - 1) >= 45


def test_a_sampled_commit_that_nobody_answers_is_not_acknowledged(
    servers: list[PlainServer], place: Place
) -> None:
    server = servers[0]
    with (
        connect(server) as admin,
        waiting_for_nobody(admin),
        Sampler(place, {"n1": address(server.target)}) as sampler,
    ):
        wait_for(
            "three of the sampler's commits to wait",
            lambda: of_commits_that_wait(admin, SAMPLER_USER, "count(*)") > 2,
            FIRST_ACKNOWLEDGED_S,
        )

    assert sampler.report().writes == []
    assert sampler.summary["n1 write"]["unanswered"] >= 2
