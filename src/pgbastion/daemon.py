"""The daemon: prepares the machine, runs one node until it is told to stop.

Who outlives whom when it stops: the table in docs/explanation/processes.md.
"""

import asyncio
import atexit
import contextlib
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from pgbastion.config.load import examine
from pgbastion.config.model import Config
from pgbastion.config.problems import Severity
from pgbastion.config.rundir import make_run_directory
from pgbastion.config.secrets import Secrets, load_secrets
from pgbastion.directories import PASSABLE, make_directory
from pgbastion.early_signals import EarlySignals
from pgbastion.errors import ConfigError, InvariantError, PgBastionError
from pgbastion.node.build import build_node
from pgbastion.node.ending import end_sessions
from pgbastion.node.running import Node
from pgbastion.node.socket_passing import kept_by_systemd
from pgbastion.observe.logging import configure_logging, get_logger
from pgbastion.observe.service_manager import ServiceManager
from pgbastion.observe.standard_error import take_standard_error
from pgbastion.platform.choice import current
from pgbastion.postgres.files import make_dir
from pgbastion.postgres.layout import resolve_account

STOP_DEADLINE_S: Final = 5.0
STOP_REST_S: Final = 30.0
"""The other waits of a stop: the synchronous set left, a kill, the release."""
REMOVED_CODE: Final = 77
"""The exit code of a node that was removed; the service manager does not restart it."""

log = get_logger("daemon")


@dataclass(frozen=True, slots=True)
class Ending:
    """How the daemon is to end."""

    leaves_postgres: bool
    """SIGUSR2: another daemon takes over, PostgreSQL goes on."""
    removed: bool = False
    """This node is a member of the cluster no more: its PostgreSQL stops with it."""


def run(
    path: Path, early: EarlySignals, inherited: Sequence[socket.socket] = ()
) -> int:
    """Run the daemon with the configuration at ``path``; return the exit code.

    Args:
        path: The configuration file.
        early: The signals that came before the daemon could take them.
        inherited: Listening sockets of the daemon that this one replaces.

    Raises:
        ConfigError: The configuration or the machine does not allow a start.
        PgBastionError: A part could not be built.
    """
    # Whoever called read the modules without collections.
    gc.freeze()
    gc.enable()
    report = examine(path.absolute())
    config = report.usable()
    standard_error = take_standard_error()
    # For what is said of an exception.
    atexit.register(standard_error.drain)
    configure_logging(level=config.log.level, form=config.log.format)
    for problem in report.problems:
        # Errors were raised; with what is left the node starts.
        say = log.warning if problem.severity is Severity.WARNING else log.info
        say("configuration", key=problem.key, said=problem.problem, do=problem.remedy)
    if current().weaker:
        log.warning("platform", name=current().name, said="; ".join(current().weaker))
    if refused := current().go_first():
        log.info("platform", name=current().name, said=refused)
    os.umask(0o077)
    # The directory that it was started in may be on a file system that is to go.
    os.chdir("/")
    _forget_libpq_variables()
    secrets = load_secrets(config, os.environ)
    prepare_directories(config)
    log.info("starting", node=config.node.name, run_dir=str(config.run_dir))
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        listeners = [*inherited, *kept_by_systemd(os.environ)]
        code = runner.run(_main(config, secrets, early, listeners))
    standard_error.drain()
    return code


def _forget_libpq_variables() -> None:
    """Drop what libpq goes by where a connection says nothing else.

    PGHOSTADDR, for one, would lead ours, and those of the programs and servers that
    are started from here, to another server.
    """
    for name in tuple(os.environ):
        if name.startswith("PG") and not name.startswith("PGBASTION_"):
            del os.environ[name]


def _new_loop() -> asyncio.AbstractEventLoop:
    # uvloop forgets a reader whose socket has an error: see the proxy's pollers.
    return uvloop.new_event_loop() if current().has_epoll else asyncio.new_event_loop()


def prepare_directories(config: Config) -> None:
    """Make the run directory, the Raft directory and the one of the server's socket.

    Raises:
        ConfigError: One cannot be made.
    """
    section = config.postgresql
    account = None if section is None else resolve_account(section.os_user)
    is_root = os.geteuid() == 0
    make_run_directory(config.run_dir, account.gid if account and is_root else None)
    try:
        make_directory(config.raft.data_dir, 0o700)
    except OSError as exc:
        raise ConfigError(f"cannot make raft.data_dir {config.raft.data_dir}") from exc
    if section is None or account is None or section.socket_dir.exists():
        return
    try:
        make_dir(section.socket_dir, account, PASSABLE)
    except OSError as exc:
        raise ConfigError(
            f"cannot make postgresql.socket_dir {section.socket_dir}"
        ) from exc


async def _main(
    config: Config,
    secrets: Secrets,
    early: EarlySignals,
    inherited: Sequence[socket.socket],
) -> int:
    ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
    _take_signals(ending)

    def on_removed() -> None:
        if not ending.done():
            ending.set_result(Ending(leaves_postgres=False, removed=True))

    manager = ServiceManager()
    async with _running_node(config, secrets, manager, on_removed) as node:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, node.reloads.soon)
        early.send_again()
        node.front.sockets.inherited = inherited
        node.front.sockets.on_listening = manager.keep
        spare_the_collector()
        beat = asyncio.create_task(manager.keep_alive(node.loop.silent_ms))
        try:
            await _run_until(ending, node, manager)
        finally:
            beat.cancel()
    return _say_removed(config) if ending.result().removed else 0


def spare_the_collector() -> None:
    """Have collections of garbage look only at what is made from now on.

    Code, schemas and tables stay to the end, and are most of what there is. Looking at
    all of them would hold up the loop, and the checks, each time.
    """
    gc.collect()
    gc.freeze()


def _say_removed(config: Config) -> int:
    log.error(
        "removed",
        node=config.node.name,
        said="this node was removed from its cluster; its data is left as it is",
        do=f"to join again as a new member, move {config.raft.data_dir} away, and add "
        "the node by hand where cluster.auto_join is off",
    )
    return REMOVED_CODE


async def _run_until(
    ending: asyncio.Future[Ending], node: Node, manager: ServiceManager
) -> None:
    """Run the node until it is to end, then end it cleanly.

    Raises:
        PgBastionError: A part of it failed.
    """
    work = asyncio.create_task(node.run())
    waiting: set[asyncio.Future[None] | asyncio.Future[Ending]] = {work, ending}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    node.page.note_leaving()
    if work.done():
        # Nothing in there returns by itself.
        await node.dismiss_guard()
        raise _cause(work)
    # Under pause PostgreSQL goes on under its guard, which stays.
    removed = ending.result().removed
    leaves_postgres = ending.result().leaves_postgres or node.paused
    leaves_postgres = leaves_postgres and not removed
    log.info("stopping", leaves_postgres=leaves_postgres)
    manager.stopping(within_s=stop_bound_s(node.config))
    if not (leaves_postgres or removed):
        await end_sessions(node)
    await node.halt()
    if not leaves_postgres:
        await node.retiring.stop_postgres()
    await node.members.hand_leadership_on()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


def stop_bound_s(config: Config) -> float:
    """Return how long a stop may take at most.

    A hand-over that fails, sessions that do not end (half of it), then a server that
    stops slowly: each is bounded by ``failover.stop_timeout``. The rest is short.
    """
    return 2.5 * config.failover.stop_timeout / 1_000 + STOP_REST_S


def _cause(ended: asyncio.Task[None]) -> BaseException:
    """Return why the node ended: the one failure of the world, or all that is known.

    The tasks of a node end together, so the first failure comes in a group.
    """
    failure = ended.exception() or InvariantError("the node ended without a failure")
    found: BaseException = failure
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    if not isinstance(found, PgBastionError):
        return failure
    log.error("failed", error=str(found))
    return found


@contextlib.asynccontextmanager
async def _running_node(
    config: Config,
    secrets: Secrets,
    manager: ServiceManager,
    on_removed: Callable[[], None],
) -> AsyncIterator[Node]:
    node = await build_node(
        config, secrets, on_ready=manager.ready, on_removed=on_removed
    )
    try:
        yield node
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_DEADLINE_S):
                await node.close()


def _take_signals(ending: asyncio.Future[Ending]) -> None:
    def end(*, leaves_postgres: bool) -> None:
        if not ending.done():
            ending.set_result(Ending(leaves_postgres=leaves_postgres))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: end(leaves_postgres=False))
    loop.add_signal_handler(signal.SIGUSR2, lambda: end(leaves_postgres=True))
