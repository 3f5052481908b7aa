"""What the guard tells: its status and its events."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PostmasterSignal = Literal["INT", "QUIT", "TERM", "HUP"]
PostgresState = Literal["idle", "unproven", "running", "killing", "not_stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardStatus:
    """What the guard says of itself; it comes with every answer and every event.

    ``unproven``: an earlier guard ended while armed; only a `kill` that names the
    directory, or an adoption, leads on from there. ``postmaster`` is 0 when none runs;
    ``postmaster_start`` is in clock ticks since boot; ``tainted``: what runs, or is not
    proven dead, may be a primary; ``left`` is what a kill could not end by its
    deadline; ``generation`` is the newest handed out, to the process ``writer`` (0:
    nobody).
    """

    guard: int
    state: PostgresState
    postmaster: int
    postmaster_start: int
    pgdata: str
    adopted: bool
    tainted: bool
    armed: int
    ended: int
    asked_ns: int
    generation: int
    writer: int
    left: tuple[str, ...]
    warnings: tuple[str, ...]
    watchdog: str = "off"
    watchdog_problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogSetting:
    """The hardware watchdog that the guard is to use."""

    device: str
    timeout_s: int
    """How long it may stay unfed."""
    least_s: int
    """A shorter time-out of the device would reset a healthy node."""
    required: bool
    """Without it nothing becomes a primary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The postmaster ended and the rest of it was killed.

    ``code`` or ``signal`` is None where the other is known; both for an adopted one.
    ``stopped`` is false at a kill's deadline: ``left`` says who is not dead, the guard
    goes on, and `Stopped` follows if it succeeds.
    """

    pid: int
    code: int | None
    signal: int | None
    stopped: bool
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """The lease of ``epoch`` ran out, so that the guard kills."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Nothing of PostgreSQL is left: it can commit nothing any more."""

    pgdata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterEnded:
    """The writer of the page ended: another process may be it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The connection ended, and with ``is_dead`` the guard did."""

    is_dead: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogSeen:
    """Whether the hardware watchdog can be used has changed; empty: it can."""

    problem: str


GuardEvent = Exited | Killed | Stopped | WriterEnded | WatchdogSeen | Gone


@dataclass(frozen=True, slots=True, kw_only=True)
class KillOutcome:
    """Whether PostgreSQL is "stopped", and if not, who is left."""

    stopped: bool
    left: tuple[str, ...]


def parse_status(fields: Mapping[str, Any]) -> GuardStatus:
    """Return the part ``status`` of a message; fields of a newer guard are left out."""
    names = GuardStatus.__dataclass_fields__
    # A guard of an earlier release, which outlived its daemon, knows fewer.
    known = {name: fields[name] for name in names if name in fields}
    known["left"] = tuple(known["left"])
    known["warnings"] = tuple(known["warnings"])
    return GuardStatus(**known)


def parse_event(message: Mapping[str, Any]) -> GuardEvent | None:
    """Return a message as an event; None: one that a newer guard may send."""
    match message["event"]:
        case "exited":
            return Exited(
                pid=message["pid"],
                code=message["code"],
                signal=message["signal"],
                stopped=message["stopped"],
                left=tuple(message["left"]),
            )
        case "killed":
            return Killed(epoch=message["epoch"])
        case "stopped":
            return Stopped(pgdata=message["pgdata"])
        case "vacant":
            return WriterEnded()
        case "watchdog":
            return WatchdogSeen(problem=message["problem"])
        case _:
            return None
