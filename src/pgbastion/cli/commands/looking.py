"""Commands that show what the cluster is and does."""

import json

import typer

from pgbastion.cli.exits import Exit
from pgbastion.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, UrlOption

commands = typer.Typer()


@commands.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who is what.

    Exit codes: 0 when there is a primary, 1 when there is none, 3 when no node
    answers, 78 when the configuration cannot be used.
    """
    from pgbastion.cli.status import ask, render_status
    from pgbastion.cli.target import reader

    answer = ask(reader(config, url))
    if as_json:
        print(json.dumps({"health": answer.health, "cluster": answer.cluster}))
    else:
        print(render_status(answer))
    if not answer.has_primary:
        raise typer.Exit(Exit.NO)


@commands.command("list")
def list_members(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the members: role, state, address, timeline and lag of each."""
    from pgbastion.cli.status import render_members
    from pgbastion.cli.target import reader

    cluster = reader(config, url).get("/cluster")
    print(json.dumps(cluster["members"]) if as_json else render_members(cluster))
