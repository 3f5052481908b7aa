"""What a stopped server's files say, and crash recovery without clients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd, format_lsn
from pgbastion.postgres import shutdown_record
from pgbastion.postgres.bootstrap import single_user
from pgbastion.postgres.files import Files
from pgbastion.postgres.history import HistoryFiles
from pgbastion.postgres.layout import BACKUP_LABEL, PgPaths
from pgbastion.postgres.lock_files import disown
from pgbastion.postgres.parse import (
    ControlData,
    History,
    WalRecord,
    parse_controldata,
    parse_last_record,
    parse_last_sound,
    record_end,
    segment_name,
)
from pgbastion.postgres.programs import Output, ProgramError, Programs

CONTROLDATA_DEADLINE_S: Final = 10.0
WALDUMP_DEADLINE_S: Final = 120.0
RECOVERY_DEADLINE_S: Final = 3600.0
KEEP_ALL_MB: Final = (1 << 31) - 1
"""The most that wal_keep_size takes."""
# The last lines of a listing of WAL. What a message of logical decoding holds is listed
# byte by byte.
LISTING_TAIL_BYTES: Final = 1 << 16
LISTING_LINE_BYTES: Final = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """WAL of one timeline; all of its segments are there."""

    start: WalEnd
    limit: Lsn
    """The end of its last segment."""
    segment_bytes: int

    def last(self, size: int) -> "_Stretch":
        """Return so much of its end, or all of it."""
        lsn = Lsn(max(self.start.lsn, self.limit - size))
        return replace(self, start=replace(self.start, lsn=lsn))

    def words(self) -> tuple[str, ...]:
        """Return how pg_waldump is told."""
        timeline, last = self.start.timeline, Lsn(self.limit - self.segment_bytes)
        return (
            "--timeline",
            str(timeline),
            "--start",
            format_lsn(self.start.lsn),
            "--end",
            format_lsn(self.limit),
            # Without names it takes a segment's size from any file that it finds first,
            # and fails on one that was made ahead and is still all zeros.
            *(
                segment_name(timeline, lsn, self.segment_bytes)
                for lsn in (self.start.lsn, last)
            ),
        )


class Offline:
    """Looks at the files of one server; it must not be running."""

    def __init__(self, paths: PgPaths, files: Files, programs: Programs) -> None:
        self._paths = paths
        self._files = files
        self._programs = programs
        self._histories = HistoryFiles(paths, files)

    async def control(self) -> ControlData:
        """Read pg_control. Also possible while the server runs.

        Raises:
            PostgresError: It is missing, damaged, or being written just now.
        """
        output = await self._programs.run(
            "pg_controldata",
            "-D",
            str(self._paths.data_dir),
            deadline_s=CONTROLDATA_DEADLINE_S,
        )
        return parse_controldata(output.stdout + output.stderr)

    async def wal_end(self, control: ControlData) -> WalEnd | None:
        """Return up to where the server could go on by itself, for a survey.

        Returns:
            None where that cannot be told, or where it could not: a rewind was cut
            short, or the WAL ends before the point at which the data are consistent.
        """
        if await self._files.read(self._paths.work_flag) is not None:
            return None
        end = await self.wal_on_disk(control)
        if end is None or (control.min_recovery and end < control.min_recovery):
            return None
        return end

    async def wal_on_disk(self, control: ControlData) -> WalEnd | None:
        """Return the end of valid WAL on the disk, on the last timeline that has any.

        Reads on from the latest checkpoint, then along every timeline that continues
        it and of which there are records.

        Returns:
            None where the files cannot tell: no record at the checkpoint (a base
            backup that was never started, WAL that was removed).
        """
        last = await self._last_on_disk(control)
        if last is None:
            return None
        timeline, record = last
        return WalEnd(timeline=timeline, lsn=_end_of(record, control))

    async def _last_on_disk(
        self, control: ControlData
    ) -> tuple[Timeline, WalRecord] | None:
        """Return the last valid record, and the timeline in whose files it is."""
        start = control.checkpoint
        last = None
        if (record := await self.last_record(start, control)) is not None:
            last = start.timeline, record
        for history in await self._continuations(start):
            begin = history.begin
            on_the_way = last is None or history.end_of(last[0]) is not None
            if begin is None or not on_the_way:
                continue
            later = await self.last_record(
                WalEnd(timeline=history.timeline, lsn=begin), control
            )
            if later is not None and _end_of(later, control) > begin:
                last = history.timeline, later
        return last

    async def proven_end(self) -> WalEnd | None:
        """Return the end of the shutdown checkpoint without starting a program.

        None: `shutdown_end` has to find out. For a moment in which clients wait.

        Raises:
            PostgresError: A file cannot be read.
        """
        data_dir = self._paths.data_dir
        return await self._files.run(
            "read the last checkpoint", lambda: shutdown_record.shutdown_end(data_dir)
        )

    async def shutdown_end(self, control: ControlData) -> Lsn | None:
        """Return the end of the shutdown checkpoint, if that is the last record.

        A standby that has flushed this far has all that the server ever wrote.
        """
        if not control.state.is_clean:
            return None
        record = await self.last_record(control.checkpoint, control)
        if record is None or not record.is_shutdown_checkpoint:
            return None
        return _end_of(record, control)

    async def last_record(
        self, start: WalEnd, control: ControlData
    ) -> WalRecord | None:
        """Return the last valid record at or after ``start``, on its timeline."""
        # pg_waldump waits 5 s for a file that is missing, so it gets a place to stop.
        segment_bytes = control.wal_segment_bytes
        limit = await self._files.run(
            "list WAL", lambda: self._first_missing(start, segment_bytes)
        )
        if limit <= start.lsn:
            return None
        stretch = _Stretch(start=start, limit=limit, segment_bytes=segment_bytes)
        # To read all is quick, to list it is not: only the end of it is listed.
        checked = await self._waldump(stretch, "--quiet")
        sound = parse_last_sound(checked.stderr)
        back = segment_bytes if sound is None else limit - sound
        while True:
            listed = await self._waldump(stretch.last(back))
            record = parse_last_record(listed.stdout)
            if record is not None or back >= limit - start.lsn:
                return record
            # One that is longer than that has begun before.
            back *= 2

    async def _waldump(self, stretch: _Stretch, *options: str) -> Output:
        try:
            return await self._programs.run(
                "pg_waldump",
                *options,
                "--path",
                str(self._paths.wal_dir),
                *stretch.words(),
                deadline_s=WALDUMP_DEADLINE_S,
                keep_bytes=LISTING_TAIL_BYTES,
                line_bytes=LISTING_LINE_BYTES,
            )
        except ProgramError as exc:
            # Reaching the end of valid WAL is an error of pg_waldump.
            if exc.timed_out:
                raise
            return exc.output

    async def recover(self) -> bool:
        """Let a crashed server recover, without clients and without archiving.

        A former primary goes on in its own WAL, up to a checkpoint. A standby only
        replays: the WAL is another server's, which may have gone on at this very place,
        and what it wrote there and a checkpoint of ours could not be told apart.

        Returns:
            False where there is nothing to do: it ended cleanly, or it is a base
            backup whose recovery must begin at its label.

        Raises:
            PostgresError: Recovery failed.
        """
        control = await self.control()
        label = self._paths.data_dir / BACKUP_LABEL
        if control.state.is_clean or await self._files.read(label) is not None:
            return False
        await disown(self._paths, self._files)
        for signal in ("standby.signal", "recovery.signal"):
            # Single-user mode refuses to start with either.
            await self._files.remove(self._paths.data_dir / signal)
        await self._files.run("tidy archive_status", self._tidy_archive_status)
        archiving = await self._programs.setting("archive_mode") != "off"
        options = await self._recovery_options(archiving=archiving)
        if control.state.is_standby:
            await self._replay(control, options)
        else:
            await self._recover(options)
        after = await self.control()
        if not after.state.is_clean:
            raise PostgresError(f"after crash recovery the server is {after.state}")
        return True

    async def _recovery_options(self, *, archiving: bool) -> list[str]:
        # With archiving, segments that wait for it must stay: nobody archives here, so
        # a command that fails keeps them. Without it, no segment may begin to wait.
        options = [
            "-c",
            f"archive_mode={'on' if archiving else 'off'}",
            "-c",
            "archive_command=false",
            # The checkpoint at the end of recovery would remove what pg_rewind reads:
            # WAL from the last checkpoint that both histories have, long ago maybe.
            "-c",
            f"wal_keep_size={KEEP_ALL_MB}",
        ]
        if (await self._programs.version()).major >= 15:
            options += ["-c", "archive_library="]
        return options

    async def _recover(self, options: Sequence[str]) -> None:
        await single_user(
            self._programs,
            str(self._paths.data_dir),
            (),
            *self._paths.server_options()[2:],
            *options,
            deadline_s=RECOVERY_DEADLINE_S,
        )

    async def _replay(self, control: ControlData, options: Sequence[str]) -> None:
        last = await self._last_on_disk(control)
        if last is None:
            raise PostgresError("there is no WAL to replay from the latest checkpoint")
        timeline, record = last
        # It stops at the record that is the last one here, and ends cleanly.
        settings = {
            "recovery_target_timeline": str(timeline),
            "recovery_target_lsn": format_lsn(record.begin),
            "recovery_target_action": "shutdown",
            "restore_command": "false",
            "primary_conninfo": "",
            "hot_standby": "off",
            "listen_addresses": "",
        }
        await self._files.write(self._paths.data_dir / "recovery.signal", "")
        await self._programs.run(
            "postgres",
            *self._paths.server_options(),
            *options,
            *(word for item in settings.items() for word in ("-c", "=".join(item))),
            deadline_s=RECOVERY_DEADLINE_S,
        )

    def _first_missing(self, start: WalEnd, segment_bytes: int) -> Lsn:
        """Return where the first segment after ``start`` begins that is not there."""
        lsn = Lsn(start.lsn - start.lsn % segment_bytes)
        while self._segment(start.timeline, lsn, segment_bytes).exists():
            lsn = Lsn(lsn + segment_bytes)
        return lsn

    def _segment(self, timeline: Timeline, lsn: Lsn, segment_bytes: int) -> Path:
        return self._paths.wal_dir / segment_name(timeline, lsn, segment_bytes)

    def _tidy_archive_status(self) -> None:
        """Drop ``.ready`` of segments that are also ``.done``: a crash leaves both."""
        status = self._paths.wal_dir / "archive_status"
        for done in status.glob("*.done"):
            done.with_suffix(".ready").unlink(missing_ok=True)

    async def _continuations(self, start: WalEnd) -> list[History]:
        """Return the known timelines that go on from ``start``, oldest first."""
        return [
            history
            for history in await self._histories.newer(start.timeline)
            if (fork := history.end_of(start.timeline)) is not None
            and fork >= start.lsn
        ]


def _end_of(record: WalRecord, control: ControlData) -> Lsn:
    return record_end(
        record,
        block_bytes=control.wal_block_bytes,
        segment_bytes=control.wal_segment_bytes,
    )
