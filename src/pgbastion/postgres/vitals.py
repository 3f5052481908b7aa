"""What is watched of a server and decides nothing: slots, disks, the probe's time."""

from collections.abc import Sequence

from pgbastion.clock import NS_PER_MS
from pgbastion.model.report import Disk, SlotRow, Vitals
from pgbastion.postgres.disk import DiskAnswer
from pgbastion.postgres.probe import ProbeResult


def vitals(result: ProbeResult, slots: Sequence[SlotRow]) -> Vitals:
    """Return what a probe and the last look at the slots say.

    A disk that owes an answer may have been asked before this probe.
    """
    asked_ns = min(result.sent_ns, result.disk.sent_ns)
    return Vitals(
        probe_ms=(result.answered_ns - asked_ns) // NS_PER_MS,
        slots=tuple(slots),
        disks=_disks(result.disk),
    )


def _disks(answer: DiskAnswer) -> tuple[Disk, ...]:
    free, size = answer.free_bytes or {}, answer.size_bytes or {}
    return tuple(
        Disk(holds=holds, free_bytes=free[directory], size_bytes=size.get(directory, 0))
        for holds, directory in zip(("data", "wal"), free, strict=False)
    )
