"""Entry point of the ``pgbastion`` command."""

import os
import sys
from typing import Final

from pgbastion.cli.app import app
from pgbastion.cli.exits import Exit
from pgbastion.cli.problems import CommandError
from pgbastion.errors import ConfigError, PgBastionError
from pgbastion.platform.choice import UnknownPlatformError

COMPLETE_VARIABLE: Final = "_PGBASTION_COMPLETE"
"""Set by a shell that asks what could come next."""


def main() -> None:
    """Run the command line; a failure of the world ends with one message."""
    if COMPLETE_VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        app(prog_name="pgbastion")
    except (ConfigError, UnknownPlatformError) as exc:
        print(exc, file=sys.stderr)
        sys.exit(Exit.CONFIG)
    except CommandError as exc:
        print(f"pgbastion: {exc}", file=sys.stderr)
        sys.exit(exc.exit)
    except PgBastionError as exc:
        cause = str(exc.__cause__ or "")
        message = f"{exc}: {cause}" if cause and cause not in str(exc) else str(exc)
        print(f"pgbastion: {message}", file=sys.stderr)
        sys.exit(Exit.NO)
