"""The keys of the hardware watchdog, and how long it may stay unfed. Pure."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from pgbastion.config.section import Section
from pgbastion.config.timings import Timings
from pgbastion.config.types import AbsolutePath

MS_PER_S = 1_000


class WatchdogMode(StrEnum):
    """Whether a hardware watchdog stands behind the guard."""

    OFF = "off"
    AUTOMATIC = "automatic"
    REQUIRED = "required"


class WatchdogSection(Section):
    """The hardware watchdog: it resets a machine whose kernel or guard hangs."""

    mode: WatchdogMode = Field(
        WatchdogMode.OFF,
        strict=False,
        description="off; automatic: used where the device can be; required: this "
        "node becomes a primary only with it. Not in the profile fast, whose lease "
        "is too short for a device that counts seconds.",
    )
    device: AbsolutePath = Field(
        Path("/dev/watchdog"),
        description="The device; the daemon's user has to be able to write it.",
    )


def unfed_s(timings: Timings) -> int:
    """Return how long the device may stay unfed, in whole seconds.

    It is fed when a renewal has arrived, half of the renewal's deadline after it was
    sent at most, and fires before the guard would act.
    """
    left_ms = timings.lease_ms - timings.margin_ms - timings.deadline_ms // 2
    return left_ms // MS_PER_S


def least_unfed_s(timings: Timings) -> int:
    """Return how long it has to stay quiet: a Raft election must not reset a node."""
    least_ms = timings.renew_ms + 2 * timings.election_ms + timings.deadline_ms
    return -(-least_ms // MS_PER_S)


def fits(timings: Timings) -> bool:
    """Tell whether a device that counts whole seconds fits into the lease."""
    return unfed_s(timings) >= least_unfed_s(timings)
