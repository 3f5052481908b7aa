"""Commands about the virtual addresses."""

import json
from typing import Annotated

import typer

from pgbastion.cli.exits import Exit
from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    WAIT_S,
    ConfigOption,
    DryRunOption,
    JsonOption,
    UrlOption,
    WaitOption,
)

commands = typer.Typer()
vip = typer.Typer(no_args_is_help=True)
commands.add_typer(vip, name="vip", help="The virtual addresses.")


@vip.command("status")
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where the virtual addresses are, and what keeps a node from having them.

    Exit codes: 0 when a node has those of the primary, 1 when none has.
    """
    from pgbastion.cli.addresses import render_vip
    from pgbastion.cli.target import reader

    found = reader(config, url).get("/vip")
    print(json.dumps(found) if as_json else render_vip(found))
    if found["holder"] is None:
        raise typer.Exit(Exit.NO)


@vip.command("move")
def move(
    address: Annotated[
        str | None,
        typer.Argument(help="Which one; default: those of the primary."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The new holder; default: the best.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    wait_s: WaitOption = WAIT_S,
    url: UrlOption = None,
) -> None:
    """Move the virtual addresses to another node, with the primary role they follow.

    The same as a switchover: an address is never anywhere but at the primary. An
    address for replicas goes to another standby alone, and stays there while it can.

    Exit codes: 0 when they are there, 1 when it was refused or they went elsewhere.
    """
    from pgbastion.cli.addresses import is_of_primary, move_replica
    from pgbastion.cli.ordering import carry_out, tell_outcome
    from pgbastion.cli.target import writer

    client = writer(config, url)
    body = {} if to is None else {"to": to}
    path = "/cluster/switchover"
    if address is not None and not is_of_primary(client, address):
        body["address"] = address
        path = "/vip/move"
    if dry_run:
        answer = client.order(path, body, dry_run=True)
        name = answer.get("address", "the addresses")
        print(json.dumps(answer) if as_json else f"{name} would go to {answer['to']}")
        return
    if "address" in body:
        place = move_replica(client, body, wait_s=wait_s)
        print(json.dumps(place.facts) if as_json else place.text)
        raise typer.Exit(Exit.OK if place.is_wanted else Exit.NO)
    what = f"move of the addresses to {to or 'the best standby'}"
    found = carry_out(client, path, body, what=what, wait_s=wait_s)
    tell_outcome(found, f"{found['outcome']}: {found['to']}", as_json=as_json)
