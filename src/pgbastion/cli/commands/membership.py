"""Commands that change which nodes belong to the cluster."""

from typing import Annotated

import typer

from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    WAIT_S,
    ConfigOption,
    DryRunOption,
    UrlOption,
    WaitOption,
    YesOption,
)

commands = typer.Typer()

NameOption = Annotated[str, typer.Option("--name", help="The node's name.")]
AddressOption = Annotated[
    str,
    typer.Option("--address", help="HOST or HOST:PORT of its Raft port."),
]


@commands.command("add-node")
def add_node(
    name: NameOption,
    address: AddressOption,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Let a node in when it comes; with cluster.auto_join it needs no such word."""
    from pgbastion.cli import members
    from pgbastion.cli.target import writer

    client = writer(config, url)
    print(members.add_node(client, name, address, dry_run=dry_run))


@commands.command("remove-node")
def remove_node(
    name: NameOption,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Take a node out: its vote, its slot and its access go, its PostgreSQL stops.

    A primary hands its role on first. Its data stays on its disk. A script is not
    asked whether it means it: the node has to be named. Exit code 1 when it is refused,
    4 when it is not finished in time.
    """
    from pgbastion.cli import members
    from pgbastion.cli.asking import confirm
    from pgbastion.cli.target import writer

    client = writer(config, url)
    if dry_run:
        print(members.foretell_removal(client, name))
        return
    question = f"{name} leaves the cluster and its PostgreSQL stops: go on?"
    confirm(question, yes=yes, unattended=True)
    print(members.remove_node(client, name, wait_s))


@commands.command("replace-node")
def replace_node(
    name: NameOption,
    address: AddressOption,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Take a node out and expect another machine of its name at a new address.

    One that comes back at its old address with an empty Raft directory needs no such
    command: it joins as a new member, and the old one is removed.
    """
    from pgbastion.cli import members
    from pgbastion.cli.asking import confirm
    from pgbastion.cli.target import writer

    client = writer(config, url)
    if dry_run:
        print(members.foretell_removal(client, name))
        print(f"another {name} at {address} would be expected")
        return
    confirm(f"{name} leaves the cluster and its PostgreSQL stops: go on?", yes=yes)
    print(members.replace_node(client, name, address, wait_s))
