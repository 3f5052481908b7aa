"""Where a server ended cleanly, read from its files without a program.

Clients wait while this is read, and starting two programs takes as long as PostgreSQL
needs to stop. What is read proves itself: pg_control says "shut down" and names a
record, which is a shutdown checkpoint with the right checksum, and nothing follows it.
Everything else, a record that crosses pages included, is left to the programs.

Source: catalog/pg_control.h, access/xlogrecord.h and access/xlog_internal.h, the same
from PostgreSQL 11 on as far as they are used here.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.postgres.parse import ALIGNMENT, segment_name

CONTROL_VERSIONS: Final = range(1100, 1900)
SHUT_DOWN: Final = 1
"""DB_SHUTDOWNED: a primary that ended cleanly."""
# system_identifier, pg_control_version, catalog_version_no, state, time, checkPoint,
# checkPointCopy.redo, checkPointCopy.ThisTimeLineID
_CONTROL: Final = struct.Struct("<QIIIxxxxqQQI")
# xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, xl_crc
_RECORD: Final = struct.Struct("<IIQBBxxI")
_CRC_AT: Final = 20
_RM_XLOG: Final = 0
_CHECKPOINT_SHUTDOWN: Final = 0x00
_INFO_MASK: Final = 0xF0
# xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len, xlp_sysid, xlp_seg_size,
# xlp_xlog_blcksz: what the first page of a segment begins with
_LONG_HEADER: Final = struct.Struct("<HHIQIxxxxQII")
_CRC32C: Final = 0x82F63B78


@dataclass(frozen=True, slots=True, kw_only=True)
class _Control:
    system_identifier: int
    checkpoint: Lsn
    timeline: Timeline


def shutdown_end(data_dir: Path) -> WalEnd | None:
    """Return where the stopped server's WAL ends; None: these files do not prove it."""
    control = _control((data_dir / "global" / "pg_control").read_bytes())
    if control is None:
        return None
    wal_dir = data_dir / "pg_wal"
    segment_bytes = _segment_bytes(wal_dir)
    if segment_bytes is None:
        return None
    name = segment_name(control.timeline, control.checkpoint, segment_bytes)
    with (wal_dir / name).open("rb") as segment:
        first = segment.read(_LONG_HEADER.size)
        page_bytes = _page_bytes(first, control, segment_bytes)
        if page_bytes is None:
            return None
        at = control.checkpoint % segment_bytes
        segment.seek(at - at % page_bytes)
        page = segment.read(page_bytes)
    end = _end_in_page(page, at % page_bytes, control.checkpoint)
    if end is None:
        return None
    return WalEnd(
        timeline=control.timeline, lsn=Lsn(control.checkpoint - at % page_bytes + end)
    )


def _control(data: bytes) -> _Control | None:
    if len(data) < _CONTROL.size:
        return None
    found = _CONTROL.unpack_from(data)
    identifier, version, _, state, _, checkpoint, _, timeline = found
    if version not in CONTROL_VERSIONS or state != SHUT_DOWN:
        return None
    return _Control(
        system_identifier=identifier,
        checkpoint=Lsn(checkpoint),
        timeline=Timeline(timeline),
    )


def _segment_bytes(wal_dir: Path) -> int | None:
    """Return the size of a WAL segment: of any file that is named like one."""
    for path in wal_dir.iterdir():
        if len(path.name) == len("000000010000000000000001") and path.suffix == "":
            size = path.stat().st_size
            return size if size and size & (size - 1) == 0 else None
    return None


def _page_bytes(first: bytes, control: _Control, segment_bytes: int) -> int | None:
    """Return the size of a page, if the segment is this server's own."""
    if len(first) < _LONG_HEADER.size:
        return None
    _, _, _, address, _, identifier, size, page_bytes = _LONG_HEADER.unpack(first)
    begin = control.checkpoint - control.checkpoint % segment_bytes
    own = (address, identifier, size) == (
        begin,
        control.system_identifier,
        segment_bytes,
    )
    sensible = page_bytes and page_bytes & (page_bytes - 1) == 0
    return page_bytes if own and sensible else None


def _end_in_page(page: bytes, at: int, lsn: Lsn) -> int | None:
    """Return where the record at ``at`` ends, if it is the last and a shutdown's."""
    if at + _RECORD.size > len(page):
        return None
    length, _, _, info, manager, crc = _RECORD.unpack_from(page, at)
    end = -(-(at + length) // ALIGNMENT) * ALIGNMENT
    # What would follow has to be on this page, too, to be seen not to be there.
    if length <= _RECORD.size or end + _RECORD.size > len(page):
        return None
    if manager != _RM_XLOG or info & _INFO_MASK != _CHECKPOINT_SHUTDOWN:
        return None
    body = page[at + _RECORD.size : at + length]
    if crc32c(body + page[at : at + _CRC_AT]) != crc:
        return None
    next_length, _, next_prev, _, _, _ = _RECORD.unpack_from(page, end)
    follows = next_length != 0 and next_prev == lsn
    return None if follows else end


def crc32c(data: bytes) -> int:
    """Return the Castagnoli checksum of ``data``; for some hundred bytes at most."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (_CRC32C if value & 1 else 0)
    return value ^ 0xFFFFFFFF
