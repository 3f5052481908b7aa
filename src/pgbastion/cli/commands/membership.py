"""Commands that change which nodes belong to the cluster."""

import json
from typing import Annotated

import typer

from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    WAIT_S,
    ConfigOption,
    DryRunOption,
    JsonOption,
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
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Let a node in when it comes; with cluster.auto_join it needs no such word."""
    from pgbastion.cli import members
    from pgbastion.cli.target import writer

    client = writer(config, url)
    told = members.add_node(client, name, address, dry_run=dry_run)
    print(json.dumps(told) if as_json else members.describe_addition(told))


@commands.command("remove-node")
def remove_node(
    name: NameOption,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
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
    from pgbastion.cli.confirming import confirm
    from pgbastion.cli.target import writer

    client = writer(config, url)
    if dry_run:
        told = members.foretell_removal(client, name)
    else:
        question = f"{name} leaves the cluster and its PostgreSQL stops: go on?"
        confirm(question, yes=yes, unattended=True)
        told = members.remove_node(client, name, wait_s)
    print(json.dumps(told) if as_json else members.describe_removal(told))


@commands.command("replace-node")
def replace_node(
    name: NameOption,
    address: AddressOption,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
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
    from pgbastion.cli.confirming import confirm
    from pgbastion.cli.target import writer

    client = writer(config, url)
    if dry_run:
        told = members.foretell_replacement(client, name, address)
    else:
        confirm(f"{name} leaves the cluster and its PostgreSQL stops: go on?", yes=yes)
        told = members.replace_node(client, name, address, wait_s)
    print(json.dumps(told) if as_json else members.describe_replacement(told))
