"""Clients that append to lists through the proxies, and keep what they were told."""

import threading
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from pgbastion.bench.lab.appends import Append, Outcome
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.network import WATCH
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.servers import SUPERUSER
from pgbastion.bench.lab.settings import PRIMARY_PORT
from pgbastion.clock import boottime_ns

KEYS: Final = 8
CLIENTS: Final = 4
PAUSE_S: Final = 0.02
END_S: Final = 30.0
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS lab_lists (key int PRIMARY KEY, items bigint[])"
)
_LISTS: Final = (
    "INSERT INTO lab_lists SELECT k, '{}' FROM generate_series(0, 7) AS k"
    " ON CONFLICT DO NOTHING"
)
_APPEND: Final = (
    "UPDATE lab_lists SET items = items || %s::bigint WHERE key = %s RETURNING items"
)
# A server that is gone without a word must not hold a client for ever.
_PATIENCE: Final = (
    " connect_timeout=2 tcp_user_timeout=4000"
    " keepalives_idle=2 keepalives_interval=1 keepalives_count=2"
)


class Appenders:
    """Threads that append until the block is left."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab = lab
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self._warned: set[psycopg.Connection[Any]] = set()
        self.history: list[Append] = []
        self._threads = [
            threading.Thread(target=self._run, args=(self._random(seed, n), n))
            for n in range(CLIENTS)
        ]

    def __enter__(self) -> Self:
        """Make the lists and start."""
        with self._lab.node(self._lab.primary()).connect() as connection:
            for statement in (_TABLE, _LISTS):
                connection.execute(statement.encode())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let every client finish what it has begun."""
        self._ends.set()
        for thread in self._threads:
            thread.join(END_S)

    @staticmethod
    def _random(seed: int, number: int) -> Random:
        return Random(f"{seed} {number}")  # noqa: S311 - the seed repeats it

    def done(self) -> int:
        """Return how many appends were acknowledged so far."""
        with self._lock:
            return sum(op.outcome is Outcome.DONE for op in self.history)

    def _run(self, random: Random, turn: int) -> None:
        nodes = list(self._lab.nodes.values())
        session: psycopg.Connection[Any] | None = None
        while not self._ends.wait(PAUSE_S):
            if session is None or session.closed:
                turn += 1
                session = self._connect(nodes[turn % len(nodes)])
            if session is not None:
                self._append(session, random.randrange(KEYS))
        if session is not None:
            session.close()

    def _connect(self, node: Node) -> psycopg.Connection[Any] | None:
        target = Target(
            address=node.address,
            port=PRIMARY_PORT,
            user=SUPERUSER,
            password=self._lab.password,
        )
        try:
            with self._lab.network.inside(WATCH):
                session: psycopg.Connection[Any] = psycopg.connect(
                    target.conninfo() + _PATIENCE, autocommit=True
                )
        except psycopg.Error:
            return None
        session.add_notice_handler(lambda _: self._warned.add(session))
        return session

    def _append(self, session: psycopg.Connection[Any], key: int) -> None:
        with self._lock:
            self._next += 1
            value = self._next
        sent_ns = boottime_ns()
        seen: Sequence[int] = ()
        try:
            row = session.execute(_APPEND.encode(), (value, key)).fetchone()
            # A wait for standbys that was cut short answers with a warning.
            warned = session in self._warned
            self._warned.discard(session)
            outcome = Outcome.UNKNOWN if row is None or warned else Outcome.DONE
            seen = row[0] if row is not None and not warned else ()
        except psycopg.Error as error:
            # An answer with a code of the statement itself means that it had no effect;
            # a connection that broke, or was ended, says nothing.
            outcome = _outcome_of(error, session)
        if outcome is Outcome.UNKNOWN:
            session.close()
        made = Append(
            key=key,
            value=value,
            sent_ns=sent_ns,
            ended_ns=boottime_ns(),
            outcome=outcome,
            seen=tuple(seen),
        )
        with self._lock:
            self.history.append(made)


def _outcome_of(error: psycopg.Error, session: psycopg.Connection[Any]) -> Outcome:
    code = error.sqlstate or ""
    ended = session.closed or code[:2] in ("", "08", "57")
    return Outcome.UNKNOWN if ended else Outcome.REFUSED


def final_lists(node: Node) -> dict[int, list[int]] | None:
    """Return the lists on a server; None: it does not answer."""
    rows = node.query("SELECT key, items FROM lab_lists")
    return None if rows is None else {int(key): list(items) for key, items in rows}
