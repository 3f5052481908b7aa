"""The directory of WAL where ``pg_wal`` is a link: on a disk of its own, mostly.

A copy gets a directory of its own there, named after its data id, so that the old one
stays whole until the copy is complete, and may be kept with the old data.
"""

import re
import shutil
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import DataId
from pgbastion.postgres.files import make_dir
from pgbastion.postgres.layout import Account

_OURS: Final = re.compile(r"pgbastion-wal-[0-9a-f]{8}")
_WAL: Final = re.compile(r"[0-9A-F]{24}(\..+)?|[0-9A-F]{8}\.history|xlogtemp\..+")
_BESIDE_WAL: Final = ("archive_status", "summaries")


def place_of_wal(data_dir: Path) -> Path | None:
    """Return where the directories of WAL are; None: ``pg_wal`` is no link.

    Raises:
        PostgresError: The link leads to where nothing is: a file system may be missing.
    """
    link = data_dir / "pg_wal"
    if not link.is_symlink():
        return None
    target = link.resolve()
    place = target.parent if _OURS.fullmatch(target.name) else target
    if not place.is_dir():
        raise PostgresError(
            f"{link} leads to {target}, which is not there: mount its file system, or "
            "remove the link to have the WAL with the data"
        )
    return place


def make_wal_dir(place: Path, data_id: DataId, account: Account) -> Path:
    """Make the empty directory of a new copy.

    Raises:
        OSError: The file system refused.
    """
    made = place / f"pgbastion-wal-{data_id[:8]}"
    make_dir(made, account)
    return made


def remove_unused_wal(place: Path, *data_dirs: Path) -> None:
    """Remove the WAL of former copies: what none of these data directories has.

    Raises:
        OSError: The file system refused.
    """
    used = {(data_dir / "pg_wal").resolve() for data_dir in data_dirs}
    for entry in sorted(place.iterdir()):
        if _OURS.fullmatch(entry.name) and entry.resolve() not in used:
            shutil.rmtree(entry)
    if place in used:
        return
    # It was the directory itself once.
    for entry in sorted(place.iterdir()):
        if entry.name in _BESIDE_WAL and entry.is_dir():
            shutil.rmtree(entry)
        elif _WAL.fullmatch(entry.name) and entry.is_file():
            entry.unlink()
