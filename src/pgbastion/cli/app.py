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
    fsm,
    membership,
    nodes,
    orders,
    raft,
    service,
    settings,
    status,
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
    status.commands,
    addresses.commands,
    orders.commands,
    nodes.commands,
    drills.commands,
    membership.commands,
    raft.commands,
    settings.commands,
    connections.commands,
    debugging.commands,
    fsm.commands,
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
