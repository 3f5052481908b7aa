"""Timeline history files of one server.

PostgreSQL takes the next timeline id for which it finds no history file. So before a
promotion that must take a certain id, files for all lower ids are put there: true ones
for ancestors, and a line that leads nowhere for ids that are to stay unused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pgbastion.errors import TimelineTaken
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgPaths
from pgbastion.postgres.parse import (
    Fork,
    History,
    history_name,
    parse_history,
    render_history,
)

_NAME: Final = re.compile(r"([0-9A-F]{8})\.history")

# Before every fork: the first segment of a cluster begins no earlier, and 0/0 would
# mean "never left".
UNUSED_FORK: Final = Lsn(0x1000000)
UNUSED_REASON: Final = "pgbastion: this timeline id is not used"


class HistoryFiles:
    """The history files in pg_wal."""

    def __init__(self, paths: PgPaths, files: Files) -> None:
        self._wal_dir = paths.wal_dir
        self._files = files

    async def read_all(self) -> dict[Timeline, History]:
        """Return every history that is there, by timeline.

        Raises:
            PostgresError: One cannot be read or understood.
        """
        return await self._files.run("read timeline histories", self._read_all)

    async def write_missing(self, current: Timeline, target: Timeline) -> None:
        """Write a file for every id below ``target`` that has none, durably.

        Args:
            current: The timeline that the server is on.
            target: The id that its promotion is to take.

        Raises:
            TimelineTaken: ``target`` is not above ``current``, or there is a file for
                it already: its promotion would take another id.
        """
        known = await self.read_all()
        if target <= current or any(t >= target for t in known):
            newest = max([current, *known])
            raise TimelineTaken(
                f"timeline {target} cannot be taken: timeline {newest} is known here"
            )
        for history in missing_histories(known, current, target):
            path = self._wal_dir / history_name(history.timeline)
            await self._files.write(path, render_history(history))

    def _read_all(self) -> dict[Timeline, History]:
        return {
            timeline: parse_history(timeline, path.read_text(encoding="utf-8"))
            for path, timeline in self._list()
        }

    def _list(self) -> list[tuple[Path, Timeline]]:
        return [
            (path, Timeline(int(match[1], 16)))
            for path in self._wal_dir.iterdir()
            if (match := _NAME.fullmatch(path.name))
        ]


def missing_histories(
    known: Mapping[Timeline, History], current: Timeline, target: Timeline
) -> list[History]:
    """Return the histories to write so that the next promotion takes ``target``."""
    own = known.get(current, History(timeline=current))
    oldest = own.forks[0].parent if own.forks else current
    result = []
    for number in range(oldest + 1, target):
        timeline = Timeline(number)
        if timeline in known or timeline == current:
            continue
        if own.contains(timeline):
            result.append(own.up_to(timeline))
        else:
            fork = Fork(parent=oldest, lsn=UNUSED_FORK, reason=UNUSED_REASON)
            result.append(History(timeline=timeline, forks=(fork,)))
    return result
