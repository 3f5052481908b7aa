"""Why a command ends without what was asked for; each carries its exit code."""

from pgbastion.cli.exits import Exit
from pgbastion.errors import PgBastionError


class CommandError(PgBastionError):
    """A command cannot go on; the message is for the person who typed it."""

    exit = Exit.NO


class RefusedError(CommandError):
    """A node answered that it does not do this, and nothing has changed."""


class UnreachableError(CommandError):
    """No node answers."""

    exit = Exit.UNREACHABLE


class UnfinishedError(CommandError):
    """What was asked for may still happen: look before repeating it."""

    exit = Exit.UNFINISHED


class UnconfirmedError(CommandError):
    """Something that hurts was asked for, and nobody said yes."""

    exit = Exit.USAGE
