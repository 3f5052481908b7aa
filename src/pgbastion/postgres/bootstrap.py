"""Make the cluster's first data directory: initdb, roles, mark, configuration.

Everything happens in a staging directory, which takes the place of the data directory
when it is complete. The roles are made in single-user mode, so the server never opens
without passwords; what is secret goes through standard input.
"""

import secrets as random
from collections.abc import Mapping, Sequence
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.postgres import scram
from pgbastion.postgres.config_files import Secrets
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgPaths, PgRoles
from pgbastion.postgres.mark import MARK_NAME, Mark, render_mark
from pgbastion.postgres.programs import Programs
from pgbastion.postgres.render import quote_identifier, quote_literal
from pgbastion.postgres.staging import Staging

INITDB_DEADLINE_S: Final = 120.0
SINGLE_USER_DEADLINE_S: Final = 60.0

# What pg_rewind calls on the source as an ordinary role (PostgreSQL, "pg_rewind").
REWIND_FUNCTIONS: Final = (
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
)


async def init_cluster(
    paths: PgPaths,
    files: Files,
    programs: Programs,
    *,
    roles: PgRoles,
    secrets: Secrets,
    mark: Mark,
    limits: Mapping[str, int],
) -> None:
    """Make a data directory with roles and mark. The configuration files come after.

    Args:
        paths: Where.
        files: How files are written.
        programs: How programs are run.
        roles: The names of our roles.
        secrets: Their passwords.
        mark: The mark of the new directory.
        limits: max_connections and its like. pg_control keeps them, and a standby, as
            which every server starts, may not undercut what is kept there.

    Raises:
        PostgresError: Something failed, or the data directory is not empty; nothing of
            it is in the data directory then.
    """
    staging = await Staging.of(paths, files)
    await staging.begin(replace=False)
    # "reject" is what initdb writes where no password is given; our own pg_hba.conf
    # replaces it before the first start.
    await programs.run(
        "initdb",
        "--pgdata",
        str(staging.path),
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
        "--auth=reject",
        f"--username={roles.superuser}",
        deadline_s=INITDB_DEADLINE_S,
    )
    statements = role_statements(roles, secrets)
    options = [word for name, n in limits.items() for word in ("-c", f"{name}={n}")]
    await single_user(programs, str(staging.path), statements, *options)
    await files.write(staging.path / MARK_NAME, render_mark(mark))
    await staging.install()


async def single_user(
    programs: Programs,
    data_dir: str,
    statements: Sequence[str],
    *options: str,
    deadline_s: float = SINGLE_USER_DEADLINE_S,
) -> str:
    """Run statements in single-user mode, no clients, no network; return its output.

    Starting it also recovers from a crash, and it ends with a shutdown checkpoint.
    """
    output = await programs.run(
        "postgres",
        "--single",
        "-j",
        "-D",
        data_dir,
        "-c",
        "exit_on_error=on",
        "-c",
        "log_statement=none",
        "-c",
        "log_min_error_statement=panic",
        *options,
        # No standby streams from here: a set that an earlier primary left in the
        # settings would hold every statement for ever.
        "-c",
        "synchronous_standby_names=",
        "template1" if not statements else "postgres",
        deadline_s=deadline_s,
        stdin="".join(f"{statement};\n\n" for statement in statements),
    )
    return output.stdout


def role_statements(roles: PgRoles, secrets: Secrets) -> list[str]:
    """Return the statements that make our roles in a cluster that initdb just made."""
    statements = [
        role_statement(roles, role, secrets, create=role != roles.superuser)
        for role in roles.all
    ]
    return statements + rewind_grants(roles.rewind)


def role_statement(roles: PgRoles, role: str, secrets: Secrets, *, create: bool) -> str:
    """Return the statement that makes or changes one of our roles.

    It holds the password's verifier, never the password: statements reach logs.
    """
    rights = {
        roles.superuser: "SUPERUSER LOGIN",
        roles.replication: "REPLICATION LOGIN",
        roles.rewind: "LOGIN",
    }[role]
    if "\n" in role:
        raise PostgresError(f"not a name of a role: {role!r}")
    verb = "CREATE" if create else "ALTER"
    hidden = scram.verifier(secrets.of(role), random.token_bytes(scram.SALT_BYTES))
    return (
        f"{verb} ROLE {quote_identifier(role)} WITH {rights}"
        f" PASSWORD {quote_literal(hidden)}"
    )


def rewind_grants(role: str) -> list[str]:
    """Return the statements that let ``role`` be the source of a rewind.

    It logs in to the database ``postgres``, also where that is closed to the public.
    """
    name = quote_identifier(role)
    return [
        f"GRANT CONNECT ON DATABASE postgres TO {name}",
        *(f"GRANT EXECUTE ON FUNCTION {f} TO {name}" for f in REWIND_FUNCTIONS),
    ]
