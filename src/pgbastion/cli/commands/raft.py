"""Commands about consensus: who votes, who leads, and what is on its disk."""

import json
from typing import Annotated

import typer

from pgbastion.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, UrlOption

group = typer.Typer(
    no_args_is_help=True, help="Consensus: who votes, who leads, what is on its disk."
)
commands = typer.Typer()
commands.add_typer(group, name="raft")


@group.command()
def state(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a node's consensus engine says of itself."""
    from pgbastion.cli.consensus import render_state
    from pgbastion.cli.target import reader

    found = reader(config, url).get("/raft/state")
    print(json.dumps(found) if as_json else render_state(found))


@group.command()
def peers(
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the members: who votes, who leads, and how far each log is."""
    from pgbastion.cli.consensus import render_peers
    from pgbastion.cli.target import reader

    found = reader(config, url).get("/raft/peers")
    print(json.dumps(found) if as_json else render_peers(found))


@group.command()
def snapshot(config: ConfigOption = DEFAULT_CONFIG, url: UrlOption = None) -> None:
    """Have a node put its state in the place of its log up to now."""
    from pgbastion.cli.target import writer

    done = writer(config, url).order("/raft/snapshot", {})
    print(f"{done['node']}: the log up to entry {done['index']} is its state now")


@group.command()
def transfer(
    to: Annotated[str, typer.Option("--to", help="The new Raft leader.")],
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
) -> None:
    """Hand Raft leadership to a voter; the primary role stays where it is."""
    from pgbastion.cli.target import writer

    done = writer(config, url).order("/raft/transfer", {"to": to})
    word = f"after {done['ms']} ms" if done.get("changed") else "already"
    note = f" ({done['note']})" if done.get("note") else ""
    print(f"{to} leads {word}{note}")
