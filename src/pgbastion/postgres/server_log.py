"""The server's log in the run directory lies in memory: it is kept within a bound.

The server has the file open, so it cannot be exchanged. Its newest lines are copied and
the file is made empty; what is written between the two is lost.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import Final

from pgbastion.guard.launch import LOG_BYTES_MAX
from pgbastion.observe.logging import get_logger

LOOK_EVERY_S: Final = 2.0
SERVER_LOG: Final = "postgres.log"
TAIL_BYTES: Final = 8_192
FAILURE_CHARS_MAX: Final = 300
# What a WAL receiver ends with. Source: PostgreSQL, src/backend/replication,
# walreceiver.c and libpqwalreceiver.c. A server of another language says nothing here.
_FAILURE: Final = re.compile(
    r"(?:FATAL|ERROR):  (.*(?:primary server|WAL stream|walreceiver"
    r"|the primary and standby|recovery timeline).*)"
)
# What was said before it was pointed at this primary is of another one.
_ANEW: Final = re.compile(r'starting PostgreSQL|"primary_conninfo" changed')
_LAST_WORDS: Final = re.compile(r"(?:FATAL|PANIC):  (.*)")

log = get_logger("postgres")


async def keep_within_bound(path: Path) -> None:
    """Look after the log at ``path`` until cancelled."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await asyncio.to_thread(put_aside, path)
        except FileNotFoundError:
            # No server has been started.
            continue
        except OSError as exc:
            log.state("server log", "server_log_too_long", error=str(exc))


def stream_failure(path: Path) -> str:
    """Return with what the newest attempt to stream ended; empty: nothing is known.

    Raises:
        OSError: The log cannot be read.
    """
    anew = _ANEW.split(_tail(path))[-1]
    return _newest(_FAILURE, anew)


def last_words(path: Path) -> str:
    """Return why the server ended, by its own word; empty: nothing is known."""
    try:
        return _newest(_LAST_WORDS, _tail(path))
    except OSError:
        return ""


def _newest(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return str(found[-1])[:FAILURE_CHARS_MAX] if found else ""


def _tail(path: Path) -> str:
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(source).st_size
        tail = os.pread(source, TAIL_BYTES, max(size - TAIL_BYTES, 0))
    finally:
        os.close(source)
    return tail.decode(errors="replace")


def put_aside(path: Path, most: int = LOG_BYTES_MAX) -> None:
    """Copy the newest of more than ``most`` bytes to ``PATH.1``, and make it empty.

    PostgreSQL's user may add files to the directory: no link is followed.

    Raises:
        OSError: It cannot be done.
    """
    source = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(source).st_size
        if size <= most:
            return
        aside = path.with_name(f"{path.name}.1")
        aside.unlink(missing_ok=True)
        aside.touch(mode=0o600, exist_ok=False)
        aside.write_bytes(os.pread(source, most, size - most))
        os.ftruncate(source, 0)
        log.info("server_log_put_aside", file=str(aside))
    finally:
        os.close(source)
