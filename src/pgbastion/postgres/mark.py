"""Our mark in a data directory: whose it is, and in which epochs it took part.

The data id stands for the content: it is replaced, durably, *before* a rewind or a copy
touches the directory, so that nobody takes the new content for the old. Copying
programs bring the source's mark along; ours is written again after them.
"""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgPaths

MARK_NAME: Final = "pgbastion.cluster"
MARK_VERSION: Final = 1
DATA_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The content of the mark."""

    cluster_id: str
    data_id: DataId
    node: NodeId
    epoch: Epoch = Epoch(0)
    """The newest epoch in which the directory was promoted or followed a primary."""
    promoted_epoch: Epoch = Epoch(0)
    """The newest epoch in which its server was asked to promote."""
    promoted_timeline: Timeline = Timeline(0)
    """The timeline that this promotion was to take; 0: it is not known."""
    cut_epoch: Epoch = Epoch(0)
    """The newest epoch from which it was cut: it follows no primary of it again."""
    backup: str = ""
    """The base backup that this data id was given to; empty: none was."""


def new_data_id() -> DataId:
    """Draw the id of a data directory."""
    return DataId(secrets.token_hex(DATA_ID_BYTES))


def name_backup(label: str) -> str:
    """Return what tells a base backup from others, by its ``backup_label``."""
    return hashlib.sha256(label.encode()).hexdigest()[:16]


def render_mark(mark: Mark) -> str:
    """Return the file's content."""
    return json.dumps({"version": MARK_VERSION, **asdict(mark)}, indent=1) + "\n"


def parse_mark(text: str) -> Mark:
    """Read the file's content.

    Raises:
        PostgresError: It is damaged, or of a later version.
    """
    try:
        fields = json.loads(text)
        version = int(fields["version"])
        if version != MARK_VERSION:
            raise PostgresError(f"{MARK_NAME} has version {version}, we know 1")
        return Mark(
            cluster_id=str(fields["cluster_id"]),
            data_id=DataId(str(fields["data_id"])),
            node=NodeId(str(fields["node"])),
            epoch=Epoch(int(fields["epoch"])),
            promoted_epoch=Epoch(int(fields["promoted_epoch"])),
            promoted_timeline=Timeline(int(fields.get("promoted_timeline", 0))),
            cut_epoch=Epoch(int(fields["cut_epoch"])),
            backup=str(fields.get("backup", "")),
        )
    except (ValueError, TypeError, KeyError) as exc:
        raise PostgresError(f"{MARK_NAME} is damaged: {exc!r}") from exc


class MarkFile:
    """The mark of one data directory."""

    def __init__(self, paths: PgPaths, files: Files) -> None:
        self._path = paths.data_dir / MARK_NAME
        self._flag = paths.work_flag
        self._files = files

    async def read(self) -> Mark | None:
        """Return the mark; None: the directory has none.

        Raises:
            PostgresError: It cannot be read, which is not the same as none.
        """
        text = await self._files.read(self._path)
        flag = await self._files.read(self._flag)
        if flag is not None:
            return _mark_of_unfinished(text, parse_mark(flag))
        return None if text is None else parse_mark(text)

    async def write(self, mark: Mark) -> None:
        """Write the mark durably."""
        await self._files.write(self._path, render_mark(mark))

    async def update(
        self,
        *,
        epoch: Epoch | None = None,
        promoted: Epoch | None = None,
        timeline: Timeline | None = None,
        cut: Epoch | None = None,
    ) -> Mark:
        """Raise the epochs of the mark; none of them ever falls.

        Args:
            epoch: The directory was promoted or followed a primary in it.
            promoted: Its server is asked to promote in it.
            timeline: Which that promotion is to take.
            cut: The directory is cut from it.

        Raises:
            PostgresError: There is no mark.
        """
        mark = await self.read()
        if mark is None:
            raise PostgresError(f"there is no {self._path}")
        raised = replace(
            mark,
            epoch=max(mark.epoch, epoch or mark.epoch, promoted or mark.epoch),
            promoted_epoch=max(mark.promoted_epoch, promoted or mark.promoted_epoch),
            cut_epoch=max(mark.cut_epoch, cut or mark.cut_epoch),
        )
        if promoted is not None and promoted >= mark.promoted_epoch:
            raised = replace(raised, promoted_timeline=timeline or Timeline(0))
        if raised != mark:
            await self.write(raised)
        return raised


def _mark_of_unfinished(text: str | None, flagged: Mark) -> Mark | None:
    """Return the mark of a directory in which a rewind goes on, or was cut short.

    pg_rewind empties our file and writes the source's over it: what is not known to be
    ours does not count. Ours may have been raised since the flag was written.
    """
    if text is None:
        return None
    try:
        found = parse_mark(text)
    except PostgresError:
        return flagged
    return found if found.data_id == flagged.data_id else flagged
