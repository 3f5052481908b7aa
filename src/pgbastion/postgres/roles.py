"""The roles that pgbastion logs in as, on a server that somebody else set up."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.postgres import scram
from pgbastion.postgres.bootstrap import rewind_grants, role_statement
from pgbastion.postgres.config_files import Secrets
from pgbastion.postgres.connection import Address, Connection, connected
from pgbastion.postgres.layout import PgRoles

DEADLINE_S: Final = 10.0

_ROLES: Final = """
SELECT a.rolname::text, a.rolpassword, a.rolsuper, a.rolreplication, a.rolcanlogin
  FROM pg_catalog.pg_authid AS a WHERE a.rolname = ANY (%s)
"""


RoleRow = tuple[str, str | None, bool, bool, bool]
"""Name, stored password, and whether it is superuser, replicates, may log in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleProblem:
    """Why a role that exists does not do, in words for the operator."""

    role: str
    problem: str


async def check_roles(
    connection: Connection, roles: PgRoles, secrets: Secrets
) -> tuple[RoleProblem, ...]:
    """Return what is wrong with our roles. Missing ones are no problem: see below.

    A password that is stored in another form than SCRAM cannot be compared; that is a
    problem too, since our access rules ask for SCRAM.
    """
    existing = await _existing(connection, roles)
    # As many rounds as somebody chose (scram_iterations).
    return await asyncio.to_thread(judge_roles, existing, roles, secrets)


def judge_roles(
    existing: Iterable[RoleRow], roles: PgRoles, secrets: Secrets
) -> tuple[RoleProblem, ...]:
    """Return what is wrong with the rows of our roles."""
    problems = []
    for name, stored, is_super, replicates, logs_in in existing:
        known = None if stored is None else scram.verifies(stored, secrets.of(name))
        wrong = [
            (known is None, "its password is not stored as scram-sha-256"),
            (known is False, "its password is not the one in password_file"),
            (not logs_in, "it may not log in"),
            (name == roles.superuser and not is_super, "it is no superuser"),
            (
                name == roles.replication and not (replicates or is_super),
                "it may not replicate",
            ),
        ]
        problems += [RoleProblem(role=name, problem=p) for bad, p in wrong if bad]
    return tuple(problems)


async def create_missing(
    connection: Connection, roles: PgRoles, secrets: Secrets
) -> tuple[str, ...]:
    """Make those of our roles that do not exist, and return their names.

    Existing roles keep their passwords and rights; the rewind role gets what pg_rewind
    calls.
    """
    existing = {row[0] for row in await _existing(connection, roles)}
    if roles.superuser not in existing:
        raise PostgresError(f"there is no role {roles.superuser!r} on the server")
    missing = [role for role in roles.all if role not in existing]
    for role in missing:
        await connection.command(
            role_statement(roles, role, secrets, create=True), deadline_s=DEADLINE_S
        )
    for grant in rewind_grants(roles.rewind):
        await connection.command(grant, deadline_s=DEADLINE_S)
    return tuple(missing)


async def set_passwords(
    connection: Connection, roles: PgRoles, secrets: Secrets
) -> tuple[str, ...]:
    """Give our roles the passwords of ``secrets`` where they have others."""
    changed = []
    for name, stored, *_ in await _existing(connection, roles):
        if stored is None or not scram.verifies(stored, secrets.of(name)):
            await connection.command(
                role_statement(roles, name, secrets, create=False),
                deadline_s=DEADLINE_S,
            )
            changed.append(name)
    return tuple(changed)


async def renew_passwords(
    address: Address, roles: PgRoles, secrets: Secrets, *, deadline_s: float
) -> tuple[str, ...]:
    """Set the passwords on the server at ``address``; return whose were others."""
    async with connected(address, deadline_s=deadline_s) as connection:
        return await set_passwords(connection, roles, secrets)


async def _existing(connection: Connection, roles: PgRoles) -> list[RoleRow]:
    rows = await connection.rows(_ROLES, (list(roles.all),), deadline_s=DEADLINE_S)
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]
