"""Commands of one node: the daemon, its configuration, the first look."""

import gc
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pgbastion.cli.exits import Exit
from pgbastion.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    DryRunOption,
    JsonOption,
    UrlOption,
    YesOption,
)
from pgbastion.model.profile import Profile

commands = typer.Typer()


RaftDirOption = Annotated[
    str | None, typer.Option(help="Directory of the consensus log.")
]
SecretFileOption = Annotated[
    str | None, typer.Option(help="File of the cluster's secret.")
]
UnitDirOption = Annotated[
    Path | None,
    typer.Option(help="Where to write a systemd unit; default: none is written."),
]


class Shell(StrEnum):
    """Whose completion is printed."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


class Fault(StrEnum):
    """What ``demo --once`` does to the primary."""

    POSTMASTER = "postmaster"
    FREEZE = "freeze"
    DAEMON = "daemon"
    CUT = "cut"
    NODE = "node"
    STANDBY = "standby"


@commands.command()
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
    # The modules make a hundred thousand objects, and all of them stay: to look through
    # them again and again is a tenth of the start.
    gc.disable()
    from pgbastion.early_signals import EarlySignals

    early = EarlySignals()
    early.begin()
    from pgbastion import daemon

    inherited = []
    if replace:
        from pgbastion.cli.replacing import end_running_daemon
        from pgbastion.config.load import load_config
        from pgbastion.node.socket_passing import ask_predecessor

        # A file that cannot be used must not cost the daemon that runs.
        loaded = load_config(config)
        # Clients that come meanwhile wait in the kernel's queue.
        inherited = ask_predecessor(loaded.run_dir)
        end_running_daemon(loaded.raft.data_dir)
    code = daemon.run(config, early, inherited)
    # The interpreter would now tidy its memory up, for longer than all the daemon's
    # parts took to stop, while a successor waits for this process to end.
    os._exit(code)


@commands.command()
def check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
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


@commands.command("init")
def initialise(
    config: ConfigOption = DEFAULT_CONFIG,
    name: Annotated[str | None, typer.Option(help="Name of this node.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Its IP address, for the other nodes.")
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(help="Addresses of all nodes, with commas between them."),
    ] = None,
    founds: Annotated[
        bool | None,
        typer.Option(
            "--bootstrap/--join", help="It is the first node, or joins one that runs."
        ),
    ] = None,
    witness: Annotated[
        bool, typer.Option("--witness", help="It has no PostgreSQL.")
    ] = False,
    data_dir: Annotated[
        str | None, typer.Option(help="Data directory of PostgreSQL.")
    ] = None,
    raft_dir: RaftDirOption = None,
    secret_file: SecretFileOption = None,
    unit_dir: UnitDirOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Make this node's configuration, and on the first node the cluster's secret.

    Asks for what no option says; with --yes it takes what it would have proposed. The
    file is written only once it was found to be usable, and never over another one.
    """
    from pgbastion.cli import initialising as making

    given = {
        "name": name,
        "address": address,
        "peers": peers,
        "founds": founds,
        "witness": witness,
        "data_dir": data_dir,
        "raft_dir": raft_dir,
        "secret_file": secret_file,
    }
    ask = making.accept if yes else making.ask_terminal
    text = making.render_configuration(making.gather(given, ask))
    made = making.judge(config, text)
    if dry_run:
        print(text, end="")
        return
    making.write_configuration(config, text)
    making.make_secret(made)
    print(f"wrote {config}")
    if unit_dir is not None:
        print(f"wrote {making.write_unit(unit_dir, making.own_program())}")
    print(making.next_steps(made, unit_dir))


@commands.command()
def password(
    role: Annotated[
        str | None, typer.Argument(help="The role; default: the superuser.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Print the password that a role of PostgreSQL has by this node's files.

    For instance: PGPASSWORD=$(pgbastion password) psql -h n1 -p 5432 -U postgres
    """
    from pgbastion.cli.passwords import password_of
    from pgbastion.config.reading import understand

    print(password_of(understand(config), role, os.environ))


@commands.command()
def reload(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Have this node's daemon read its configuration again, and say what came of it.

    The file is judged first: one that cannot be used is told with all its errors, and
    nothing is changed.
    """
    from pgbastion.cli.target import writer_here
    from pgbastion.config.load import load_config

    if url is None:
        load_config(config)
    answer = writer_here(config, url).order("/reload", {}, dry_run=dry_run)
    print(json.dumps(answer) if as_json else answer.get("applied", "reloaded"))


@commands.command()
def completion(shell: Annotated[Shell, typer.Argument(help="Whose.")]) -> None:
    """Print what makes a shell complete commands and options.

    For instance: pgbastion completion bash > /etc/bash_completion.d/pgbastion
    """
    from typer.completion import (  # type: ignore[attr-defined]
        get_completion_script,
    )

    print(
        get_completion_script(
            prog_name="pgbastion", complete_var="_PGBASTION_COMPLETE", shell=shell.value
        )
    )


@commands.command()
def version(as_json: JsonOption = False) -> None:
    """Print the version, the commit, the consensus engine and the Python."""
    from pgbastion.version import versions

    found = versions()
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name} {value}")


@commands.command()
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


@commands.command()
def lab(
    profile: Annotated[Profile, typer.Option(help="Timings.")] = Profile.NORMAL,
) -> None:
    """Run three nodes with real PostgreSQL, and cut, kill and heal them by commands.

    Commands come from standard input: help lists them. With root each node has a
    network of its own that can be cut.
    """
    from pgbastion.demo.lab import run

    raise typer.Exit(run(profile=profile.value))
