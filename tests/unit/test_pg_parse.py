"""What PostgreSQL's programs say is understood, or refused; never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.errors import PostgresError
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd, parse_lsn
from pgbastion.postgres.history import missing_histories
from pgbastion.postgres.parse import (
    ControlState,
    Fork,
    History,
    ServerVersion,
    WalRecord,
    parse_controldata,
    parse_history,
    parse_last_record,
    parse_last_sound,
    parse_progress,
    parse_version,
    record_end,
    render_history,
    segment_name,
)

CONTROL = """\
pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7711557337212803443
Database cluster state:               shut down in recovery
pg_control last modified:             Tue Nov 24 02:20:59 2026
Latest checkpoint location:           0/2000060
Latest checkpoint's REDO location:    0/2000028
Latest checkpoint's REDO WAL file:    000000020000000000000002
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/3000000
Min recovery ending loc's timeline:   2
Backup start location:                0/0
Backup end location:                  0/0
End-of-backup record required:        no
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              30
max_worker_processes setting:         8
max_wal_senders setting:              16
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
WAL block size:                       8192
Bytes per WAL segment:                16777216
Data page checksum version:           0
"""


def test_controldata_gives_state_checkpoint_and_floors() -> None:
    control = parse_controldata(CONTROL)
    assert control.state is ControlState.SHUT_DOWN_IN_RECOVERY
    assert control.system_identifier == "7711557337212803443"
    assert control.checkpoint == WalEnd(timeline=Timeline(2), lsn=Lsn(0x2000060))
    assert control.min_recovery == WalEnd(timeline=Timeline(2), lsn=Lsn(0x3000000))
    assert control.settings["max_connections"] == 30
    assert control.settings["max_prepared_transactions"] == 0
    assert control.can_rewind
    assert not control.backup_in_progress


def test_no_minimum_recovery_point_is_none() -> None:
    text = CONTROL.replace("location:     0/3000000", "location:     0/0")
    assert parse_controldata(text).min_recovery is None


def test_a_backup_whose_end_was_not_replayed_is_in_progress() -> None:
    text = CONTROL.replace(
        "Backup start location:                0/0", "Backup start location: 0/28"
    )
    assert parse_controldata(text).backup_in_progress


def test_without_hints_and_checksums_no_rewind_is_possible() -> None:
    text = CONTROL.replace(
        "wal_log_hints setting:                on", "wal_log_hints setting: off"
    )
    assert not parse_controldata(text).can_rewind


@pytest.mark.parametrize(
    "text",
    [
        "",
        CONTROL.replace("shut down in recovery", "asleep"),
        CONTROL.replace("0/2000060", "2000060"),
        "\n".join(CONTROL.splitlines()[5:]),
        CONTROL
        + "WARNING: Calculated CRC checksum does not match value stored in file.",
    ],
)
def test_controldata_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(PostgresError):
        parse_controldata(text)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", (15, 18)),
        ("postgres (PostgreSQL) 18beta1", (18, 0)),
        ("postgres (PostgreSQL) 16.14", (16, 14)),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, int]) -> None:
    major, minor = version
    assert parse_version(text) == ServerVersion(major=major, minor=minor)
    assert parse_version(text).number == major * 10_000 + minor


def test_another_programs_version_is_refused() -> None:
    with pytest.raises(PostgresError):
        parse_version("mysqld 8.0")


WALDUMP = """\
rmgr: Heap        len (rec/tot):     54/  8162, tx:        733, lsn: 0/01A2B3C8, prev 0/01A2B390, desc: LOCK off 3
rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/03000028, prev 0/02000110, desc: CHECKPOINT_SHUTDOWN redo 0/3000028; tli 2
"""  # noqa: E501 - as pg_waldump writes it


def test_the_last_record_of_a_listing_is_found() -> None:
    record = parse_last_record(WALDUMP)
    assert record is not None
    assert record.begin == 0x3000028
    assert record.length == 114
    assert record.is_shutdown_checkpoint
    assert parse_last_record(WALDUMP.splitlines()[0]) == WalRecord(
        begin=Lsn(0x1A2B3C8), length=8162, manager="Heap", description="LOCK off 3"
    )
    assert parse_last_record("pg_waldump: error: nothing") is None


def test_the_last_sound_record_is_told_where_the_next_is_none() -> None:
    said = (
        "pg_waldump: error: error in WAL record at 1/15550A8:"
        " invalid record length at 1/15550E0: wanted 24, got 0\n"
    )
    assert parse_last_sound(said) == (1 << 32) + 0x15550A8
    unread = "pg_waldump: error: could not find a valid record after 0/1000000\n"
    assert parse_last_sound(unread) is None


SEGMENT = 16 << 20
BLOCK = 8192


def end(begin: int, length: int, description: str = "") -> int:
    record = WalRecord(
        begin=Lsn(begin), length=length, manager="XLOG", description=description
    )
    return record_end(record, block_bytes=BLOCK, segment_bytes=SEGMENT)


def test_a_records_end_is_aligned_and_counts_page_headers() -> None:
    assert end(0x3000028, 114) == 0x30000A0
    assert end(SEGMENT + 40, BLOCK - 40) == SEGMENT + BLOCK
    assert end(SEGMENT + 40, BLOCK - 39) == SEGMENT + BLOCK + 24 + 8
    assert end(2 * SEGMENT - 8, 16) == 2 * SEGMENT + 40 + 8
    assert end(SEGMENT + 1000, 24, "SWITCH") == 2 * SEGMENT


@given(st.integers(0, 3 * BLOCK), st.integers(24, 5 * BLOCK))
def test_a_records_end_agrees_with_counting_bytes(offset: int, length: int) -> None:
    begin = SEGMENT - SEGMENT // 2 + offset // 8 * 8
    begin = begin if begin % BLOCK >= 40 else begin - begin % BLOCK + 40
    position, left = begin, length
    while left:
        if position % BLOCK == 0:
            position += 40 if position % SEGMENT == 0 else 24
        position, left = position + 1, left - 1
    assert end(begin, length) == (position + 7) // 8 * 8


def test_segments_are_named_as_the_server_names_them() -> None:
    assert (
        segment_name(Timeline(2), Lsn(0x3000028), SEGMENT) == "000000020000000000000003"
    )
    lsn = parse_lsn("A/FF000000")
    assert segment_name(Timeline(17), lsn, SEGMENT) == "000000110000000A000000FF"
    assert segment_name(Timeline(1), lsn, 1 << 30) == "000000010000000A00000003"


def test_a_history_says_where_each_ancestor_was_left() -> None:
    text = "1\t0/5000090\tno recovery target specified\n\n# note\n3\t0/6000000\tx\n"
    history = parse_history(Timeline(4), text)
    assert history.begin == 0x6000000
    assert history.end_of(Timeline(1)) == 0x5000090
    assert history.end_of(Timeline(2)) is None
    assert history.contains(Timeline(4))
    assert history.contains(Timeline(3))
    assert not history.contains(Timeline(2))
    assert parse_history(Timeline(4), render_history(history)) == history


@pytest.mark.parametrize(
    "text", ["nonsense", "4\t0/1\tx", "3\t0/2\tx\n2\t0/3\tx", "1 5000090 x"]
)
def test_a_damaged_history_is_refused(text: str) -> None:
    with pytest.raises(PostgresError):
        parse_history(Timeline(4), text)


def history(timeline: int, *forks: tuple[int, int]) -> History:
    return History(
        timeline=Timeline(timeline),
        forks=tuple(Fork(parent=Timeline(t), lsn=Lsn(n)) for t, n in forks),
    )


def test_every_lower_id_gets_a_history_so_that_the_target_is_next() -> None:
    own = history(4, (1, 0x5000000), (2, 0x6000000))
    made = missing_histories({Timeline(2), Timeline(4)}, own, Timeline(7))
    assert [h.timeline for h in made] == [3, 5, 6]
    for one in made:
        assert one.forks[0].parent == 1
        assert 0 < one.forks[0].lsn <= 0x1000000


def test_an_ancestors_missing_history_is_made_true() -> None:
    own = history(4, (1, 0x5000000), (2, 0x6000000))
    made = missing_histories({Timeline(4)}, own, Timeline(5))
    assert made[0] == history(2, (1, 0x5000000))


def test_progress_is_the_newest_that_was_said() -> None:
    text = "  10/2048 kB (0%), 0/1 tablespace\r  1024/2048 kB (50%), 0/1 tablespace\r"
    assert parse_progress(text) == (1 << 20, 2 << 20)
    assert parse_progress("waiting for checkpoint") is None
