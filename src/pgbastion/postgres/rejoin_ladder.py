"""Look at a stopped server and at the primary, and take the steps of `rejoin`."""

from dataclasses import replace
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import parse_lsn
from pgbastion.observe.logging import get_logger
from pgbastion.postgres import rejoin
from pgbastion.postgres.connection import Address, Connection, connected
from pgbastion.postgres.files import Files
from pgbastion.postgres.history import HistoryFiles
from pgbastion.postgres.layout import BACKUP_LABEL, PgPaths
from pgbastion.postgres.mark import Mark, MarkFile
from pgbastion.postgres.offline import Offline
from pgbastion.postgres.parse import History, parse_history
from pgbastion.postgres.programs import Programs
from pgbastion.postgres.render import Upstream
from pgbastion.postgres.source import FromPrimary, Progress
from pgbastion.postgres.staging import is_unfinished
from pgbastion.postgres.unmarked_data import check_unoccupied

DEADLINE_S: Final = 5.0

_STATE: Final = """
SELECT pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('server_version_num')::int,
       (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() AS c),
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.pg_current_wal_insert_lsn()::text END
"""

log = get_logger("postgres")


async def ask_primary(address: Address) -> rejoin.SourceState:
    """Ask a server for its history and state, by the replication protocol.

    Raises:
        PostgresError: It does not answer, or not in time.
    """
    replicating = replace(address, replication=True)
    async with connected(replicating, deadline_s=DEADLINE_S) as connection:
        state = (await connection.rows(_STATE, deadline_s=DEADLINE_S))[0]
        system = (await connection.rows("IDENTIFY_SYSTEM", deadline_s=DEADLINE_S))[0]
        timeline = Timeline(int(system[1]))
        history = await _fetch_history(connection, timeline)
    return rejoin.SourceState(
        system_identifier=str(system[0]),
        major=state[1] // 10_000,
        in_recovery=state[0],
        history=history,
        written=parse_lsn(state[3] or system[2]),
        checkpoint_timeline=Timeline(state[2]),
    )


async def _fetch_history(connection: Connection, timeline: Timeline) -> History:
    if timeline == 1:
        return History(timeline=timeline)
    rows = await connection.command(
        f"TIMELINE_HISTORY {timeline}", deadline_s=DEADLINE_S
    )
    content = rows[0][1]
    text = content.decode() if isinstance(content, bytes) else str(content)
    return parse_history(timeline, text)


class Ladder:
    """Brings the stopped server of one node back behind the primary, step by step."""

    def __init__(
        self,
        paths: PgPaths,
        files: Files,
        programs: Programs,
        offline: Offline,
        source: FromPrimary,
    ) -> None:
        self._paths = paths
        self._files = files
        self._programs = programs
        self._offline = offline
        self._source = source
        self._histories = HistoryFiles(paths, files)
        self._mark = MarkFile(paths, files)

    async def decide(self, primary: Address) -> rejoin.Step:
        """Return the next step, by what is found now on both sides.

        Raises:
            PostgresError: One of them cannot be looked at, or the directory is in use.
        """
        await check_unoccupied(self._paths, self._files)
        source = await ask_primary(primary)
        return rejoin.decide_rejoin(await self.local_state(), source)

    async def local_state(self) -> rejoin.LocalState:
        """Look at the stopped server's files."""
        control = await self._offline.control()
        data_dir = self._paths.data_dir
        major = (await self._programs.version()).major
        local = rejoin.LocalState(
            control=control,
            major=major,
            programs_major=major,
            wal_end=None,
            history=None,
        )
        if await self._files.read(self._paths.work_flag) is not None:
            # Cut short, a rewind leaves any file empty: nothing more is read.
            return replace(local, unfinished=True)
        version = await self._files.read(data_dir / "PG_VERSION")
        label = await self._files.read(data_dir / BACKUP_LABEL)
        moved = await self._files.run("look", lambda: is_unfinished(data_dir))
        here, needed = await self._offline.wal_on_disk(control), control.min_recovery
        # A directory that was rewound needs WAL that it does not have yet.
        end = max((end for end in (here, needed) if end is not None), default=None)
        history = None
        mark = await self._mark.read()
        strayed = False
        if end is not None:
            strayed = mark is not None and rejoin.has_strayed(
                mark, control, end, has_backup_label=label is not None
            )
            history = await self._histories.read(end.timeline)
            if history is None and end.timeline == 1:
                history = History(timeline=end.timeline)
        return replace(
            local,
            major=_major(version),
            wal_end=end,
            history=history,
            lacks_wal=needed is not None and (here is None or here < needed),
            has_backup_label=label is not None,
            unfinished=moved,
            has_strayed=strayed,
        )

    async def take(
        self,
        step: rejoin.CrashRecover | rejoin.Rewind | rejoin.Copy,
        upstream: Upstream,
        mark: Mark,
        *,
        progress: Progress | None = None,
    ) -> rejoin.Copy | None:
        """Take a step; decide again after it. ``mark`` has a new data id.

        Returns:
            None: it is done; the configuration files of a standby have to be written.
            `Copy`: the rewind is impossible and has changed nothing.

        Raises:
            PostgresError: The step failed, or the directory is in use. A rewind that
                failed half-way leaves the directory marked as unfinished: only a copy
                follows.
        """
        await check_unoccupied(self._paths, self._files)
        log.info("rejoin_step", step=type(step).__name__, reason=step.reason)
        match step:
            case rejoin.CrashRecover():
                await self._offline.recover()
            case rejoin.Rewind():
                failed = await self._source.rewind(upstream, mark, progress=progress)
                if failed is not None:
                    return rejoin.Copy(reason=failed.reason)
            case rejoin.Copy():
                await self._source.copy(upstream, mark, progress=progress)
        return None


def _major(version: str | None) -> int:
    try:
        return int(version or "")
    except ValueError as exc:
        raise PostgresError("the data directory has no PG_VERSION") from exc
