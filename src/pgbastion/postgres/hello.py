"""Ask a postmaster for a sign of life with a new connection, without logging in.

libpq hides the SQLSTATE of a refused connection, and messages are translated. So the
first exchange is spoken here: a start-up packet, then the first answer, which is
either a request for a password (a new backend lives) or an ErrorResponse with its
SQLSTATE (PostgreSQL, "Frontend/Backend Protocol", message formats).

A postmaster that cannot fork says so in words alone, in the form of protocol 2
(PostgreSQL, ``report_fork_failure_to_client``): also that is an answer.
"""

import asyncio
import errno
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.postgres.connection import Address

PROTOCOL_3_0: Final = 3 << 16
MESSAGE_MAX_BYTES: Final = 1 << 16
INSUFFICIENT_RESOURCES: Final = "53000"
NOBODY_ASKED: Final = frozenset(
    {errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first answer of a new connection."""

    sqlstate: str | None = None
    """Why the server will not serve now; None: it asks for a password."""
    message: str = ""


async def hello(address: Address, *, deadline_s: float) -> Hello | None:
    """Return the postmaster's first answer; None: silence, refusal or nonsense."""
    with suppress(OSError):
        return await knock(address, deadline_s=deadline_s)
    return None


async def knock(address: Address, *, deadline_s: float) -> Hello | None:
    """Return what `hello` does.

    Raises:
        OSError: Nobody could be asked: the file of the Unix socket is not there, or
            this process has no descriptor or memory left.
    """
    try:
        async with asyncio.timeout(deadline_s):
            return await _exchange(address)
    except (TimeoutError, PostgresError, asyncio.IncompleteReadError):
        return None
    except OSError as exc:
        if exc.errno in NOBODY_ASKED:
            raise
        return None


async def _exchange(address: Address) -> Hello:
    if address.host.startswith("/"):
        path = Path(address.host) / f".s.PGSQL.{address.port}"
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(startup_packet(address.user, address.dbname))
        await writer.drain()
        kind = await reader.readexactly(1)
        head = await reader.readexactly(4)
        (length,) = struct.unpack("!I", head)
        if length <= MESSAGE_MAX_BYTES:
            body = await reader.readexactly(length - 4)
        elif kind == b"E":
            return parse_bare_words(head + await reader.readuntil(b"\n"))
        else:
            raise PostgresError("not a PostgreSQL server")
    finally:
        writer.close()
    return parse_first_answer(kind, body)


def parse_bare_words(text: bytes) -> Hello:
    """Read why a postmaster could not fork: it names no SQLSTATE."""
    message = text.decode(errors="replace").strip()
    return Hello(sqlstate=INSUFFICIENT_RESOURCES, message=message)


def startup_packet(user: str, dbname: str) -> bytes:
    """Return the packet that begins a session."""
    pairs = {"user": user, "database": dbname, "application_name": "pgbastion"}
    body = b"".join(f"{k}\0{v}\0".encode() for k, v in pairs.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, PROTOCOL_3_0) + body


def parse_first_answer(kind: bytes, body: bytes) -> Hello:
    """Read the first message of a server.

    Raises:
        PostgresError: No server sends this.
    """
    if kind in (b"R", b"v"):
        return Hello()
    if kind != b"E":
        raise PostgresError("not a PostgreSQL server")
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0")}
    return Hello(sqlstate=fields.get(b"C", ""), message=fields.get(b"M", ""))
