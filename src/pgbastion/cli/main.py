"""Entry point of the ``pgbastion`` command."""

import sys

from pgbastion.cli.app import app
from pgbastion.cli.exits import Exit
from pgbastion.cli.problems import CommandError
from pgbastion.errors import ConfigError, PgBastionError


def main() -> None:
    """Run the command line; a failure of the world ends with one message."""
    try:
        app()
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        sys.exit(Exit.CONFIG)
    except CommandError as exc:
        print(f"pgbastion: {exc}", file=sys.stderr)
        sys.exit(exc.exit)
    except PgBastionError as exc:
        cause = str(exc.__cause__ or "")
        told = f"{exc}: {cause}" if cause and cause not in str(exc) else str(exc)
        print(f"pgbastion: {told}", file=sys.stderr)
        sys.exit(Exit.NO)
