"""How much of the WAL is listed to find its last record."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd, format_lsn
from pgbastion.postgres.offline import Offline
from pgbastion.postgres.parse import segment_name
from pgbastion.postgres.programs import Output, ProgramError

pytestmark = pytest.mark.anyio

SEGMENT = 1 << 20
START = WalEnd(timeline=Timeline(1), lsn=Lsn(5 * SEGMENT + 40))
LIMIT = 13 * SEGMENT
CONTROL: Any = SimpleNamespace(wal_segment_bytes=SEGMENT)


class FakeFiles:
    """Does what it is asked at once."""

    async def run(self, _what: str, act: Callable[[], Any]) -> Any:
        return act()


class FakeDump:
    """WAL with one record that is found from a place on or before its beginning."""

    def __init__(self, record: int, *, broken_after: int | None) -> None:
        self.record = record
        self.broken_after = broken_after
        self.listed: list[int] = []

    async def run(self, _name: str, *words: str, **_options: object) -> Output:
        begin = _lsn(words[words.index("--start") + 1])
        if "--quiet" not in words:
            self.listed.append(begin)
        text = ""
        if begin <= self.record and "--quiet" not in words:
            lsn = format_lsn(Lsn(self.record))
            text = (
                f"rmgr: XLOG len (rec/tot): 24/ 24, tx: 0, lsn: {lsn}, "
                f"prev 0/0, desc: SWITCH\n"
            )
        output = Output(stdout=text, stderr="")
        if self.broken_after is not None:
            lsn = format_lsn(Lsn(self.broken_after))
            said = f"pg_waldump: error: error in WAL record at {lsn}: invalid length"
            output = Output(stdout=text, stderr=said)
            raise ProgramError("failed", output=output, timed_out=False)
        return output


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


async def last_record(folder: Path, dump: FakeDump) -> int | None:
    for lsn in range(5 * SEGMENT, LIMIT, SEGMENT):
        (folder / segment_name(START.timeline, Lsn(lsn), SEGMENT)).touch()
    paths: Any = SimpleNamespace(wal_dir=folder)
    offline = Offline(paths, cast("Any", FakeFiles()), cast("Any", dump))
    record = await offline.last_record(START, CONTROL)
    return None if record is None else record.begin


async def test_only_the_last_record_is_listed(tmp_path: Path) -> None:
    dump = FakeDump(9 * SEGMENT, broken_after=9 * SEGMENT)

    assert await last_record(tmp_path, dump) == 9 * SEGMENT
    assert dump.listed == [9 * SEGMENT]


async def test_of_whole_segments_only_the_last_is_listed(tmp_path: Path) -> None:
    dump = FakeDump(LIMIT - 24, broken_after=None)

    assert await last_record(tmp_path, dump) == LIMIT - 24
    assert dump.listed == [LIMIT - SEGMENT]


async def test_a_record_that_is_longer_than_segments_is_found(tmp_path: Path) -> None:
    dump = FakeDump(START.lsn, broken_after=None)

    assert await last_record(tmp_path, dump) == START.lsn
    assert dump.listed == [LIMIT - n * SEGMENT for n in (1, 2, 4)] + [START.lsn]


async def test_where_there_is_no_record_the_end_is_unknown(tmp_path: Path) -> None:
    dump = FakeDump(0, broken_after=None)

    assert await last_record(tmp_path, dump) is None
    assert dump.listed[-1] == START.lsn
