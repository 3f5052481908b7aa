"""The command line: every command of ``pgbastion``, put together."""

from typing import Final

import typer

from pgbastion.cli.commands import (
    addresses,
    certs,
    connections,
    debugging,
    drills,
    keeping,
    looking,
    machine,
    membership,
    orders,
    raft,
    service,
    settings,
)

PARTS: Final = (
    service.commands,
    looking.commands,
    addresses.commands,
    orders.commands,
    keeping.commands,
    drills.commands,
    membership.commands,
    raft.commands,
    settings.commands,
    connections.commands,
    debugging.commands,
    machine.commands,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a PostgreSQL cluster available: one daemon a node.",
)
for part in PARTS:
    app.add_typer(part)
app.add_typer(certs.commands, name="certs")
