"""What a server lacks for the data that it has is found before it is needed."""

import pytest

from pgbastion.postgres import fitness
from pgbastion.postgres.connection import Connection, ServerSilentError
from pgbastion.postgres.fitness import SINCE_VERSION, Fitness
from support.postgres import ROLES, Lab, Server, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(60)]

DEADLINE_S = 10.0


async def change(server: Server, *statements: str) -> int:
    """Change the catalogs as no other machine would leave them; return the version."""
    session = Connection(server.address())
    await session.open(deadline_s=DEADLINE_S)
    try:
        for statement in statements:
            await session.command(statement, deadline_s=DEADLINE_S)
        query = "SELECT pg_catalog.current_setting('server_version_num')::integer"
        [[version]] = await session.rows(query, deadline_s=DEADLINE_S)
        return int(str(version))
    finally:
        await session.close()


async def test_what_a_server_lacks_is_named(
    any_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    n1 = await any_lab.primary("n1")
    looking = Fitness(n1.address(), ROLES, n1.secrets, deadline_s=DEADLINE_S)
    assert await looking.find() == ()

    version = await change(
        n1,
        "UPDATE pg_proc SET probin = '$libdir/nowhere'"
        " WHERE proname = 'plpgsql_inline_handler'",
        "UPDATE pg_extension SET extname = 'gone' WHERE extname = 'plpgsql'",
    )
    lacking = {
        "database postgres needs the extension gone",
        "database postgres needs the library nowhere",
    }
    assert set(await looking.find()) == lacking

    if version >= SINCE_VERSION:
        await change(n1, "UPDATE pg_database SET datcollversion = '1.0'")
        told = [flaw for flaw in await looking.find() if flaw not in lacking]
        assert len(told) == 2
        assert "collation of database postgres is of version 1.0" in told[0]

    # In its own time, beside everything else.
    monkeypatch.setattr(fitness, "EVERY_NS", 0)
    looking.look_soon()

    async def found() -> bool:
        return lacking <= set(looking.flaws)

    await until(found)
    await looking.close()


async def test_a_password_that_somebody_changed_is_named(one_lab: Lab) -> None:
    """Before a daemon or a standby has to log in with it anew."""
    n1 = await one_lab.primary("n1")
    looking = Fitness(n1.address(), ROLES, n1.secrets, deadline_s=DEADLINE_S)
    await change(n1, f"ALTER ROLE {ROLES.replication} PASSWORD 'another'")

    [flaw] = await looking.find()
    assert f"role {ROLES.replication}: its password is not" in flaw

    await change(n1, f"ALTER ROLE {ROLES.superuser} PASSWORD 'another'")
    [flaw] = await looking.find()
    assert f"it refuses the password of {ROLES.superuser}" in flaw


@pytest.mark.parametrize(
    ("line", "error"),
    [("wrok_mem = 4MB", "unrecognized"), ("work_mem 4MB 5", "syntax error")],
)
async def test_files_of_which_the_server_takes_up_nothing_are_named(
    one_lab: Lab, line: str, error: str
) -> None:
    """L1: it could neither be cut for a survey nor be given a set, and says nothing."""
    n1 = await one_lab.primary("n1")
    looking = Fitness(n1.address(), ROLES, n1.secrets, deadline_s=DEADLINE_S)
    file = n1.paths.data_dir / "postgresql.conf"
    text = file.read_text()

    file.write_text(f"max_locks_per_transaction = 99\nwork_mem = much\n{text}")
    assert await looking.find() == ()

    file.write_text(f"{line}\n{text}")
    [flaw] = await looking.find()
    assert flaw.startswith(f"{file}, line 1: ")
    assert error in flaw


async def test_a_server_that_is_gone_tells_nothing(one_lab: Lab) -> None:
    n1 = one_lab.server("n1")
    looking = Fitness(n1.address(), ROLES, n1.secrets, deadline_s=DEADLINE_S)

    with pytest.raises(ServerSilentError):
        await looking.find()

    looking.look_soon()
    await looking.close()
    assert looking.flaws == ()
