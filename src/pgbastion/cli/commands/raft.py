"""Commands about consensus: who votes, who leads, and what is on its disk."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    DryRunOption,
    JsonOption,
    UrlOption,
    YesOption,
)

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
    from pgbastion.cli.consensus import render_facts
    from pgbastion.cli.target import reader

    found = reader(config, url).get("/raft/state")
    print(json.dumps(found) if as_json else render_facts(found))


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
def snapshot(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Have a node put its state in the place of its log up to now."""
    from pgbastion.cli.target import writer

    done = writer(config, url).order("/raft/snapshot", {}, dry_run=dry_run)
    if as_json:
        print(json.dumps(done))
        return
    become = "would become its state" if dry_run else "is its state now"
    print(f"{done['node']}: the log up to entry {done['index']} {become}")


@group.command()
def transfer(
    to: Annotated[str, typer.Option("--to", help="The new Raft leader.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Hand Raft leadership to a voter; the primary role stays where it is."""
    from pgbastion.cli.target import writer

    done = writer(config, url).order("/raft/transfer", {"to": to}, dry_run=dry_run)
    note = f" ({done['note']})" if done.get("note") else ""
    if as_json:
        print(json.dumps(done))
    elif not done.get("changed"):
        print(f"{to} leads already{note}")
    elif dry_run:
        print(f"{to} would lead{note}")
    else:
        print(f"{to} leads after {done['ms']} ms{note}")


@group.command()
def verify(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Check this node's Raft directory: checksums, continuity, snapshot, state.

    It changes nothing, and the daemon may run. Exit code 1 when something is damaged;
    the message says where.
    """
    from pgbastion.cli import recovering
    from pgbastion.cli.consensus import render_facts

    found = recovering.verify(recovering.load(config))
    print(json.dumps(found) if as_json else render_facts(found))


@group.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write the replicated state of this node into a file; the daemon may run.

    It says who belongs to the cluster and whose data counts. It has no data of
    PostgreSQL.
    """
    from pgbastion.cli import recovering

    print(recovering.save(recovering.load(config), file))


@group.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup of state.")],
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Begin the cluster again on this node, from a backup of state.

    For the day on which every Raft directory is lost; this one has to be empty, and
    its daemon must not run. The other nodes then join anew.
    """
    from pgbastion.cli import recovering

    loaded, ask = recovering.load(config), recovering.Asking(yes=yes, dry_run=dry_run)
    print(recovering.restore(loaded, file, ask))


@group.command()
def recover(
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Begin the cluster again on this node, when the majority is lost for ever.

    Its daemon must not run. It says what may be lost and asks. The other members are
    put out for ever as they are; they join anew with an empty Raft directory.
    """
    from pgbastion.cli import recovering

    loaded, ask = recovering.load(config), recovering.Asking(yes=yes, dry_run=dry_run)
    print(recovering.recover(loaded, ask))
