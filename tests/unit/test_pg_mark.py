"""Our mark in a data directory."""

import asyncio
from typing import Any, cast

from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgPaths
from pgbastion.postgres.mark import Mark, MarkFile, parse_mark, render_mark

MARK = Mark(cluster_id="c", data_id=DataId("a"), node=NodeId("n1"))


class Disk:
    """Files by name."""

    def __init__(self, **files: str) -> None:
        self.files: dict[str, str] = dict(files)

    async def read(self, path: str) -> str | None:
        return self.files.get(path)

    async def write(self, path: str, text: str) -> None:
        self.files[path] = text


class Paths:
    """A directory of names."""

    data_dir: Any = type("Dir", (), {"__truediv__": lambda _, name: name})()
    work_flag = "flag"


def raised(mark: Mark, **epochs: Any) -> Mark:
    disk = Disk(**{"pgbastion.cluster": render_mark(mark)})
    file = MarkFile(cast("PgPaths", Paths()), cast("Files", disk))
    return asyncio.run(file.update(**epochs))


def test_a_promotion_is_noted_with_its_timeline() -> None:
    promoted = raised(MARK, promoted=Epoch(3), timeline=Timeline(7))

    assert promoted.promoted_timeline == 7
    assert parse_mark(render_mark(promoted)) == promoted
    assert raised(promoted, epoch=Epoch(4), cut=Epoch(3)).promoted_timeline == 7
    assert raised(promoted, promoted=Epoch(2), timeline=Timeline(5)) == promoted


def test_the_timeline_of_a_server_that_was_taken_over_is_not_known() -> None:
    known = raised(MARK, promoted=Epoch(3), timeline=Timeline(7))

    assert raised(known, promoted=Epoch(4)).promoted_timeline == 0


def test_a_mark_of_an_earlier_release_knows_no_timeline() -> None:
    text = render_mark(MARK).replace('"promoted_timeline": 0,\n', "")

    assert "promoted_timeline" not in text
    assert parse_mark(text) == MARK
