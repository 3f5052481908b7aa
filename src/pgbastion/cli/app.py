"""The command line: every command of ``pgbastion``, put together."""

import os
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
from pgbastion.cli.options import (
    CA_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    CertOption,
    KeyOption,
    TrustedOption,
    VersionOption,
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


@app.callback()
def prove(
    cert: CertOption = None,
    key: KeyOption = None,
    trusted: TrustedOption = None,
    version: VersionOption = False,
) -> None:
    """Take how a command proves itself to nodes, and verifies them."""
    del version  # told before anything else
    given = {CERT_VARIABLE: cert, KEY_VARIABLE: key, CA_VARIABLE: trusted}
    os.environ.update({name: str(path) for name, path in given.items() if path})


for part in PARTS:
    app.add_typer(part)
app.add_typer(certs.commands, name="certs")
