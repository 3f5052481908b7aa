"""The first data directory, and how directories take each other's place."""

import os
import stat
from pathlib import Path

import pytest

from pgbastion.errors import PostgresError
from pgbastion.model.ids import Epoch
from pgbastion.postgres import scram, staging
from pgbastion.postgres.connection import Connection, ServerSilentError
from pgbastion.postgres.staging import COMPLETE, INSIDE_NEW, INSIDE_OLD, Staging
from support.postgres import PASSWORDS, ROLES, Lab, Server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]


async def test_the_server_never_opens_without_passwords(any_lab: Lab) -> None:
    n1 = await any_lab.primary("n1", initdb=True)
    rows = await n1.rows(
        "SELECT rolname, rolpassword, rolsuper, rolreplication FROM pg_authid"
        " WHERE rolcanlogin ORDER BY rolname"
    )
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (ROLES.superuser, True, True),
        (ROLES.replication, False, True),
        (ROLES.rewind, False, False),
    ]
    for role, stored, *_ in rows:
        assert scram.verifies(str(stored), PASSWORDS[str(role)])
    wrong = Connection(n1.address(password="wrong"))
    with pytest.raises(ServerSilentError, match="password authentication failed"):
        await wrong.open(deadline_s=5)
    assert await n1.value("SHOW data_checksums") == "on"
    assert await n1.value("SHOW server_encoding") == "UTF8"


async def test_the_programs_leave_no_secret_in_log_or_directory(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1", initdb=True)
    await n1.stop()
    for path in [n1.log, *n1.paths.data_dir.glob("*.conf")]:
        text = path.read_text()
        assert not any(password in text for password in PASSWORDS.values())


async def test_every_file_of_ours_is_the_servers_and_private(one_lab: Lab) -> None:
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    names = ["pgbastion.conf", "pgbastion.recovery.conf", "pgbastion.cluster"]
    names += ["pg_hba.conf", "standby.signal", "postgresql.conf"]
    paths = [n1.paths.data_dir / name for name in names] + [n1.paths.passfile]
    for path in paths:
        found = path.stat()
        assert found.st_uid == n1.paths.account.uid
        assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(n1.paths.data_dir.stat().st_mode) == 0o700


async def test_the_configuration_is_what_the_server_goes_by(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1", work_mem="3MB")
    assert (
        await n1.value("SELECT count(*) FROM pg_file_settings WHERE error <> ''") == 0
    )
    wanted = {"port": str(n1.port), "listen_addresses": n1.host, "work_mem": "3MB"}
    wanted |= {"restart_after_crash": "off", "wal_log_hints": "on"}
    wanted |= {"max_connections": "30", "wal_retrieve_retry_interval": "50ms"}
    for name, value in wanted.items():
        assert await n1.value(f"SHOW {name}") == value


async def test_a_server_that_lost_its_volatile_settings_does_not_start(
    one_lab: Lab,
) -> None:
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    (n1.paths.data_dir / "pgbastion.recovery.conf").unlink()
    with pytest.raises(AssertionError, match=r"pgbastion\.recovery\.conf"):
        await n1.start()


async def test_a_humans_alter_system_does_not_weaken_the_set(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1")
    await n1.rows("ALTER SYSTEM SET synchronous_standby_names = ''")
    await n1.rows("ALTER SYSTEM SET work_mem = '5MB'")
    await n1.rows("ALTER SYSTEM SET synchronous_commit = 'local'")
    assert set(await n1.config.sanitise()) == {
        "synchronous_commit",
        "synchronous_standby_names",
    }
    assert await n1.config.sanitise() == ()
    await n1.rows("SELECT pg_reload_conf()")
    fresh = Connection(n1.address())
    await fresh.open(deadline_s=5)
    rows = await fresh.rows("SHOW synchronous_standby_names", deadline_s=5)
    assert "pgbastion:nobody" in rows[0][0]
    assert (await fresh.rows("SHOW work_mem", deadline_s=5))[0][0] == "5MB"
    await fresh.close()


async def test_a_warm_connection_that_the_server_ended_is_made_anew(
    one_lab: Lab,
) -> None:
    n1 = await one_lab.primary("n1")
    await n1.primary.open()
    other = Connection(n1.address())
    await other.open(deadline_s=5)
    await other.rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        deadline_s=10,
    )
    await other.close()

    await n1.primary.reload()


async def test_a_directory_with_anything_in_it_is_not_initialised(
    one_lab: Lab,
) -> None:
    n1 = one_lab.server("n1")
    n1.paths.data_dir.mkdir()
    (n1.paths.data_dir / "precious").write_text("user's")
    with pytest.raises(PostgresError, match="is not empty"):
        await n1.bootstrap(initdb=True)
    assert [p.name for p in n1.paths.data_dir.iterdir()] == ["precious"]


async def test_the_mark_only_ever_rises(one_lab: Lab) -> None:
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    await n1.mark_file.update(epoch=Epoch(4), cut=Epoch(3))
    mark = await n1.mark_file.update(epoch=Epoch(2), cut=Epoch(1), promoted=Epoch(1))
    assert (mark.epoch, mark.cut_epoch, mark.promoted_epoch) == (4, 3, 1)
    assert await n1.mark() == mark


async def test_a_damaged_mark_is_not_taken_for_none(one_lab: Lab) -> None:
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    (n1.paths.data_dir / "pgbastion.cluster").write_text('{"version": 1')
    with pytest.raises(PostgresError, match="damaged"):
        await n1.mark_file.read()


def staged(server: Server) -> Staging:
    """Give a full staging directory inside a data directory that has old content."""
    data = server.paths.data_dir
    for path in (data / "global", data / "base", data / INSIDE_NEW / "global"):
        path.mkdir(parents=True)
    for name in ("only_old", "both"):
        (data / name).write_text("old")
    for name in ("only_new", "both"):
        (data / INSIDE_NEW / name).write_text("new")
    return Staging(server.paths, server.files, beside=False)


def content(data: Path) -> dict[str, str]:
    return {
        path.name: path.read_text() if path.is_file() else "directory"
        for path in data.iterdir()
    }


FINISHED = {"global": "directory", "only_new": "new", "both": "new"}


async def test_inside_a_mount_point_entries_take_each_others_place(
    one_lab: Lab,
) -> None:
    n1 = one_lab.server("n1")
    await staged(n1).install()
    assert content(n1.paths.data_dir) == FINISHED


@pytest.mark.parametrize("renames", range(8))
async def test_an_exchange_that_was_cut_short_is_finished(
    one_lab: Lab, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    n1 = one_lab.server("n1")
    one = staged(n1)
    left = renames
    rename = Path.rename

    def fragile(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise OSError("the power failed")
        left -= 1
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fragile)
    try:
        await one.install()
        assert renames >= 7
    except PostgresError:
        assert (n1.paths.data_dir / INSIDE_NEW / COMPLETE).exists()
    monkeypatch.setattr(Path, "rename", rename)
    await staging.repair(n1.paths, n1.files)
    found = content(n1.paths.data_dir)
    found.pop(INSIDE_OLD, None)
    assert found == FINISHED


async def test_a_data_directory_swaps_names_in_one_step(one_lab: Lab) -> None:
    n1 = one_lab.server("n1")
    data = n1.paths.data_dir
    data.mkdir()
    (data / "old").write_text("old")
    os.chown(data, n1.paths.account.uid, n1.paths.account.gid)
    one = await Staging.of(n1.paths, n1.files)
    await one.begin(replace=True)
    (one.path / "new").write_text("new")
    await one.install(keep_old=True)
    assert content(data) == {"new": "new"}
    assert content(one.old) == {"old": "old"}
    assert not one.path.exists()
