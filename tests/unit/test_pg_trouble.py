"""What does not answer is told apart: postmaster, sessions, disk."""

import asyncio
import errno
import logging
from dataclasses import replace

import pytest

from pgbastion.clock import NS_PER_MS
from pgbastion.model.trouble import Trouble
from pgbastion.postgres.disk import DiskAnswer
from pgbastion.postgres.hello import Hello
from pgbastion.postgres.probe import ProbeResult
from pgbastion.postgres.trouble import (
    FRESH_EVERY_MS,
    SEGMENT_BYTES,
    STRIKES,
    Doctor,
    disk_trouble,
)

ROOM = {"/d": 10 * SEGMENT_BYTES}


def disk(**fields: object) -> DiskAnswer:
    values = {"sent_ns": 0, "answered_ns": 1, "free_bytes": ROOM, **fields}
    return DiskAnswer(**values)  # type: ignore[arg-type]


def probe(
    at_ms: int, *, answered: bool = True, disk: DiskAnswer | None = None
) -> ProbeResult:
    return ProbeResult(
        sent_ns=at_ms * NS_PER_MS,
        answered_ns=at_ms * NS_PER_MS,
        evidence_ns=None,
        reason="",
        facts=None,
        disk=disk or DiskAnswer(sent_ns=0, answered_ns=1, free_bytes=ROOM),
        session_answered=answered,
    )


class Case:
    """A doctor whose new connections are answered as the test says."""

    def __init__(self, *, greeted: bool, has_socket: bool = True) -> None:
        self.greeted = greeted
        self.has_socket = has_socket
        self.tried = 0
        self.doctor = Doctor(self.greet)

    async def greet(self) -> Hello | None:
        self.tried += 1
        if not self.has_socket:
            raise FileNotFoundError
        return Hello() if self.greeted else None

    def judge(self, *probes: ProbeResult) -> list[Trouble | None]:
        async def follow() -> list[Trouble | None]:
            found = []
            for each in probes:
                found.append(self.doctor.judge(each)[0])
                # The new connection has its answer before the next probe.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await self.doctor.forget()
            return found

        return asyncio.run(follow())


START = FRESH_EVERY_MS


def test_a_healthy_server_is_asked_for_a_new_connection_now_and_then() -> None:
    case = Case(greeted=True)
    every = [probe(START + n * FRESH_EVERY_MS // 2) for n in range(5)]

    assert case.judge(*every) == [None] * 5
    assert case.tried == 3


def test_a_postmaster_that_takes_no_connection_counts_after_some_in_a_row() -> None:
    case = Case(greeted=False)
    found = case.judge(*(probe(START + n) for n in range(STRIKES + 1)))

    assert found == [None] * STRIKES + [Trouble.POSTMASTER_SILENT]


def test_one_lost_connection_is_no_hang() -> None:
    """Else a machine that is busy for a moment would fail over."""
    case = Case(greeted=False)

    async def follow() -> list[Trouble | None]:
        found = []
        for n in range(STRIKES + 3):
            case.greeted = n >= STRIKES - 1
            found.append(case.doctor.judge(probe(START + n))[0])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return found

    assert asyncio.run(follow()) == [None] * (STRIKES + 3)


def test_a_socket_that_was_removed_says_nothing_of_a_server_that_answers() -> None:
    """Else whoever removes the run directory ends a healthy primary."""
    case = Case(greeted=False, has_socket=False)

    assert case.judge(*(probe(START + n) for n in range(9))) == [None] * 9
    silent = [probe(START + n, answered=False) for n in range(2)]
    assert case.judge(*silent) == [Trouble.SERVER_SILENT] * 2


@pytest.mark.parametrize(("answered", "said"), [(True, 1), (False, 0)])
def test_a_server_that_starts_has_its_socket_yet_to_make(
    caplog: pytest.LogCaptureFixture, answered: bool, said: int
) -> None:
    """It answers a moment later, and nobody has removed anything."""
    case = Case(greeted=False, has_socket=False)
    with caplog.at_level(logging.WARNING, logger="pgbastion"):
        case.judge(probe(START, answered=answered), probe(START + 1))

    assert [r.getMessage() for r in caplog.records].count("socket_gone") == said


@pytest.mark.parametrize(
    ("greeted", "found"),
    [(True, Trouble.BACKENDS_SILENT), (False, Trouble.SERVER_SILENT)],
)
def test_frozen_sessions_are_told_from_a_frozen_server(
    greeted: bool, found: Trouble
) -> None:
    case = Case(greeted=greeted)
    silent = [probe(START + n, answered=False) for n in range(2)]

    assert case.judge(*silent)[1] is found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (disk(), None),
        (disk(answered_ns=None), Trouble.DISK_SILENT),
        (disk(error="EIO", errno=errno.EIO), Trouble.DISK_FAILED),
        (disk(error="full", errno=errno.ENOSPC), Trouble.DISK_FULL),
        (disk(free_bytes={"/d": SEGMENT_BYTES - 1}), Trouble.DISK_FULL),
        (disk(free_bytes=None), None),
    ],
)
def test_the_disks_are_told_apart(answer: DiskAnswer, found: Trouble | None) -> None:
    assert disk_trouble(answer) is found
    assert Case(greeted=True).judge(probe(START, disk=answer)) == [found]


def test_every_trouble_has_a_sentence() -> None:
    assert all(trouble.sentence for trouble in Trouble)


def test_a_postmaster_that_hangs_takes_the_evidence_away() -> None:
    """The sessions answer: only so does the lease of a server end that is half dead."""
    case = Case(greeted=False)
    probes = [replace(probe(START + n), evidence_ns=7) for n in range(STRIKES + 1)]

    async def follow() -> list[int | None]:
        found = []
        for each in probes:
            found.append(case.doctor.judge(each)[1])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return found

    assert asyncio.run(follow()) == [7] * STRIKES + [None]
