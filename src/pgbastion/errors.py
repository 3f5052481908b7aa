"""Errors of the program, and the check of its own rules.

Expected outcomes are values, not exceptions. What is raised is either a failure of the
world (`PgBastionError`, one subclass a subsystem) or a broken rule of our own
(`InvariantError`), after which the daemon fences itself and ends.
"""


class PgBastionError(Exception):
    """A failure of the world; the message names the operation and its object."""


class ConfigError(PgBastionError):
    """The configuration cannot be used; the message lists every problem."""


class ConsensusError(PgBastionError):
    """The consensus engine or its log failed."""


class GuardError(PgBastionError):
    """The guard cannot be reached or refused a command."""


class PostgresError(PgBastionError):
    """A program of PostgreSQL or a connection to the server failed."""


class TimelineTaken(PostgresError):  # noqa: N818 - an outcome that the caller expects
    """A promotion cannot take its timeline: the id is known here already."""


class ProxyError(PgBastionError):
    """The proxy cannot listen or relay."""


class ApiError(PgBastionError):
    """The REST API cannot be served or asked."""


class VipError(PgBastionError):
    """An address cannot be added, removed or announced."""


class DemoError(PgBastionError):
    """The demonstration cannot go on; the message says what is in the way."""


class OutcomeUnknown(PgBastionError):  # noqa: N818 - it is no error until looked at
    """Nobody can tell whether it happened: look again, never assume."""


class InvariantError(Exception):
    """A rule of our own is broken: a bug. Nothing may go on from here.

    It is deliberately no `PgBastionError`, so that no handler of the world's failures
    catches it.
    """


def invariant(condition: object, rule: str) -> None:
    """Go on only while ``condition`` holds, also under ``python -O``.

    Raises:
        InvariantError: ``condition`` is false; the message is ``rule``.
    """
    if not condition:
        raise InvariantError(rule)
