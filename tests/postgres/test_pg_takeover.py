"""What is found where somebody else set PostgreSQL up, and what is added to it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pgbastion.errors import PostgresError
from pgbastion.postgres import roles, unmarked_data
from pgbastion.postgres.bootstrap import single_user
from pgbastion.postgres.config_files import Secrets
from pgbastion.postgres.parse import ControlState
from pgbastion.postgres.takeover_running import CannotTakeOver, TakenOver
from pgbastion.postgres.unmarked_data import (
    PostmasterFile,
    UnmarkedData,
    identify,
    look_around,
)
from support.postgres import PASSWORDS, ROLES, Lab, Server, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(60)]


async def look(server: Server) -> UnmarkedData:
    return await look_around(server.paths, server.files, server.offline)


async def test_a_running_server_is_found_by_pid_program_and_directory(
    one_lab: Lab,
) -> None:
    n1 = await one_lab.primary("n1")
    there = await look(n1)
    assert n1.process is not None
    assert there.postmaster is not None
    assert there.postmaster.pid == n1.process.pid
    assert there.postmaster.port == n1.port
    assert there.postmaster.socket_dir == str(n1.paths.socket_dir)
    assert there.control is not None
    assert there.control.state is ControlState.IN_PRODUCTION
    assert there.control is not None
    assert there.marked
    assert not there.has_standby_signal

    lock = PostmasterFile(
        pid=n1.process.pid,
        data_dir=str(n1.paths.data_dir),
        port=None,
        socket_dir=None,
    )
    assert identify(lock, n1.paths.data_dir.parent) is None
    await n1.crash()
    assert (await look(n1)).postmaster is None


async def test_a_process_that_took_over_the_pid_is_nobodys_postmaster(
    one_lab: Lab,
) -> None:
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    there = n1.paths.data_dir
    (there / "postmaster.pid").write_text(f"{os.getpid()}\n{there}\n0\n5442\n/run\n")
    assert (await look(n1)).postmaster is None


async def test_a_clock_that_was_set_since_hides_no_server(one_lab: Lab) -> None:
    """A machine's clock is often set a moment after its services have begun."""
    n1 = await one_lab.primary("n1")
    assert n1.process is not None
    file = n1.paths.data_dir / "postmaster.pid"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([*lines[:2], str(int(lines[2]) - 86_400), *lines[3:]]))

    there = (await look(n1)).postmaster

    assert there is not None
    assert there.pid == n1.process.pid


async def test_an_empty_a_foreign_and_an_unreadable_directory_are_told_apart(
    one_lab: Lab,
) -> None:
    n1 = one_lab.server("n1")
    assert (await look(n1)).empty
    n1.paths.data_dir.mkdir()
    assert (await look(n1)).empty
    (n1.paths.data_dir / "precious").touch()
    foreign = await look(n1)
    assert not foreign.empty
    assert foreign.control is None
    (n1.paths.data_dir / "precious").unlink()
    n1.paths.data_dir.rmdir()
    n1.paths.data_dir.touch()
    with pytest.raises(PostgresError, match="cannot list"):
        await look(n1)


@pytest.mark.parametrize("text", ["", "12\n/data\n", "-12\n/d\n0\n", "x\n/d\n1\n"])
def test_a_lock_that_names_no_postmaster_is_none(text: str) -> None:
    assert unmarked_data.parse_lock(text) is None


async def test_missing_roles_are_made_and_existing_ones_kept(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1")
    await n1.rows("DROP OWNED BY rewinder")
    await n1.rows("DROP ROLE rewinder")
    await n1.rows("ALTER ROLE replicator PASSWORD 'theirs'")
    problems = await roles.check_roles(n1.connection, ROLES, n1.secrets)
    assert [problem.role for problem in problems] == ["replicator"]
    assert "not the one in password_file" in problems[0].problem

    made = await roles.create_missing(n1.connection, ROLES, n1.secrets)
    assert made == ("rewinder",)
    assert await roles.create_missing(n1.connection, ROLES, n1.secrets) == ()
    theirs = Secrets({**PASSWORDS, "replicator": "theirs"})
    assert await roles.check_roles(n1.connection, ROLES, theirs) == ()

    assert await roles.set_passwords(n1.connection, ROLES, n1.secrets) == (
        "replicator",
    )
    assert await roles.check_roles(n1.connection, ROLES, n1.secrets) == ()
    assert await roles.set_passwords(n1.connection, ROLES, n1.secrets) == ()


async def test_a_role_without_its_rights_is_named(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1")
    await n1.rows("ALTER ROLE replicator NOREPLICATION")
    await n1.rows("ALTER ROLE rewinder NOLOGIN PASSWORD NULL")
    problems = await roles.check_roles(n1.connection, ROLES, n1.secrets)
    assert {(p.role, p.problem) for p in problems} == {
        ("replicator", "it may not replicate"),
        ("rewinder", "it may not log in"),
        ("rewinder", "its password is not stored as scram-sha-256"),
    }


async def test_a_directory_for_configuration_is_kept_apart(one_lab: Lab) -> None:
    """As Debian lays it out: the files of others keep their modes and lines."""
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    apart = n1.with_config_dir(n1.paths.data_dir.parent / "etc")
    conf = apart.paths.conf_dir
    theirs = "host all all 10.0.0.0/8 scram-sha-256\n"
    (conf / "pg_hba.conf").write_text(theirs)
    (conf / "postgresql.conf").chmod(0o644)
    await apart.config.write_access([apart.host])
    await apart.configure()
    await apart.start()
    assert await apart.value("SHOW config_file") == str(conf / "postgresql.conf")
    assert await apart.value("SHOW hba_file") == str(conf / "pg_hba.conf")
    assert await apart.value("SHOW port") == str(apart.port)
    assert (conf / "pg_hba.conf").read_text().endswith(theirs)
    assert (conf / "postgresql.conf").stat().st_mode & 0o777 == 0o644
    assert not (apart.paths.data_dir / "pgbastion.conf").exists()


async def stranger(lab: Lab, *options: str) -> Server:
    """Give a running primary that somebody else made: no mark, no file of ours."""
    n1 = lab.server("n1")
    await n1.bootstrap()
    data = n1.paths.data_dir
    for name in ("pgbastion.cluster", "pgbastion.conf", "pgbastion.recovery.conf"):
        (data / name).unlink()
    (data / "standby.signal").unlink()
    main = data / "postgresql.conf"
    kept = [line for line in main.read_text().splitlines() if "pgbastion" not in line]
    kept += [
        f"port = {n1.port}",
        f"listen_addresses = '{n1.host}'",
        f"unix_socket_directories = '{n1.paths.socket_dir}'",
        "max_connections = 30",
        "max_wal_senders = 16",
        *options,
    ]
    main.write_text("\n".join(kept) + "\n")
    (data / "pg_hba.conf").write_text("local all all scram-sha-256\n")
    await n1.start()
    return n1


async def test_a_running_primary_is_taken_over_and_goes_on(one_lab: Lab) -> None:
    n1 = await stranger(one_lab, "work_mem = '7MB'")
    await n1.rows("CREATE TABLE public.t (i int)")
    await n1.rows("DROP OWNED BY rewinder")
    await n1.rows("DROP ROLE rewinder")
    pid = n1.process.pid if n1.process else 0
    taken = await n1.take_over(await look(n1))
    assert isinstance(taken, TakenOver)
    assert taken.created_roles == ("rewinder",)
    assert "wal_log_hints" in taken.pending_restart
    assert n1.process is not None
    assert n1.process.pid == pid
    await n1.client("INSERT INTO public.t VALUES (1)", deadline_s=5)
    assert await n1.value("SHOW work_mem") == "7MB"
    assert (
        (n1.paths.data_dir / "pg_hba.conf")
        .read_text()
        .endswith("# pgbastion: end\nlocal all all scram-sha-256\n")
    )

    n2 = one_lab.server("n2")
    await n1.config.write_access([n1.host, n2.host])
    await n1.rows("SELECT pg_reload_conf()")
    await n1.primary.open()
    await n1.primary.slots.keep([n2.name])
    await n2.copy_from(n1)
    await n2.start()
    written = await n1.primary.write_position()
    await until(lambda: n2.has_flushed(written))

    again = await n1.take_over(await look(n1))
    assert isinstance(again, CannotTakeOver)
    assert "mark" in again.problems[0]


async def test_what_is_in_the_way_is_named_and_nothing_is_changed(
    one_lab: Lab,
) -> None:
    n1 = await stranger(one_lab, "wal_level = minimal", "max_wal_senders = 0")
    await n1.rows("ALTER ROLE replicator NOREPLICATION")
    before = content(n1.paths.data_dir)
    refused = await n1.take_over(await look(n1))
    assert isinstance(refused, CannotTakeOver)
    assert len(refused.problems) == 3
    words = ("wal_level", "max_wal_senders", "may not replicate")
    for word in words:
        assert any(word in problem for problem in refused.problems)
    assert content(n1.paths.data_dir) == before


async def test_a_server_elsewhere_than_configured_is_not_taken_over(
    one_lab: Lab,
) -> None:
    n1 = await stranger(one_lab)
    there = await look(n1)
    assert there.postmaster is not None
    moved = replace(there.postmaster, port=5433, socket_dir="/elsewhere")
    refused = await n1.take_over(replace(there, postmaster=moved))
    assert isinstance(refused, CannotTakeOver)
    assert "port 5433" in refused.problems[0]
    assert "/elsewhere" in refused.problems[1]
    stopped = await n1.take_over(replace(there, postmaster=None))
    assert isinstance(stopped, CannotTakeOver)
    assert "start it first" in stopped.problems[0]


def content(data: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in data.iterdir() if path.is_file()}


async def test_a_set_that_an_earlier_primary_left_holds_no_statement_up(
    one_lab: Lab,
) -> None:
    """A restored backup names standbys that are nowhere: nobody would confirm."""
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    (n1.paths.data_dir / "standby.signal").unlink()
    settings = n1.paths.data_dir / "postgresql.auto.conf"
    settings.write_text("synchronous_standby_names = 'ANY 1 (gone)'\n")

    await single_user(
        n1.programs,
        str(n1.paths.data_dir),
        ["CREATE TABLE kept (number int)"],
        *n1.paths.server_options()[2:],
        deadline_s=20,
    )
