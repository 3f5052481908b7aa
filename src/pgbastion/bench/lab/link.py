"""A connection to PostgreSQL that never blocks its caller and never cancels.

A client that asks every few milliseconds and gives up on its own terms needs to know
when its question was sent and when the answer came, and must not help the server by
cancelling. libpq's asynchronous interface gives exactly that; psycopg's connections
would send a cancel request when they are interrupted.
"""

import select
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from psycopg import OperationalError, pq

_ROWS: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Phase(StrEnum):
    """Where a link stands."""

    CONNECTING = "connecting"
    IDLE = "idle"
    WAITING = "waiting"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outcome of one question.

    ``warned`` tells that a WARNING came with it: a commit whose wait for a standby was
    cancelled returns that way, and is not acknowledged.
    """

    ok: bool
    sqlstate: str
    value: str
    warned: bool

    @property
    def acknowledged(self) -> bool:
        """Whether the server has confirmed the statement without reservation."""
        return self.ok and not self.warned


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to connect, and as whom."""

    address: str
    port: int
    user: str
    password: str
    database: str = "postgres"

    def conninfo(self) -> str:
        """Return libpq's connection string; the password is in it: do not log it."""
        return (
            f"hostaddr={self.address} port={self.port} user={self.user}"
            f" password={self.password} dbname={self.database}"
            " sslmode=disable gssencmode=disable application_name=lab"
        )


class Link:
    """One connection; `advance` is called whenever its socket is ready."""

    def __init__(self, target: Target) -> None:
        """Begin to connect; errors show as `Phase.BROKEN`."""
        self.phase = Phase.CONNECTING
        self.failure = ""
        self._warned = False
        self._wants_write = True
        self._result: pq.abc.PGresult | None = None
        self._pq = pq.PGconn.connect_start(target.conninfo().encode())
        self._pq.notice_handler = self._on_notice
        if self._pq.status == pq.ConnStatus.BAD:
            self._break()

    def fileno(self) -> int:
        """Return the socket, for poll."""
        return self._pq.socket

    def events(self) -> int:
        """Return the poll events that `advance` waits for."""
        return select.POLLOUT if self._wants_write else select.POLLIN

    def ask(self, query: str) -> None:
        """Send one statement; only while `Phase.IDLE`."""
        self._warned = False
        try:
            self._pq.send_query(query.encode())
            self._wants_write = self._pq.flush() == 1
        except OperationalError:
            self._break()
            return
        self.phase = Phase.WAITING

    def advance(self) -> Answer | None:
        """Take what the socket has; return the answer once it is complete."""
        if self.phase is Phase.CONNECTING:
            self._advance_connect()
            return None
        try:
            return self._advance_question()
        except OperationalError:
            self._break()
            return None

    def close(self) -> None:
        """Close the socket. What the server still does is left alone."""
        self.phase = Phase.BROKEN
        self._pq.finish()

    def _advance_connect(self) -> None:
        status = self._pq.connect_poll()
        if status == pq.PollingStatus.OK:
            self._pq.nonblocking = 1
            self._wants_write = False
            self.phase = Phase.IDLE
        elif status == pq.PollingStatus.FAILED:
            self._break()
        else:
            self._wants_write = status == pq.PollingStatus.WRITING

    def _advance_question(self) -> Answer | None:
        if self._wants_write:
            self._wants_write = self._pq.flush() == 1
            if self._wants_write:
                return None
        self._pq.consume_input()
        while not self._pq.is_busy():
            result = self._pq.get_result()
            if result is None:
                return self._finish_question()
            # The first result is the statement's own; a second one can only be the
            # end of the connection.
            self._result = self._result or result
        return None

    def _finish_question(self) -> Answer | None:
        result, self._result = self._result, None
        if self._pq.status == pq.ConnStatus.BAD:
            self._break()
            return None
        if result is None:  # the socket became readable while nothing was asked
            return None
        self.phase = Phase.IDLE
        return self._answer(result)

    def _answer(self, result: pq.abc.PGresult) -> Answer:
        ok = result.status in _ROWS
        sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
        value = result.get_value(0, 0) if result.ntuples else b""
        return Answer(
            ok=ok,
            sqlstate=sqlstate.decode(),
            value=(value or b"").decode(),
            warned=self._warned,
        )

    def _on_notice(self, notice: pq.abc.PGresult) -> None:
        severity = notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        if severity == b"WARNING":
            self._warned = True

    def _break(self) -> None:
        text = (self._pq.error_message or b"").decode(errors="replace").strip()
        # The first line says what happened, the rest what it may mean.
        self.failure = text.partition("\n")[0].rpartition("failed: ")[2]
        self.close()
