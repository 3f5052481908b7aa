"""Where a server ended cleanly is taken from files only if they prove it."""

import struct
from pathlib import Path

import pytest

from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.postgres.shutdown_record import SHUT_DOWN, crc32c, shutdown_end

SEGMENT = 1 << 20
PAGE = 8_192
IDENTIFIER = 0x1122334455667788
CHECKPOINT = 3 * SEGMENT + 2 * PAGE + 40
BODY = bytes(range(90))
SHUTDOWN, ONLINE = 0x00, 0x10


def record(
    *, info: int = SHUTDOWN, body: bytes = BODY, prev: int = 7, flaw: int = 0
) -> bytes:
    length = 24 + len(body)
    head = struct.pack("<IIQBBxx", length, 0, prev, info, 0)
    return head + struct.pack("<I", crc32c(body + head) ^ flaw) + body


def control(
    *, state: int = SHUT_DOWN, version: int = 1300, checkpoint: int = CHECKPOINT
) -> bytes:
    head = struct.pack("<QIII", IDENTIFIER, version, 202209061, state)
    return head + b"\0" * 4 + struct.pack("<qQQI", 0, checkpoint, checkpoint, 5)


def write(
    data_dir: Path,
    *,
    at: int = CHECKPOINT,
    last: bytes | None = None,
    behind: bytes = b"",
    identifier: int = IDENTIFIER,
    facts: bytes | None = None,
) -> Path:
    (data_dir / "global").mkdir(parents=True)
    (data_dir / "global/pg_control").write_bytes(control() if facts is None else facts)
    segment = bytearray(SEGMENT)
    header = struct.pack("<HHIQI", 0xD110, 2, 5, 3 * SEGMENT, 0) + b"\0" * 4
    segment[: len(header) + 16] = header + struct.pack(
        "<QII", identifier, SEGMENT, PAGE
    )
    place = at % SEGMENT
    words = record() if last is None else last
    words += b"\0" * (-len(words) % 8) + behind
    segment[place : place + len(words)] = words
    (data_dir / "pg_wal").mkdir()
    (data_dir / "pg_wal/archive_status").mkdir()
    name = "000000050000000000000003"
    (data_dir / "pg_wal" / name).write_bytes(segment)
    return data_dir


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_a_shutdown_checkpoint_that_is_last_tells_the_end(tmp_path: Path) -> None:
    end = shutdown_end(write(tmp_path / "pg"))

    length = 24 + len(BODY)
    aligned = CHECKPOINT + length + -length % 8
    assert end == WalEnd(timeline=Timeline(5), lsn=Lsn(aligned))


def test_garbage_of_a_recycled_segment_behind_it_does_not_matter(
    tmp_path: Path,
) -> None:
    garbage = record(prev=CHECKPOINT - 2 * SEGMENT)

    assert shutdown_end(write(tmp_path / "pg", behind=garbage)) is not None


@pytest.mark.parametrize(
    "files",
    [
        {"facts": control(state=6)},
        {"facts": control(version=2_000)},
        {"facts": b"short"},
        {"last": record(info=ONLINE)},
        {"last": record(flaw=1)},
        {"last": b"\0" * 64},
        {"behind": record(prev=CHECKPOINT)},
        {"identifier": IDENTIFIER + 1},
    ],
    ids=[
        "it was not shut down",
        "a version that nobody knows",
        "a control file that is cut off",
        "an online checkpoint",
        "a wrong checksum",
        "no record",
        "a record follows",
        "a segment of another cluster",
    ],
)
def test_what_proves_nothing_is_left_to_the_programs(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    assert shutdown_end(write(tmp_path / "pg", **files)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [PAGE - 24, PAGE - 120, PAGE - 10])
def test_a_record_at_the_end_of_a_page_is_left_to_the_programs(
    tmp_path: Path, offset: int
) -> None:
    at = 3 * SEGMENT + 2 * PAGE + offset
    files = write(tmp_path / "pg", at=at, facts=control(checkpoint=at))

    assert shutdown_end(files) is None


def test_a_directory_without_wal_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "global").mkdir()
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "global/pg_control").write_bytes(control())

    assert shutdown_end(tmp_path) is None
