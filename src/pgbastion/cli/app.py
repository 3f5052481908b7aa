"""The commands of ``pgbastion``."""

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pgbastion.cli.exits import Exit
from pgbastion.config.timings import Profile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a PostgreSQL cluster available: one daemon a node.",
)

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="PGBASTION_CONFIG",
        help="The configuration file.",
        show_default=True,
    ),
]
DEFAULT_CONFIG = Path("/etc/pgbastion/pgbastion.yaml")


class Fault(StrEnum):
    """What ``demo --once`` does to the primary."""

    POSTMASTER = "postmaster"
    FREEZE = "freeze"
    DAEMON = "daemon"
    CUT = "cut"
    NODE = "node"
    STANDBY = "standby"


@app.command()
def start(
    config: ConfigOption = DEFAULT_CONFIG,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Take over from the daemon that runs here; PostgreSQL goes on.",
        ),
    ] = False,
) -> None:
    """Run the daemon in the foreground; it logs to standard error."""
    from pgbastion import daemon

    if replace:
        from pgbastion.cli.replacing import end_running_daemon
        from pgbastion.config.load import load_config

        # A file that cannot be used must not cost the daemon that runs.
        end_running_daemon(load_config(config).raft.data_dir)
    code = daemon.run(config)
    # The interpreter would now tidy its memory up, for longer than all the daemon's
    # parts took to stop, while a successor waits for this process to end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say everything that is wrong with the configuration, and what to do about it."""
    from pgbastion.cli.checking import render_report, report_as_json
    from pgbastion.config.load import examine

    report = examine(config, os.environ)
    text = (
        json.dumps(report_as_json(report), indent=2)
        if as_json
        else render_report(report)
    )
    print(text)
    if report.errors:
        raise typer.Exit(Exit.CONFIG)


@app.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    url: Annotated[
        str | None,
        typer.Option(help="Base address of a node's API instead of this node's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who is what.

    Exit codes: 0 when there is a primary, 1 when there is none, 3 when the daemon does
    not answer, 78 when the configuration cannot be used.
    """
    from pgbastion.cli.status import ask, render_status, target_of

    target = target_of(config, url, os.environ)
    answer = ask(target)
    if as_json:
        print(json.dumps({"health": answer.health, "cluster": answer.cluster}))
    else:
        render_status(answer)
    if not answer.has_primary:
        raise typer.Exit(Exit.NO)


UrlOption = Annotated[
    str | None,
    typer.Option(help="Base address of a node's API instead of this node's."),
]


@app.command()
def pause(config: ConfigOption = DEFAULT_CONFIG, url: UrlOption = None) -> None:
    """Switch automatic actions off: whatever runs goes on, whatever fails stays so.

    A daemon that is stopped meanwhile leaves its PostgreSQL running.
    """
    from pgbastion.cli.ordering import order, writing_target

    order(writing_target(config, url, os.environ), "/cluster/pause", {})
    print("paused")


@app.command()
def resume(config: ConfigOption = DEFAULT_CONFIG, url: UrlOption = None) -> None:
    """Switch automatic actions on again."""
    from pgbastion.cli.ordering import order, writing_target

    order(writing_target(config, url, os.environ), "/cluster/resume", {})
    print("resumed")


@app.command()
def switchover(
    config: ConfigOption = DEFAULT_CONFIG,
    to: Annotated[
        str | None, typer.Option("--to", help="The new primary; default: the best.")
    ] = None,
    drain: Annotated[
        str | None,
        typer.Option(help="How long transactions that are open may go on."),
    ] = None,
    wait_s: Annotated[
        float, typer.Option("--wait", help="Seconds to wait for the outcome.")
    ] = 120.0,
    url: UrlOption = None,
) -> None:
    """Move the primary role to a standby, with nothing lost and nobody refused.

    Exit code 1 when it is refused, or when another node became the primary.
    """
    from pgbastion.cli.ordering import order, wait_settled, writing_target

    target = writing_target(config, url, os.environ)
    body = {k: v for k, v in (("to", to), ("drain", drain)) if v is not None}
    given = order(target, "/cluster/switchover", body)
    found = wait_settled(target, str(given.get("id")), wait_s)
    print(f"{found['outcome']}: {found['to']} {found['detail']}".rstrip())
    if found["outcome"] != "done":
        raise typer.Exit(Exit.NO)


@app.command()
def failover(
    to: Annotated[str, typer.Option("--to", help="The new primary.")],
    config: ConfigOption = DEFAULT_CONFIG,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also where commits could be lost. You vouch that a primary which is "
            "silent is off.",
        ),
    ] = False,
    wait_s: Annotated[
        float, typer.Option("--wait", help="Seconds to wait for the outcome.")
    ] = 120.0,
    url: UrlOption = None,
) -> None:
    """Make a node the primary, also where the old one is gone.

    A living primary hands its role over as in a switchover. Exit code 1 when it is
    refused, or when another node became the primary.
    """
    from pgbastion.cli.ordering import order, wait_settled, writing_target

    target = writing_target(config, url, os.environ)
    given = order(target, "/cluster/failover", {"to": to, "force": force})
    found = wait_settled(target, str(given.get("id")), wait_s)
    print(f"{found['outcome']}: {found['to']} {found['detail']}".rstrip())
    if found["outcome"] != "done":
        raise typer.Exit(Exit.NO)


@app.command()
def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the version, the commit, the consensus engine and the Python."""
    from pgbastion.version import versions

    found = versions()
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name} {value}")


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="One fault, one line of JSON, end.")
    ] = False,
    fault: Annotated[
        Fault, typer.Option(help="What happens to the primary with --once.")
    ] = Fault.POSTMASTER,
    profile: Annotated[Profile, typer.Option(help="Timings.")] = Profile.NORMAL,
) -> None:
    """Run three nodes with real PostgreSQL on loopback; Ctrl-C removes them."""
    from pgbastion import demo as demonstration

    raise typer.Exit(
        demonstration.run(once=once, fault=fault.value, profile=profile.value)
    )
