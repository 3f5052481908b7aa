"""Takes over what a changed file says, part by part, in a node that runs."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pgbastion.config.load import load_config
from pgbastion.config.model import Config
from pgbastion.config.reload import Changes, what_changes
from pgbastion.config.secrets import load_passwords, load_secrets
from pgbastion.errors import PgBastionError, PostgresError
from pgbastion.model.ids import Epoch
from pgbastion.node.parts import own_member
from pgbastion.observe.logging import configure_logging, get_logger

if TYPE_CHECKING:
    from pgbastion.node.running import Node

AGAIN: Final = "reload again once it answers"

log = get_logger("node")


class Reloads:
    """Reads the configuration once at a time: one more for all who ask meanwhile.

    Args:
        reload: Does it; returns what came of it, in words.
    """

    def __init__(self, reload: Callable[[], Awaitable[str]]) -> None:
        self._reload = reload
        self._alone = asyncio.Lock()
        self._now: asyncio.Task[str] | None = None
        self._next: asyncio.Task[str] | None = None

    def soon(self) -> asyncio.Task[str]:
        """Have it read after this; return the reading, for who waits for it."""
        if self._next is None:
            self._next = asyncio.create_task(self._read())
            self._next.add_done_callback(_tell_failure)
        return self._next

    async def once(self) -> str:
        """Return what came of a reading that began after this.

        Raises:
            ConfigError: It cannot be used; nothing has changed.
        """
        # Who gives up waiting ends it for nobody else.
        return await asyncio.shield(self.soon())

    async def _read(self) -> str:
        async with self._alone:
            # Who asks from now on may have written the file in between.
            self._now, self._next = self._next, None
            return await self._reload()


def _tell_failure(reading: asyncio.Task[str]) -> None:
    # Whoever sent a signal waits for no answer.
    failure = None if reading.cancelled() else reading.exception()
    if isinstance(failure, PgBastionError):
        log.error("not_reloaded", error=str(failure))
    elif failure is not None:
        # The loop tells it whole.
        raise failure


async def reload_node(
    node: "Node", holds_lease: Callable[[Epoch], bool], *, dry_run: bool = False
) -> str:
    """Read the configuration again; return what came of it, in words.

    Args:
        node: The node that runs.
        holds_lease: Whether it may write now, for passwords.
        dry_run: Say what would come of it, and change nothing.

    Raises:
        ConfigError: It cannot be used; nothing has changed.
    """
    new = load_config(node.config.source)
    # What cannot be read is told before anything has changed.
    read = load_secrets(new, os.environ)
    changes = what_changes(node.config, new)
    if dry_run:
        return f"nothing was changed; {_in_words(changes, would='would be ')}"
    # How long everything may take is the cluster's word, not the file's.
    node.config = replace(new, timings=node.config.timings)
    node.secrets = replace(
        node.secrets, write_token=read.write_token, read_token=read.read_token
    )
    configure_logging(level=new.log.level, form=new.log.format)
    node.own = own_member(new)
    node.loop.set_own(node.own)
    node.loop.reporter.file_profile = new.failover.profile
    node.loop.set_bounds(
        lag_max_bytes=new.failover.max_lag_threshold,
        restart_ms=new.failover.primary_restart_timeout,
        slots_ttl_ms=new.postgresql.member_slots_ttl if new.postgresql else 0,
    )
    node.front.reconfigure(new, node.secrets)
    await asyncio.to_thread(node.traces.reconfigure, new.tracing)
    await asyncio.to_thread(node.certificates.look)
    if node.front.tls is not None:
        await asyncio.to_thread(node.front.tls.look)
    if node.instance is not None and new.postgresql is not None:
        node.instance.config.set_hba(new.postgresql.hba)
        if node.settings is not None:
            node.settings.note()
    result = _in_words(changes) + await reload_postgres(node, new, holds_lease)
    log.info("reloaded", result=result)
    if node.observer is not None:
        node.observer.look_soon()
    node.loop.wake()
    return result


async def reload_postgres(
    node: "Node", config: Config, holds_lease: Callable[[Epoch], bool]
) -> str:
    """Have PostgreSQL take its part of the file; return what came of it, in words.

    A server that is starting, or hangs, is no reason to refuse the rest.
    """
    try:
        waiting = await node.reload_server()
        changed = await _renew_passwords(node, config, holds_lease)
    except PostgresError as exc:
        log.warning("server_not_reloaded", error=str(exc), remedy=AGAIN)
        return f"; PostgreSQL did not take its part: {exc}: {AGAIN}"
    told = f"; passwords set on the server: {', '.join(changed)}" if changed else ""
    if waiting:
        told += f"; PostgreSQL needs a restart for: {', '.join(waiting)}"
    return told


def _in_words(changes: Changes, *, would: str = "") -> str:
    return (
        f"{would}applied: {', '.join(changes.applied) or 'nothing'}; needs a restart: "
        f"{', '.join(changes.needs_restart) or 'nothing'}; the cluster's own "
        f"values count for: {', '.join(changes.held_by_cluster) or 'nothing'}"
    )


async def _renew_passwords(
    node: "Node", config: Config, holds_lease: Callable[[Epoch], bool]
) -> tuple[str, ...]:
    """Take the passwords that are configured now; return whose the primary has set."""
    section = config.postgresql
    if section is None or node.instance is None:
        return ()
    passwords = load_passwords(section, node.secrets.cluster, os.environ)
    held = holds_lease(node.host.state.epoch)
    if passwords == node.secrets.passwords and not held:
        return ()
    # Also where the file is as it was: somebody may have changed one on the server.
    changed = await node.instance.renew_passwords(passwords, on_server=held)
    # Not before: what the server did not take is to be tried at the next reload.
    if changed or passwords != node.secrets.passwords:
        log.info("passwords_renewed", roles=",".join(changed), on_server=held)
    node.secrets = replace(node.secrets, passwords=passwords)
    return changed
