"""Says in the log, once, that a disk fills up or that a slot keeps too much WAL."""

import logging
from typing import Final

from pgbastion.model.report import Vitals
from pgbastion.observe.logging import get_logger

LOW_PERCENT: Final = 20
VERY_LOW_PERCENT: Final = 10
CLEAR_PERCENT: Final = 2
"""How far above a limit the room has to rise before the limit counts as left."""

log = get_logger("postgres")


class Warnings:
    """Remembers what was said, so that each change is said once."""

    def __init__(self) -> None:
        self._levels: dict[str, int] = {}

    def look(self, vitals: Vitals) -> None:
        """Say what has changed since the last look."""
        for disk in vitals.disks:
            if disk.size_bytes:
                free = disk.free_bytes * 100 // disk.size_bytes
                self._look_at_disk(disk.holds, free)
        least = min((disk.free_bytes for disk in vitals.disks), default=None)
        for slot in vitals.slots:
            retained = slot.retained_bytes or 0
            much = least is not None and 2 * retained >= least and retained > 0
            log.state(
                f"slot {slot.name}",
                "slot_retains_much" if much else "slot_fits",
                level=logging.WARNING if much else logging.DEBUG,
            )

    def _look_at_disk(self, holds: str, free_percent: int) -> None:
        before = self._levels.get(holds, 100)
        level = 100
        for limit in (LOW_PERCENT, VERY_LOW_PERCENT):
            if free_percent < limit + (CLEAR_PERCENT if before <= limit else 0):
                level = limit
        if level == before:
            return
        self._levels[holds] = level
        if level == 100:
            log.info("disk_has_room", holds=holds, free_percent=free_percent)
        else:
            log.warning("disk_filling", holds=holds, free_percent=free_percent)
