"""A PostgreSQL without our mark, stopped or running, becomes the cluster's first.

It is taken as it is: data, roles, passwords, settings and access rules stay; ours are
added. What cannot be taken over is refused before anything is changed.
"""

import json
import re
from collections.abc import Sequence
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.ha.ports import RunningServer
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.bootstrap import rewind_grants, role_statement, single_user
from pgbastion.postgres.config_files import ConfigFiles, Secrets
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import BACKUP_LABEL, PgIdentity, PgPaths
from pgbastion.postgres.mark import Mark, MarkFile, new_data_id
from pgbastion.postgres.offline import Offline
from pgbastion.postgres.programs import Programs
from pgbastion.postgres.render import quote_literal
from pgbastion.postgres.roles import RoleRow, judge_roles
from pgbastion.postgres.takeover_running import LOGICAL, CannotTakeOver, RunningTakeOver
from pgbastion.postgres.unmarked_data import UnmarkedData, look_around

# In single-user mode rows are printed for people; hexadecimal digits survive that.
_ROWS: Final = """
SELECT pg_catalog.encode(pg_catalog.convert_to(coalesce(pg_catalog.jsonb_agg(
    pg_catalog.jsonb_build_array(
        a.rolname, a.rolpassword, a.rolsuper, a.rolreplication, a.rolcanlogin)
    )::text, '[]'), 'UTF8'), 'hex') AS roles
FROM pg_catalog.pg_authid AS a WHERE a.rolname IN ({names})
"""
_PRINTED: Final = re.compile(r'roles = "([0-9a-f]*)"')
# A server that ran with less starts in no recovery, and so not as a standby.
_WAL_LEVEL: Final = ("-c", "wal_level=replica", "-c", "max_wal_senders=10")

log = get_logger("postgres")


class TakeOver:
    """Takes over what somebody else set up in this node's data directory."""

    def __init__(
        self,
        paths: PgPaths,
        identity: PgIdentity,
        files: Files,
        *,
        programs: Programs,
        offline: Offline,
        config: ConfigFiles,
        mark_file: MarkFile,
        secrets: Secrets,
    ) -> None:
        self._paths = paths
        self._identity = identity
        self._files = files
        self._programs = programs
        self._offline = offline
        self._config = config
        self._mark_file = mark_file
        self._secrets = secrets
        self._running = RunningTakeOver(paths, identity, config, mark_file, secrets)

    async def check(self) -> RunningServer | None:
        """Return the server that runs there, if one does.

        A stopped one is started in single-user mode for a moment, to look at its roles.

        Raises:
            PostgresError: It cannot be taken over; every obstacle with its remedy.
        """
        found = await self._look()
        running = found.postmaster
        if running is not None:
            problems = await self._running.check(found, primary=None)
        else:
            problems = await self._obstacles(found)
            if not problems:
                roles = judge_roles(
                    await self._roles(), self._identity.roles, self._secrets
                )
                problems = tuple(f"role {r.role}: {r.problem}" for r in roles)
        if problems:
            raise PostgresError(self._refusal(problems))
        if running is None:
            return None
        return RunningServer(pid=running.pid, start=running.start)

    async def take_over(self, cluster_id: str, members: Sequence[str]) -> None:
        """Add to it what the cluster needs; the mark comes last.

        Raises:
            PostgresError: It cannot be taken over, or files cannot be written.
        """
        mark = Mark(
            cluster_id=cluster_id, data_id=new_data_id(), node=self._identity.node
        )
        found = await self._look()
        if found.postmaster is None:
            await self._take_stopped(mark)
            return
        taken = await self._running.take(found, mark, members, primary=None)
        if isinstance(taken, CannotTakeOver):
            raise PostgresError(self._refusal(taken.problems))
        if taken.pending_restart:
            log.warning("restart_is_due", settings=", ".join(taken.pending_restart))

    async def _look(self) -> UnmarkedData:
        return await look_around(self._paths, self._files, self._offline)

    def _refusal(self, problems: Sequence[str]) -> str:
        return (
            f"the PostgreSQL in {self._paths.data_dir} cannot be taken over: "
            + "; ".join(problems)
        )

    async def _obstacles(self, found: UnmarkedData) -> tuple[str, ...]:
        """Return what is in the way of a stopped server."""
        data_dir, conf_dir = self._paths.data_dir, self._paths.conf_dir
        control = found.control
        if control is None:
            return (f"{data_dir} holds no PostgreSQL",)
        programs = (await self._programs.version()).major
        recovery = await self._files.read(data_dir / "recovery.signal")
        label = await self._files.read(data_dir / BACKUP_LABEL)
        main = await self._files.read(conf_dir / "postgresql.conf")
        is_standby = found.has_standby_signal or control.state.is_standby
        if main is None:
            return (f"{conf_dir} has no postgresql.conf: set postgresql.config_dir",)
        theirs = await self._programs.setting("wal_level")
        checks = [
            (
                theirs == "logical" != self._config.settings({})["wal_level"],
                LOGICAL,
            ),
            (
                found.major != programs,
                f"it is of version {found.major}, postgresql.bin_dir of {programs}",
            ),
            (
                is_standby or recovery is not None,
                "it is a standby: found the cluster with its primary",
            ),
            (
                label is not None,
                "it is a base backup that was never started: start and stop it once",
            ),
        ]
        return tuple(text for wrong, text in checks if wrong)

    async def _roles(self) -> list[RoleRow]:
        """Return the rows of our roles on the stopped server."""
        await self._offline.recover()
        names = ", ".join(quote_literal(role) for role in self._identity.roles.all)
        printed = await self._single_user([_ROWS.format(names=names)])
        match = _PRINTED.search(printed)
        if match is None:
            raise PostgresError("the stopped server does not show its roles")
        return [tuple(row) for row in json.loads(bytes.fromhex(match[1]))]

    async def _take_stopped(self, mark: Mark) -> None:
        existing = {row[0] for row in await self._roles()}
        roles = self._identity.roles
        missing = [role for role in roles.all if role not in existing]
        statements = [
            role_statement(roles, role, self._secrets, create=True) for role in missing
        ]
        await self._single_user([*statements, *rewind_grants(roles.rewind)])
        # Each start from now on writes the configuration first.
        await self._mark_file.write(mark)
        log.info("data_taken_over", created_roles=",".join(missing))

    async def _single_user(self, statements: Sequence[str]) -> str:
        return await single_user(
            self._programs,
            str(self._paths.data_dir),
            [" ".join(statement.split()) for statement in statements],
            *self._paths.server_options()[2:],
            *_WAL_LEVEL,
        )
