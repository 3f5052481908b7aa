"""The commands of ``pgbastion certs``."""

from pathlib import Path
from typing import Annotated

import typer

from pgbastion.cli.options import DryRunOption

commands = typer.Typer(
    no_args_is_help=True,
    help="Certificates for the port between the nodes, where they shall not sign "
    "their own.",
)

DirectoryOption = Annotated[
    Path, typer.Option("--dir", help="Where the authority and its certificates lie.")
]
NameOption = Annotated[str, typer.Option("--name", help="The node's name.")]
DaysOption = Annotated[
    int, typer.Option("--days", min=1, max=36_500, help="How long it is valid.")
]
DEFAULT_DIRECTORY = Path("/etc/pgbastion/tls")


@commands.command()
def init(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    cluster: Annotated[str, typer.Option(help="Name of the cluster.")] = "main",
    days: DaysOption = 3_650,
    dry_run: DryRunOption = False,
) -> None:
    """Make an authority; its key is for the machine that signs, not for the nodes."""
    from pgbastion.cli import certificates

    certificates.init(directory, cluster, days, dry_run=dry_run)


@commands.command()
def issue(
    name: NameOption,
    address: Annotated[
        list[str],
        typer.Option(
            "--address",
            help="Address or host name under which the others reach it, any number."
            " Its node.address has to be among them.",
        ),
    ],
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    days: DaysOption = 365,
    dry_run: DryRunOption = False,
) -> None:
    """Sign a certificate of a node, with a new key."""
    from pgbastion.cli import certificates

    certificates.issue(directory, name, address, days, dry_run=dry_run)


@commands.command()
def renew(
    name: NameOption,
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    days: DaysOption = 365,
    dry_run: DryRunOption = False,
) -> None:
    """Sign a certificate anew, with a new key, for the same addresses and names."""
    from pgbastion.cli import certificates

    certificates.renew(directory, name, days, dry_run=dry_run)
