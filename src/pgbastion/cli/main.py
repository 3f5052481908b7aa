"""Entry point of the ``pgbastion`` command."""


def main() -> None:
    """Run the command line; the exit code is the process's."""
    from pgbastion.cli.app import app

    app()
