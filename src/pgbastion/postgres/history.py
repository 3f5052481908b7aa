"""Timeline history files of one server.

PostgreSQL takes the next timeline id for which it finds no history file. So before a
promotion that must take a certain id, files for all lower ids are put there: true ones
for ancestors, and a line that leads nowhere for ids that are to stay unused.

PostgreSQL never removes a history file, and each has a line for every promotion before
it. So only those are read that somebody asks for.
"""

import re
from collections.abc import Container
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

    async def read(self, timeline: Timeline) -> History | None:
        """Return the history of ``timeline``; None: there is no file for it.

        Raises:
            PostgresError: It cannot be read or understood.
        """
        text = await self._files.read(self._wal_dir / history_name(timeline))
        return None if text is None else parse_history(timeline, text)

    async def known(self) -> frozenset[Timeline]:
        """Return the timelines that have a file.

        Raises:
            PostgresError: The directory cannot be listed.
        """
        return await self._files.run("list timeline histories", self._list)

    async def newer(self, timeline: Timeline) -> list[History]:
        """Return the histories of all timelines after ``timeline``, oldest first.

        Raises:
            PostgresError: One cannot be read or understood.
        """
        later = sorted(each for each in await self.known() if each > timeline)
        found = [await self.read(each) for each in later]
        return [history for history in found if history is not None]

    async def write_missing(self, current: Timeline, target: Timeline) -> None:
        """Write a file for every id below ``target`` that has none, durably.

        Args:
            current: The timeline that the server is on.
            target: The id that its promotion is to take.

        Raises:
            TimelineTaken: ``target`` is not above ``current``, or there is a file for
                it already: its promotion would take another id.
        """
        known = await self.known()
        if target <= current or any(t >= target for t in known):
            newest = max([current, *known])
            raise TimelineTaken(
                f"timeline {target} cannot be taken: timeline {newest} is known here"
            )
        own = await self.read(current) or History(timeline=current)
        for history in missing_histories(known, own, target):
            path = self._wal_dir / history_name(history.timeline)
            await self._files.write(path, render_history(history))

    def _list(self) -> frozenset[Timeline]:
        return frozenset(
            Timeline(int(match[1], 16))
            for path in self._wal_dir.iterdir()
            if (match := _NAME.fullmatch(path.name))
        )


def missing_histories(
    known: Container[Timeline], own: History, target: Timeline
) -> list[History]:
    """Return the histories to write so that the next promotion takes ``target``.

    Args:
        known: The timelines that have a file.
        own: The history of the timeline that the server is on; the first has no file.
        target: The id that its promotion is to take.
    """
    oldest = own.forks[0].parent if own.forks else own.timeline
    result = []
    for number in range(oldest + 1, target):
        timeline = Timeline(number)
        if timeline in known:
            continue
        if own.contains(timeline):
            result.append(own.up_to(timeline))
        else:
            fork = Fork(parent=oldest, lsn=UNUSED_FORK, reason=UNUSED_REASON)
            result.append(History(timeline=timeline, forks=(fork,)))
    return result
