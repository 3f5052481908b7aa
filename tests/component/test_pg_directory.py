"""What a data directory says of itself, above all whose content it has."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pgbastion.ha.ports import DataFacts
from pgbastion.model.ids import DataId, Epoch, NodeId
from pgbastion.postgres.directory import DataDirectory
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import BACKUP_LABEL
from pgbastion.postgres.mark import (
    MARK_NAME,
    Mark,
    MarkFile,
    name_backup,
    parse_mark,
    render_mark,
)
from pgbastion.postgres.parse import ControlData, ControlState
from support.pg_files import CONTROL, paths_below

LABEL = """START WAL LOCATION: 0/4000028 (file 000000010000000000000004)
CHECKPOINT LOCATION: 0/4000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-01-02 03:04:05 UTC
LABEL: nightly
START TIMELINE: 1
"""
MARK = Mark(
    cluster_id="c",
    data_id=DataId("a"),
    node=NodeId("n1"),
    epoch=Epoch(4),
    cut_epoch=Epoch(3),
)
STANDBY = replace(CONTROL, state=ControlState.IN_ARCHIVE_RECOVERY)


class Offline:
    """A stopped standby's pg_control."""

    async def control(self) -> ControlData:
        return STANDBY


def looked_at(
    root: Path, mark: Mark, label: str | None, *, running: bool = False
) -> tuple[DataFacts, Mark]:
    """Return what is told of a directory with these files, and its mark then."""
    for name in ("data/pg_wal", "run", "state"):
        (root / name).mkdir(parents=True, exist_ok=True)
    paths = paths_below(root)
    (paths.data_dir / MARK_NAME).write_text(render_mark(mark))
    if label is not None:
        (paths.data_dir / BACKUP_LABEL).write_text(label)
    files = Files(paths.account)
    try:
        directory = DataDirectory(
            paths, files, MarkFile(paths, files), cast("Any", Offline())
        )
        facts = asyncio.run(directory.inspect("c", running=running))
    finally:
        files.close()
    return facts, parse_mark((paths.data_dir / MARK_NAME).read_text())


def test_a_base_backup_that_somebody_restored_has_a_data_id_of_its_own(
    tmp_path: Path,
) -> None:
    """S2: its own node's backup would pass for what that node has confirmed since."""
    facts, mark = looked_at(tmp_path, MARK, LABEL)

    assert facts.ours
    assert facts.data_id == mark.data_id != MARK.data_id
    assert (mark.epoch, mark.cut_epoch) == (4, 3)
    again, _ = looked_at(tmp_path, mark, LABEL)
    assert again.data_id == mark.data_id


def test_another_backup_is_another_content(tmp_path: Path) -> None:
    _, first = looked_at(tmp_path, MARK, LABEL)
    facts, _ = looked_at(tmp_path, first, LABEL.replace("nightly", "weekly"))

    assert facts.data_id != first.data_id


@pytest.mark.parametrize(
    "label",
    [
        None,
        LABEL.replace("streamed", "pg_rewind"),
        LABEL.replace("streamed", "pg_start_backup"),
    ],
)
def test_what_is_no_base_backup_keeps_its_data_id(
    tmp_path: Path, label: str | None
) -> None:
    facts, mark = looked_at(tmp_path, MARK, label)

    assert facts.ours
    assert mark == MARK


def test_a_copy_that_this_node_made_keeps_its_data_id(tmp_path: Path) -> None:
    own = Mark(
        cluster_id="c",
        data_id=DataId("b"),
        node=NodeId("n1"),
        backup=name_backup(LABEL),
    )
    assert looked_at(tmp_path, own, LABEL)[1] == own


def test_a_running_server_keeps_its_data_id(tmp_path: Path) -> None:
    assert looked_at(tmp_path, MARK, LABEL, running=True)[1] == MARK
