"""Who of the synchronous set gives no sign of life."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pgbastion.clock import NS_PER_MS, boottime_ms
from pgbastion.ha.observer import Observer
from pgbastion.ha.ports import DataFacts, GuardFacts, ServerFacts
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.testing.views import (
    any_of,
    cluster_state,
    name,
    node_name,
    opened,
    received,
    report,
    row,
)

pytestmark = pytest.mark.timeout(10)

PROBE_MS = 500
STATE = cluster_state(opened=opened(1, 3, any_of(1, 2, 3)))


class Stand:
    """A guard with a server, and a server with one answer."""

    def __init__(self, facts: ServerFacts) -> None:
        self._facts = facts
        self.guard = GuardFacts(running=True, pid=7)

    def facts(self) -> GuardFacts:
        return self.guard

    async def answered(self) -> None:
        return None

    async def look(self, on_evidence: Callable[[int], None]) -> ServerFacts:
        del on_evidence
        return self._facts

    async def inspect(self, *, running: bool) -> DataFacts:
        """Return what is in the directory of a standby."""
        return DataFacts(empty=False, ours=True, was_standby=not running)

    async def history(self, timeline: Timeline) -> tuple[tuple[Timeline, Lsn], ...]:
        del timeline
        return ()

    def __getattr__(self, what: str) -> Any:
        raise AssertionError(f"{what} is not asked for here")


def observed(*rows: Any, asked_ns: int | None = None) -> Observer:
    """Return an observer that has looked at a primary with these walsenders."""
    return watching(*rows, asked_ns=asked_ns)[0]


def watching(
    *rows: Any, in_recovery: bool = False, asked_ns: int | None = None
) -> tuple[Observer, Stand]:
    """Return such an observer and what it looks at."""
    facts = ServerFacts(
        sent_ns=boottime_ms() * NS_PER_MS,
        answered=True,
        in_recovery=in_recovery,
        wal_end=WalEnd(timeline=Timeline(4), lsn=Lsn(100)),
        replication=rows,
        replication_ns=asked_ns,
    )
    stand = Stand(facts)

    async def look() -> Observer:
        looked = asyncio.Event()
        observer = Observer(
            stand,
            stand,
            probe_ms=PROBE_MS,
            on_evidence=lambda _: None,
            on_change=looked.set,
        )
        stand.guard = GuardFacts(running=False)
        await observer.inspect()
        looked.clear()
        stand.guard = GuardFacts(running=True, pid=7)
        looking = asyncio.create_task(observer.run())
        await looked.wait()
        looking.cancel()
        return observer

    return asyncio.run(look()), stand


def heard(*numbers: int, ago_ms: int = 0) -> Any:
    reports = [report(number) for number in numbers]
    return received(*reports, at_ms=boottime_ms() - ago_ms)


@pytest.fixture
def both() -> Observer:
    return observed(row(2), row(3))


def test_who_streams_and_reports_is_not_silent(both: Observer) -> None:
    assert both.silent_since_ms(STATE, heard(2, 3)) == {}


def test_a_row_that_outlives_its_node_does_not_count(both: Observer) -> None:
    long_ago = heard(2, ago_ms=4 * PROBE_MS)

    silent = both.silent_since_ms(STATE, {**heard(3), **long_ago})

    assert silent == {name(2): long_ago[node_name(2)].at_ms}


def test_a_standby_whose_daemon_is_silent_lives_as_long_as_its_server_speaks() -> None:
    observer = observed(replace(row(2), silent_ms=10), row(3))

    assert observer.silent_since_ms(STATE, heard(3)) == {}


def test_what_a_row_says_counts_from_when_it_was_asked_for() -> None:
    """Other work may keep the server from being asked for a while."""
    long_ago_ms = boottime_ms() - 8 * PROBE_MS
    rows = (replace(row(2, 50), silent_ms=0), row(3))
    observer = observed(*rows, asked_ns=long_ago_ms * NS_PER_MS)

    assert observer.silent_since_ms(STATE, heard(3)) == {name(2): long_ago_ms}
    # Nor does an old row show that nothing was flushed since.
    assert observer._flushing._moved == {}


def test_a_standby_that_owes_and_flushes_nothing_is_silent_though_it_reports() -> None:
    """Its disk hangs: its daemon and its WAL receiver may well go on talking."""
    observer = observed(replace(row(2, 50), silent_ms=10), row(3))
    since_ms = boottime_ms() - 4 * PROBE_MS
    observer._flushing.forget()
    observer._flushing.note([row(2, 50)], Lsn(100), since_ms)
    assert observer.silent_since_ms(STATE, heard(2, 3)) == {}
    observer._flushing.note([row(2, 50)], Lsn(100), since_ms + 3 * PROBE_MS)

    assert observer.silent_since_ms(STATE, heard(2, 3)) == {name(2): since_ms}


def test_a_standby_that_does_not_stream_is_silent_since_that_was_seen() -> None:
    observer = observed(row(3))
    first = observer.silent_since_ms(STATE, heard(2, 3))

    assert set(first) == {name(2)}
    assert observer.silent_since_ms(STATE, heard(2, 3)) == first


def test_who_left_the_set_for_its_silence_is_silent_still(both: Observer) -> None:
    """Else it would join again at once, as long as its row outlives it."""
    alone = cluster_state(opened=opened(1, 3, any_of(0)))
    long_ago = heard(2, ago_ms=4 * PROBE_MS)

    assert set(both.silent_since_ms(alone, {**heard(3), **long_ago})) == {name(2)}


@pytest.mark.parametrize("child_died", [True, False])
def test_how_a_server_ended_is_told_and_a_start_that_failed_changes_nothing(
    child_died: bool,
) -> None:
    observer, stand = watching()

    stand.guard = GuardFacts(running=False, child_died=child_died)
    at_once = observer.postgres_view(0)
    observer.on_stopped()
    ended = observer.postgres_view(0)
    stand.guard = GuardFacts(
        running=False, child_died=not child_died, server_said="no space"
    )
    observer.on_stopped()
    failed = observer.postgres_view(0)

    # The guard's status is there before its event is taken up.
    assert (at_once.child_died, at_once.ended_before_ms) == (child_died, 0)
    assert (ended.child_died, ended.ended_before_ms) == (child_died, 0)
    assert 0 < at_once.ended_ms <= ended.ended_ms
    assert (failed.child_died, failed.ended_ms) == (child_died, ended.ended_ms)
    assert (failed.start_failures, failed.start_failure) == (1, "no space")


def test_the_end_before_the_last_one_is_kept() -> None:
    observer, stand = watching()
    stand.guard = GuardFacts(running=False)
    observer.on_stopped()
    first = observer.postgres_view(0).ended_ms
    observer._server_pid = 8

    observer.on_stopped()

    assert observer.postgres_view(0).ended_before_ms == first


@pytest.mark.parametrize("in_recovery", [True, False])
def test_a_server_that_ended_by_itself_was_what_it_said_last(
    in_recovery: bool,
) -> None:
    """A primary that crashes is no standby, though the directory began as one's."""
    observer, stand = watching(in_recovery=in_recovery)

    stand.guard = GuardFacts(running=False)
    observer.on_stopped()

    assert observer.data_view().was_standby is in_recovery


def test_a_set_is_not_confirmed_any_more_while_another_one_is_brought_in() -> None:
    """S2: of a change that failed half-way the server says whether it has it."""
    observer = observed(row(2))
    observer.on_sync_applied(any_of(1, 2), confirmed=True)
    told = observer.postgres_view(0)
    assert (told.server_sync, told.sync_confirmed) == (any_of(1, 2), True)

    observer.on_sync_changing()

    told = observer.postgres_view(0)
    assert (told.server_sync, told.sync_confirmed) == (None, False)


def test_why_a_server_does_not_answer_is_kept_until_it_does() -> None:
    observer, stand = watching()
    answers = stand._facts
    stand._facts = replace(answers, answered=False, reason="password refused")

    asyncio.run(observer._try_to_look())
    silent = observer.silence
    stand._facts = answers
    asyncio.run(observer._try_to_look())

    assert (silent, observer.silence) == ("password refused", "")
