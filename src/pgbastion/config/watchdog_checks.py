"""Judges the hardware watchdog, alone and with the facts of this machine. Pure."""

from collections.abc import Iterator

from pgbastion.config.machine import Facts
from pgbastion.config.model import Config
from pgbastion.config.problems import Problem, Severity
from pgbastion.config.watchdog import WatchdogMode, fits, least_unfed_s, unfed_s


def check_watchdog(config: Config) -> Iterator[Problem]:
    """Yield what the file alone shows."""
    mode, timings = config.watchdog.mode, config.timings
    if mode is WatchdogMode.OFF or config.postgresql is None or fits(timings):
        return
    yield Problem(
        key="watchdog.mode",
        problem=f"a device that counts whole seconds does not fit into the lease: it "
        f"would have to fire after {unfed_s(timings)} s, and an election alone may "
        f"take {least_unfed_s(timings)} s",
        remedy="take failover.profile normal or wide, or write off",
        severity=Severity.ERROR if mode is WatchdogMode.REQUIRED else Severity.WARNING,
    )


def check_watchdog_on_machine(config: Config, facts: Facts) -> Iterator[Problem]:
    """Yield what does not fit between the keys and the machine."""
    wanted = config.watchdog
    unused = wanted.mode is WatchdogMode.OFF or config.postgresql is None
    if unused or not fits(config.timings) or facts.watchdog_fault is None:
        return
    without = "is used without it"
    if wanted.mode is WatchdogMode.REQUIRED:
        without = "does not become the primary"
    yield Problem(
        key="watchdog.device",
        problem=f"{wanted.device} {facts.watchdog_fault}: this node {without}",
        remedy="load the driver (softdog where there is no hardware), and let the "
        "daemon's user write the device",
        severity=Severity.WARNING,
    )
