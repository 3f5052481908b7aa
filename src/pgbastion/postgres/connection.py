"""One connection to a server, which can always be given up.

A frozen server answers nothing, not even a cancel request. So a query that is late is
not cancelled: its socket is shut down, which ends the wait at once.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg

from pgbastion.errors import PostgresError

Row = tuple[Any, ...]

# A severed connection's wait ends at once; this bounds what is not understood.
SEVERED_S: Final = 1.0


class ServerSilentError(PostgresError):
    """No answer: refused, closed, or not in time."""


class ServerAnsweredError(PostgresError):
    """The server answered with an error: alive, with a reason (safety rule 76)."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """How to log in to a server."""

    host: str
    """An address, or the directory of its Unix socket."""
    port: int
    user: str
    password: str = field(repr=False)
    newest: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    """Gives the password as it is configured now; it is tried first. The server has
    it a moment later, when the primary's node has read it too."""
    dbname: str = "postgres"
    statement_timeout_ms: int = 0
    replication: bool = False
    """A connection that also understands replication commands."""
    application_name: str = "pgbastion"
    options: str = ""
    """More of libpq's ``options``; what we need comes after them and wins."""

    def passwords(self) -> tuple[str, ...]:
        """Return what to log in with, the newest first."""
        newest = self.password if self.newest is None else self.newest()
        return tuple(dict.fromkeys((newest, self.password)))

    def parameters(self, password: str | None = None) -> dict[str, str]:
        """Return libpq's parameters; by default with the first password."""
        # What we commit (roles, slots, marks in the WAL) never waits for a standby.
        # Warm sessions are idle most of the time: none ends for that.
        needed = (
            "-c search_path=pg_catalog -c synchronous_commit=local"
            " -c idle_session_timeout=0"
        )
        options = f"{self.options} {needed}".lstrip()
        if self.statement_timeout_ms:
            options += f" -c statement_timeout={self.statement_timeout_ms}"
        return {
            "host": self.host,
            "port": str(self.port),
            "user": self.user,
            "password": self.password if password is None else password,
            "dbname": self.dbname,
            "options": options,
            "application_name": self.application_name,
            **({"replication": "database"} if self.replication else {}),
        }


class Connection:
    """A warm connection. Queries run one after the other, each with a deadline."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._opening = asyncio.Lock()
        self._busy = 0

    @property
    def is_open(self) -> bool:
        """Whether the last query, if any, left the connection usable."""
        return self._connection is not None and not self._connection.closed

    @property
    def backend_pid(self) -> int | None:
        """The process that serves this connection."""
        if self._connection is None or self._connection.closed:
            return None
        return self._connection.info.backend_pid

    async def open(self, *, deadline_s: float) -> None:
        """Connect, unless connected.

        Raises:
            ServerSilentError: Nobody answered, or somebody who refused; `hello` tells
                the two apart.
        """
        async with self._opening:
            if not self.is_open or self._was_ended():
                await self._open(deadline_s)

    def _was_ended(self) -> bool:
        """Tell whether the server has ended the idle session, or is gone.

        To a session that asked nothing a server has one error to say: its farewell.
        """
        connection = self._connection
        if connection is None or self._busy:
            return False
        try:
            with socket.socket(fileno=_duplicate(connection)) as twin:
                said = twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except (psycopg.Error, OSError):
            return True
        return said in {b"", b"E"}

    async def _open(self, deadline_s: float) -> None:
        await self.close()
        where = f"{self._address.host}:{self._address.port}"
        try:
            async with asyncio.timeout(deadline_s):
                self._connection = await self._log_in()
        except TimeoutError as exc:
            raise ServerSilentError(f"cannot connect to {where}: no answer") from exc
        except (psycopg.Error, OSError) as exc:
            raise ServerSilentError(f"cannot connect to {where}: {exc}") from exc

    async def _log_in(self) -> psycopg.AsyncConnection[Row]:
        *newer, last = self._address.passwords()
        for password in newer:
            with suppress(psycopg.OperationalError):
                return await self._connect(password)
        return await self._connect(last)

    async def _connect(self, password: str) -> psycopg.AsyncConnection[Row]:
        return await psycopg.AsyncConnection.connect(
            **self._address.parameters(password),  # type: ignore[arg-type]
            autocommit=True,
            prepare_threshold=None,
        )

    async def close(self) -> None:
        """Close the connection, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def rows(
        self,
        query: LiteralString,
        parameters: Sequence[object] | Mapping[str, object] | None = None,
        *,
        deadline_s: float,
    ) -> list[Row]:
        """Run one statement and return its rows.

        Raises:
            ServerAnsweredError: The server refused the statement.
            ServerSilentError: Not connected, or no answer in time; then it is closed.
        """
        return await self._bounded(query.encode(), parameters, deadline_s)

    async def command(self, text: str, *, deadline_s: float) -> list[Row]:
        """Run a statement that was put together here, with everything in it quoted."""
        return await self._bounded(text.encode(), None, deadline_s)

    async def _bounded(
        self,
        query: bytes,
        parameters: Sequence[object] | Mapping[str, object] | None,
        deadline_s: float,
    ) -> list[Row]:
        connection = self._connection
        if connection is None or connection.closed:
            raise ServerSilentError("not connected")
        work = asyncio.ensure_future(_fetch(connection, query, parameters))
        late = True
        self._busy += 1
        try:
            await asyncio.wait({work}, timeout=deadline_s)
            late = not work.done()
        finally:
            self._busy -= 1
            if not work.done():
                await _sever(connection, work)
        if late:
            raise ServerSilentError(f"no answer within {deadline_s:g} s")
        try:
            return work.result()
        except psycopg.Error as exc:
            message = str(exc).strip()
            if exc.sqlstate is None or connection.closed:
                raise ServerSilentError(f"the connection broke: {message}") from exc
            raise ServerAnsweredError(message, exc.sqlstate) from exc


@asynccontextmanager
async def connected(
    address: Address, *, deadline_s: float
) -> AsyncIterator[Connection]:
    """Give a connection for as long as the block lasts.

    Raises:
        ServerSilentError: Nobody answered within the deadline, or somebody who refused.
    """
    connection = Connection(address)
    try:
        await connection.open(deadline_s=deadline_s)
        yield connection
    finally:
        await connection.close()


async def _fetch(
    connection: psycopg.AsyncConnection[Row],
    query: bytes,
    parameters: Sequence[object] | Mapping[str, object] | None,
) -> list[Row]:
    cursor = await connection.execute(query, parameters)
    return await cursor.fetchall() if cursor.description else []


async def _sever(
    connection: psycopg.AsyncConnection[Row], work: asyncio.Future[list[Row]]
) -> None:
    with (
        suppress(psycopg.Error, OSError),
        socket.socket(fileno=_duplicate(connection)) as twin,
    ):
        twin.shutdown(socket.SHUT_RDWR)
    await asyncio.wait({work}, timeout=SEVERED_S)
    if work.done() and not work.cancelled():
        work.exception()
    work.cancel()
    connection.pgconn.finish()


def _duplicate(connection: psycopg.AsyncConnection[Row]) -> int:
    return socket.dup(connection.pgconn.socket)
