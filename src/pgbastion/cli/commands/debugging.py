"""Commands for those who look into a decision: record, replay, step, bundle."""

from pathlib import Path
from typing import Annotated

import typer

from pgbastion.cli.exits import Exit
from pgbastion.cli.options import DEFAULT_CONFIG, ConfigOption, UrlOption

debug = typer.Typer(
    no_args_is_help=True, help="Look into decisions, and collect what helpers need."
)
commands = typer.Typer()
commands.add_typer(debug, name="debug")

RecordsArgument = Annotated[Path, typer.Argument(help="What `debug record` wrote.")]


@debug.command()
def record(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    seconds: Annotated[
        float, typer.Option(help="Record for so long, besides what is kept.")
    ] = 0.0,
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
) -> None:
    """Write a node's newest decisions with the views that they were made on."""
    from pgbastion.cli.debugging import fetch_lines
    from pgbastion.cli.problems import CommandError
    from pgbastion.cli.target import reader

    lines = fetch_lines(reader(config, url), seconds)
    try:
        out.write_text("\n".join([*lines, ""]), encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"cannot write {out}: {exc.strerror}") from exc
    print(f"{len(lines)} decisions in {out}")


@debug.command()
def replay(file: RecordsArgument) -> None:
    """Decide on recorded views with this program's rules, and tell what differs.

    Exit code 1 when something does.
    """
    from pgbastion.cli.debugging import read_records, title
    from pgbastion.cli.debugging import replay as differ

    total = different = 0
    for kept in read_records(file):
        total += 1
        found = differ(kept)
        if found:
            different += 1
            print(title(kept))
            print("\n".join(f"  {line}" for line in found))
    print(f"{total} decisions, {different} differ")
    if different:
        raise typer.Exit(Exit.NO)


@debug.command()
def step(
    file: Annotated[
        Path | None,
        typer.Argument(help="What `debug record` wrote; default: what a node has now."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
) -> None:
    """Show one pass at a time: what is due, what is found, what is decided on it.

    Changes nothing. On a terminal each record of a file waits for the return key.
    """
    import sys

    from pgbastion.cli.debugging import describe, fetch_lines, newest, read_records
    from pgbastion.cli.target import reader

    if file is None:
        for kept in newest(fetch_lines(reader(config, url), 0.0)):
            print(describe(kept))
        return
    for kept in read_records(file):
        print(describe(kept))
        if sys.stdin.isatty() and not sys.stdin.readline():
            return


@debug.command()
def bundle(
    out: Annotated[Path, typer.Option("--out", help="The archive to write (tar.gz).")],
    config: ConfigOption = DEFAULT_CONFIG,
    url: UrlOption = None,
) -> None:
    """Collect what a person who helps needs, without secrets.

    State, decisions, metrics, the configuration and what check says of it. What could
    not be had is told; it is left out.
    """
    from pgbastion.cli.bundling import write_bundle
    from pgbastion.cli.target import reader

    missing = write_bundle(out, reader(config, url), config)
    for line in missing:
        print(f"without {line}")
    print(f"wrote {out}")
