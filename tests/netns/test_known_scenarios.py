"""What others met in production and wrote about, on real servers."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg
import pytest

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.injections import node_lost
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.settings import Plan
from support.lab_clients import connect, post
from support.lab_faults import Clusters, receivers

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

ATTEMPTS = 3
WAITING_S = 15.0
STARTED_S = 10.0
SUCCESSOR_S = 60.0
# Time for readers to see what they must not see.
LOOKED_FOR_S = 1.0
READ_EVERY_S = 0.02
END_S = 15.0


@pytest.fixture(scope="module")
def three() -> Iterator[Clusters]:
    clusters = Clusters(Plan())
    yield clusters
    clusters.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a session that was just opened saw of the row."""

    begun_s: float
    ended_s: float
    via: str
    seen: bool


class Readers:
    """Look for one row through the primary port of every node, in new sessions."""

    def __init__(self, lab: Lab, row: int) -> None:
        self._lab, self._row = lab, row
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(node,), daemon=True)
            for node in lab.nodes.values()
        ]
        self.reads: list[Read] = []

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()
        for each in self._threads:
            each.join(END_S)

    def since(self, instant_s: float) -> list[Read]:
        """Return the reads that began after an instant."""
        return [read for read in self.reads if read.begun_s > instant_s]

    def vanished(self) -> list[tuple[Read, Read]]:
        """Return each read that saw the row with a later one that did not."""
        return [
            (saw, missed)
            for saw in self.reads
            for missed in self.reads
            if saw.seen and not missed.seen and missed.begun_s > saw.ended_s
        ]

    def _run(self, node: Node) -> None:
        query = f"SELECT count(*) FROM lab_writes WHERE id = {self._row}"
        while not self._ends.wait(READ_EVERY_S):
            begun_s = time.monotonic()
            with suppress(psycopg.Error), connect(self._lab, node) as session:
                rows = session.execute(query.encode()).fetchall()
                self.reads.append(
                    Read(
                        begun_s=begun_s,
                        ended_s=time.monotonic(),
                        via=node.name,
                        seen=rows[0][0] > 0,
                    )
                )


@contextmanager
def waiting_commit(node: Node, row: int) -> Iterator[processes.Process]:
    """Have a session commit a row and wait for a standby; give its process."""
    with suppress(psycopg.Error), node.connect() as session:
        pid = session.info.backend_pid
        insert = f"INSERT INTO lab_writes (id) VALUES ({row})"

        def commit() -> None:
            with suppress(psycopg.Error):
                session.execute(insert.encode())

        thread = threading.Thread(target=commit, daemon=True)
        thread.start()
        waits.wait_for(
            "a commit that waits for a standby",
            lambda: node.query(
                "SELECT 1 FROM pg_stat_activity"
                " WHERE pid = %s AND wait_event = 'SyncRep'",
                pid,
            ),
            WAITING_S,
            0.02,
        )
        backend = processes.find(pid)
        assert backend is not None
        yield backend
        thread.join(END_S)


def demand_standbys(lab: Lab) -> None:
    """Let no commit be confirmed without a standby, whoever is silent."""
    said = post(lab, lab.node(lab.primary()), "/cluster/replication", {"strict": True})
    assert said["changed"], said
    lab.wait_steady()


def shows_up(node: Node, row: int) -> bool:
    """Tell whether the row shows on the server itself, once it runs again."""
    with suppress(LabError):
        waits.wait_for(
            "the commit to show on the server itself",
            lambda: node.query("SELECT 1 FROM lab_writes WHERE id = %s", row),
            STARTED_S,
        )
        return True
    return False


def cut_the_wait(lab: Lab, row: int) -> Readers | None:
    """Cut a commit's wait by a crash, then lose the only node that has it.

    Returns what readers saw of it; None: the server was not started again in place,
    so that it showed nowhere.
    """
    old = lab.node(lab.primary())
    others = [node for node in lab.nodes.values() if node is not old]
    silent = receivers(others)
    with ExitStack() as stack:
        # What they were sent meanwhile goes with them.
        stack.callback(processes.kill, silent)
        processes.freeze(lambda: silent)
        readers = stack.enter_context(Readers(lab, row))
        with waiting_commit(old, row) as backend:
            # One session dies, as for lack of memory: the server starts in place.
            processes.kill([backend])
        if not shows_up(old, row):
            return None
        time.sleep(LOOKED_FOR_S)
        with node_lost(lab, old.name):
            processes.kill(silent)
            waits.wait_for(
                "a successor",
                lambda: lab.reported_primary(others) not in (None, old.name),
                SUCCESSOR_S,
            )
            now_s = time.monotonic()
            waits.wait_for(
                "readers of the successor", lambda: readers.since(now_s), SUCCESSOR_S
            )
    return readers


def test_a_commit_whose_wait_was_cut_never_vanishes_before_readers(
    three: Clusters,
) -> None:
    """It shows on a server that recovered, and nobody is let in to see it."""
    with three.running() as lab:
        lab.wait_steady()
        demand_standbys(lab)
        for row in range(-1, -1 - ATTEMPTS, -1):
            readers = cut_the_wait(lab, row)
            lab.wait_steady(waits.REJOINED_S + waits.STEADY_S)
            if readers is not None:
                assert readers.vanished() == []
                assert not any(read.seen for read in readers.reads)
                return
        pytest.fail(f"the commit never showed in {ATTEMPTS} attempts")
