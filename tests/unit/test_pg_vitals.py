"""What a probe says of the time that a server and its disks take."""

import pytest

from pgbastion.clock import NS_PER_MS
from pgbastion.postgres.disk import DiskAnswer
from pgbastion.postgres.probe import ProbeResult
from pgbastion.postgres.vitals import vitals


def probe(disk_sent_ms: int, disk_answered_ms: int | None) -> ProbeResult:
    """Return a probe that was sent at 1000 ms and was over at 1400 ms."""
    answered = None if disk_answered_ms is None else disk_answered_ms * NS_PER_MS
    return ProbeResult(
        sent_ns=1_000 * NS_PER_MS,
        answered_ns=1_400 * NS_PER_MS,
        evidence_ns=None,
        reason="",
        facts=None,
        disk=DiskAnswer(sent_ns=disk_sent_ms * NS_PER_MS, answered_ns=answered),
    )


@pytest.mark.parametrize(
    ("disk_sent_ms", "disk_answered_ms", "took_ms"),
    [(1_001, 1_300, 400), (1_001, None, 400), (200, None, 1_200), (200, 1_399, 1_200)],
)
def test_a_disk_that_owes_an_answer_is_timed_from_when_it_was_asked(
    disk_sent_ms: int, disk_answered_ms: int | None, took_ms: int
) -> None:
    """No probe waits longer than its deadline, which is below any alert."""
    assert vitals(probe(disk_sent_ms, disk_answered_ms), ()).probe_ms == took_ms
