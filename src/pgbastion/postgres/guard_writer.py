"""Becoming the one daemon of a node: the writer of the page that the guard names.

A daemon that says that it ends, or has ended, is waited for. Beside one that stays, a
second one was started by mistake: whoever did is told at once.
"""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Final

from pgbastion.errors import GuardError
from pgbastion.guard import page as words
from pgbastion.guard.page import Page, PageError
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.guard_client import GuardClient

ENDING_S: Final = 10.0
# A signal that was sent a moment ago may not have arrived.
TOLD_S: Final = 0.5

log = get_logger("guard")


async def become_writer(
    client: GuardClient,
    page: Path,
    *,
    ending_s: float = ENDING_S,
    told_s: float = TOLD_S,
) -> int:
    """Wait until this process is the page's writer; return its generation.

    Args:
        client: The guard that names the writer.
        page: The shared page.
        ending_s: How long a daemon that ends is waited for.
        told_s: How long one that has not said so is waited for.

    Raises:
        GuardError: Another daemon of this node lives.
    """
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while True:
        generation = await client.ask_for_writer_lock()
        if generation is not None:
            return generation
        assert client.latest is not None
        writer = client.latest.writer
        ends = _is_leaving(page, client.latest.generation)
        until_s = begun_s + (ending_s if ends else told_s)
        if loop.time() >= until_s:
            raise GuardError(_refusal(writer, ends=ends, waited_s=ending_s))
        if ends:
            log.info("former_daemon_ends", pid=writer)
        await client.writer_lock_is_free(until_s)


def _is_leaving(path: Path, generation: int) -> bool:
    """Tell whether the daemon of this generation has said that it ends."""
    try:
        with closing(Page(str(path))) as page:
            return page[words.LEAVING] == generation
    except (OSError, PageError):
        return False


def _refusal(writer: int, *, ends: bool, waited_s: float) -> str:
    if ends:
        return (
            f"the former daemon of this node, process {writer}, was told to end and "
            f"still runs after {waited_s:.0f} s: start again when it has ended"
        )
    return (
        f"another daemon of this node runs: process {writer}; end it, or take over "
        "from it with: pgbastion start --replace"
    )
