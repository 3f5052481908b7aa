"""Who confirms commits: told, and changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgbastion.cli.target import reader, writer


def tell(config: Path, url: str | None) -> str:
    """Return who confirms commits, in a line."""
    return _line(reader(config, url).get("/cluster/state")["synchronous"])


def change(
    config: Path, url: str | None, body: dict[str, Any], *, dry_run: bool = False
) -> str:
    """Order a change and return what is wanted from now on, or would be.

    Raises:
        CommandError: It was refused, or nobody can tell.
    """
    count = body.get("sync_count")
    if isinstance(count, str) and count.isdecimal():
        body = {**body, "sync_count": int(count)}
    said = writer(config, url).order("/cluster/replication", body, dry_run=dry_run)
    would = "it would be " if dry_run else ""
    return (
        f"{would}{said['mode']}, {said['sync_count']} to confirm, "
        f"{'strict' if said['strict'] else 'may degrade'}"
    )


def _line(sync: Mapping[str, Any]) -> str:
    names = ", ".join(sync["names"]) or "nobody"
    return (
        f"{sync['mode']}, {'strict' if sync['strict'] else 'may degrade'}; "
        f"in force: {sync['num_sync']} of {names}"
    )
