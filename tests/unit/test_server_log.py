"""The server's log, which lies in memory."""

from pathlib import Path

import pytest

from pgbastion.postgres.server_log import (
    FAILURE_CHARS_MAX,
    TAIL_BYTES,
    put_aside,
    stream_failure,
)


def test_the_newest_lines_are_put_aside_and_the_server_goes_on(tmp_path: Path) -> None:
    path, aside = tmp_path / "postgres.log", tmp_path / "postgres.log.1"
    aside.write_text("of an earlier time")
    with path.open("ab", buffering=0) as server:
        server.write(b"old\nnewer\nnewest\n")

        put_aside(path, most=len("newer\nnewest\n"))
        server.write(b"after\n")

    assert aside.read_text() == "newer\nnewest\n"
    assert aside.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"after\n"


def test_no_link_that_the_server_s_user_made_is_followed(tmp_path: Path) -> None:
    path, precious = tmp_path / "postgres.log", tmp_path / "precious"
    precious.write_text("mine")
    path.write_text("lines")
    (tmp_path / "postgres.log.1").symlink_to(precious)

    put_aside(path, most=4)
    path.unlink()
    path.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        put_aside(path, most=1)

    assert precious.read_text() == "mine"
    assert (tmp_path / "postgres.log.1").read_text() == "ines"


def test_a_short_log_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "postgres.log"
    path.write_text("line")

    put_aside(path, most=4)

    assert [each.name for each in tmp_path.iterdir()] == ["postgres.log"]


AT = "2026-11-29 20:10:10.019 UTC [8410]"
NO_LOGIN = (
    "could not connect to the primary server: FATAL:  password authentication failed"
)
NO_WAL = "could not receive data from WAL stream: ERROR:  segment 01 has been removed"
REFUSED = f'{AT} FATAL:  {NO_LOGIN}\n\tpassword retrieved from file "/run/pgpass"\n'
REMOVED = f"{AT} FATAL:  {NO_WAL}\n"
CLIENT = f'{AT} FATAL:  password authentication failed for user "bob"\n'


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("", ""),
        (CLIENT, ""),
        (REFUSED + CLIENT, NO_LOGIN),
        (REFUSED + REMOVED, NO_WAL),
        (f'{REFUSED}{AT} LOG:  parameter "primary_conninfo" changed to "x"\n', ""),
        (f"{REFUSED}{AT} LOG:  starting PostgreSQL 15.18\n", ""),
        (REFUSED + "x" * TAIL_BYTES, ""),
    ],
)
def test_the_newest_failure_to_stream_is_found(
    tmp_path: Path, lines: str, found: str
) -> None:
    path = tmp_path / "postgres.log"
    path.write_text(lines)

    assert stream_failure(path) == found


def test_what_is_found_is_short_and_of_no_link(tmp_path: Path) -> None:
    path, link = tmp_path / "postgres.log", tmp_path / "link"
    path.write_text("ERROR:  could not start WAL streaming: " + "x" * 4_000)
    link.symlink_to(path)

    assert len(stream_failure(path)) == FAILURE_CHARS_MAX
    with pytest.raises(OSError, match="symbolic links"):
        stream_failure(link)
