"""The proxy: accepts clients on both ports and owns all that serves them."""

import asyncio
import contextlib
import errno
import socket
from asyncio import AbstractEventLoop, Task
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from pgbastion.proxy import sockets
from pgbastion.proxy.cancels import Canceller
from pgbastion.proxy.kernel.choice import DataPathChoice
from pgbastion.proxy.opening import Opening
from pgbastion.proxy.patience import Patience
from pgbastion.proxy.poller import Poller
from pgbastion.proxy.refusals import Refusal, render_refusal
from pgbastion.proxy.relay import Relay, RelayHost
from pgbastion.proxy.routes import (
    DataPath,
    Limits,
    ProxySnapshot,
    Routes,
    Service,
    Traffic,
)
from pgbastion.proxy.switchboard import OnEvent, Switchboard
from pgbastion.proxy.wire import CancelKey

# Files of the rest of the process; each connection has a socket on either side.
_DESCRIPTORS_BESIDE: Final = 500
# Accepted at one wake-up, so that a storm of clients does not starve the others.
_ACCEPTS_AT_ONCE: Final = 64
# How long nothing is accepted once file descriptors or memory have run out.
_PAUSE_S: Final = 0.1
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# After this long without a word a client gives way where connections have run out.
_SILENT_S: Final = 1.0
# How long clients that were told that the proxy stops may take to go.
_STOP_S: Final = 1.0

OnUnknownCancel = Callable[[bytes], Awaitable[bool]]


class Proxy:
    """Brings clients of the primary port and of the replica port to servers.

    All methods belong to the thread of the running event loop.
    """

    def __init__(
        self,
        *,
        bind: str,
        primary_port: int,
        replica_port: int,
        limits: Limits,
        on_event: OnEvent,
        on_unknown_cancel: OnUnknownCancel | None = None,
        data_path: DataPath = DataPath.AUTO,
    ) -> None:
        self._bind = bind
        self._ports = {Service.PRIMARY: primary_port, Service.REPLICA: replica_port}
        self._limits = limits
        self._on_event = on_event
        self._loop: AbstractEventLoop = asyncio.get_running_loop()
        self._poller = Poller(self._loop)
        self._host = RelayHost(self._loop, self._poller, limits)
        self._host.on_key = self._on_key
        self._host.on_end = self._on_relay_end
        self._board = Switchboard(self._loop, on_event, settle_s=limits.settle_s)
        self._host.on_expired = self._board.expire
        self._canceller = Canceller(self._board, limits, on_unknown_cancel)
        self._listeners: dict[socket.socket, Service] = {}
        self._openings: dict[Opening, Task[None]] = {}
        self._refusing = 0
        self._relays: dict[Relay, str] = {}
        self._by_address: Counter[str] = Counter()
        self._refused: Counter[Refusal] = Counter()
        self._accepted = 0
        self._paused = False
        self._drained = asyncio.Event()
        self._patience = Patience(self._connections, limits.user_timeout_ms)
        self._path = DataPathChoice(
            self._loop, self._poller, data_path, limits, on_event
        )
        self._tasks: list[Task[None]] = []

    async def start(self) -> None:
        """Listen on both ports.

        Raises:
            ProxyError: An address cannot be had; neither port is open then, and this
                object is of no more use.
        """
        try:
            for service, port in self._ports.items():
                self._listeners[sockets.listen(self._bind, port)] = service
        except BaseException:
            self._close_listeners()
            self._poller.close()
            raise
        for listener in self._listeners:
            self._poller.add_reader(listener.fileno(), partial(self._accept, listener))
        for work in (self._patience.watch(), self._settle_data_path()):
            self._tasks.append(self._loop.create_task(self._own(work)))
        self._allow_descriptors()
        ports = {service.value: port for service, port in self._ports.items()}
        self._on_event("proxy_listening", {"bind": self._bind, **ports})

    def set_limits(self, limits: Limits) -> None:
        """Take other bounds for what is accepted from now on.

        What was given to each session's own parts when they were made stays: the bytes
        read at once, the time-outs of the wire.
        """
        self._limits = limits
        self._host.limits = limits
        self._board.settle_s = limits.settle_s
        self._allow_descriptors()

    def set_routes(self, routes: Routes) -> None:
        """Take new routes at once.

        Sessions of another epoch or with another primary are closed before this
        returns, and only then waiting clients go on.
        """
        self._board.set_routes(routes)

    def extend(self, expires_ns: int) -> None:
        """Raise the expiry of the routes (CLOCK_BOOTTIME) and change nothing else."""
        self._board.extend(expires_ns)

    async def deliver_cancel(self, payload: bytes) -> bool:
        """Deliver another node's cancel request; tell whether its session is here."""
        return await self._canceller.deliver(payload)

    def snapshot(self) -> ProxySnapshot:
        """Return what the proxy does now."""
        routes, kernel = self._board.routes, self._path.kernel
        return ProxySnapshot(
            revision=routes.revision,
            epoch=routes.epoch,
            data_path=self._path.current,
            data_path_reason=self._path.reason,
            in_kernel=kernel.adopted if kernel is not None else 0,
            kernel_refused_total=kernel.refused_total if kernel is not None else 0,
            primary_usable=self._board.primary_usable(),
            connections=len(self._openings) + len(self._relays),
            opening=len(self._openings),
            held=self._board.held,
            held_total=self._board.held_total,
            held_oldest_s=self._board.held_oldest_s,
            held_seconds_total=self._board.held_seconds_total,
            accepted_total=self._accepted,
            superseded_total=self._board.superseded_total,
            cancels_total=self._canceller.total,
            cancels_dropped_total=self._canceller.dropped_total,
            refused_total=dict(self._refused),
            traffic=self._traffic(),
        )

    async def leave(self, addresses: frozenset[str]) -> None:
        """End every session with a client of these addresses of ours: they go away.

        A client whose server's address vanished would wait for an answer until its own
        time-out; so it is told while that can still be done.
        """
        for opening in tuple(self._openings):
            if opening.local_address in addresses:
                opening.refuse(Refusal.SUPERSEDED, "The address moves to another node.")
        relays = [r for r in self._relays if sockets.own_address(r.client) in addresses]
        for relay in relays:
            relay.cut()
        words = render_refusal(Refusal.SUPERSEDED, "The address moves to another node.")
        for relay in relays:
            relay.dismiss(words)
        # The openings' tasks say their last words when it is their turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def stop(self, drain_s: float) -> None:
        """Accept nobody, give sessions ``drain_s`` to end, then end them."""
        self._close_listeners()
        for opening in tuple(self._openings):
            opening.refuse(Refusal.STOPPING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._until_no_relays()
        self._board.end_all()
        self._board.close()
        await self._end_tasks()
        if self._openings:
            _, late = await asyncio.wait(self._openings.values(), timeout=_STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._host.farewells.finish(_STOP_S)
        self._board.mirror_lease(None)
        self._path.close()
        self._poller.close()

    def _allow_descriptors(self) -> None:
        """See to it that the limit of connections can be reached."""
        wanted = 2 * self._limits.connections_max + _DESCRIPTORS_BESIDE
        allowed = sockets.allow_descriptors(wanted)
        if allowed < wanted:
            self._on_event(
                "proxy_descriptors_short", {"wanted": wanted, "allowed": allowed}
            )

    async def _own(self, work: Coroutine[None, None, None]) -> None:
        """Await ``work``; what goes wrong in it is reported and ends nothing else."""
        try:
            await work
        except Exception as exc:  # noqa: BLE001 - the top of a task
            self._on_event("proxy_task_failed", {"error": repr(exc)})

    async def _settle_data_path(self) -> None:
        """Let busy sessions move into the kernel once it has proven itself."""
        await self._path.settle()
        if self._path.kernel is not None:
            self._board.mirror_lease(self._path.kernel.primary_lease_word)
            self._host.on_warm = self._path.kernel.on_warm

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _until_no_relays(self) -> None:
        while self._relays:
            self._drained.clear()
            await self._drained.wait()

    def _connections(self) -> Iterator[socket.socket]:
        for relay in self._relays:
            yield relay.client
            yield relay.server

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            self._poller.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                client, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _OUT_OF_RESOURCES:
                    self._pause(listener, exc)
                    return
                # The client was gone before it was accepted; accept(2), "Error
                # handling".
                continue
            self._paused = False
            self._admit(client, sockets.printable_address(peer), listener)

    def _pause(self, listener: socket.socket, why: OSError) -> None:
        """Leave clients in the kernel's queue until something may be free again."""
        self._poller.remove_reader(listener.fileno())
        self._loop.call_later(_PAUSE_S, self._resume, listener)
        if not self._paused:
            self._paused = True
            self._on_event("proxy_accept_paused", {"reason": why.strerror})

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._poller.add_reader(listener.fileno(), partial(self._accept, listener))

    def _admit(
        self, client: socket.socket, address: str, listener: socket.socket
    ) -> None:
        self._accepted += 1
        try:
            sockets.tune(client, self._limits)
        except OSError:
            client.close()  # it has been reset meanwhile
            return
        refusal = self._refusal_of(address)
        if refusal is not None and self._refusing >= self._limits.refusals_max:
            self._refused[refusal] += 1
            self._host.farewells.say(client, render_refusal(refusal))
            return
        opening = Opening(
            self._board,
            self._host,
            client,
            address=address,
            service=self._listeners[listener],
            cancel=self._canceller.cancel,
        )
        open_up = self._own(self._open(opening, address, refusal))
        self._openings[opening] = self._loop.create_task(open_up)

    def _refusal_of(self, address: str) -> Refusal | None:
        """Return why a new client exceeds a limit; None if it does not."""
        limits = self._limits
        per_address = limits.connections_per_address_max
        if per_address and self._by_address[address] >= per_address:
            return Refusal.TOO_MANY_FROM_ADDRESS
        occupied = len(self._openings) - self._refusing + len(self._relays)
        if occupied < limits.connections_max or self._make_room():
            return None
        return Refusal.TOO_MANY

    def _make_room(self) -> bool:
        """Refuse the client that has been silent for longest, if it is for long."""
        silent_since_s = self._loop.time() - _SILENT_S
        for opening in self._openings:
            if opening.since_s > silent_since_s:
                return False
            if opening.is_silent:
                opening.refuse(Refusal.LATE)
                return True
        return False

    async def _open(
        self, opening: Opening, address: str, refusal: Refusal | None
    ) -> None:
        """Own one client until its relay runs, and count what becomes of it."""
        counted = refusal is None
        if counted:
            self._by_address[address] += 1
        else:
            self._refusing += 1
        try:
            outcome = await opening.run(refusal)
            if isinstance(outcome, Relay):
                self._relays[outcome] = address
                counted = False
            elif isinstance(outcome, Refusal):
                self._refused[outcome] += 1
        finally:
            del self._openings[opening]
            if refusal is not None:
                self._refusing -= 1
            elif counted:
                self._forget_address(address)

    def _on_key(self, relay: Relay, key: CancelKey) -> None:
        self._board.remember_key(key, relay.engagement.backend)

    def _on_relay_end(self, relay: Relay) -> None:
        engagement = relay.engagement
        self._board.leave(relay)
        self._board.count(
            engagement,
            bytes_to_server=relay.bytes_to_server,
            bytes_to_client=relay.bytes_to_client,
        )
        if relay.key is not None:
            self._board.forget_key(relay.key, engagement.backend)
        if self._path.kernel is not None:
            self._path.kernel.release(relay)
        self._relays.pop(relay, None)
        self._forget_address(relay.client_address)
        self._drained.set()

    def _forget_address(self, address: str) -> None:
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]

    def _traffic(self) -> tuple[Traffic, ...]:
        """Return the counters with what running sessions have moved so far."""
        running: Counter[tuple[Service, str, str]] = Counter()
        for relay in self._relays:
            where = relay.engagement.service, relay.engagement.backend.node
            running[(*where, "up")] += relay.bytes_to_server
            running[(*where, "down")] += relay.bytes_to_client
        return tuple(
            replace(
                traffic,
                bytes_to_server=traffic.bytes_to_server
                + running[(traffic.service, traffic.node, "up")],
                bytes_to_client=traffic.bytes_to_client
                + running[(traffic.service, traffic.node, "down")],
            )
            for traffic in self._board.traffic()
        )
