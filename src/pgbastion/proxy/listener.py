"""The proxy: accepts clients on both ports and owns all that serves them."""

import asyncio
import contextlib
import socket
from asyncio import AbstractEventLoop, Task, TimerHandle
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pgbastion.proxy import sockets
from pgbastion.proxy.cancels import Canceller
from pgbastion.proxy.draining import Draining
from pgbastion.proxy.kernel.choice import DataPathChoice
from pgbastion.proxy.listening_sockets import ListeningSockets
from pgbastion.proxy.opening import Opening
from pgbastion.proxy.poller import make_poller
from pgbastion.proxy.refusals import Refusal, render_refusal
from pgbastion.proxy.relay import Relay, RelayHost
from pgbastion.proxy.routes import (
    Binding,
    DataPath,
    Limits,
    ListenAddress,
    ProxySnapshot,
    Routes,
    Service,
    Traffic,
    covers,
)
from pgbastion.proxy.sessions import SessionInfo
from pgbastion.proxy.stalled_readers import StalledReaders
from pgbastion.proxy.switchboard import UNKNOWN, OnEvent, Switchboard
from pgbastion.proxy.tls import Tls, TlsFiles
from pgbastion.proxy.wire import CancelKey

# Files of the rest of the process; each connection has a socket on either side.
_DESCRIPTORS_BESIDE: Final = 500
# After this long without a word a client gives way where connections have run out.
_SILENT_S: Final = 1.0
# How long clients that were told that the proxy stops may take to go.
_STOP_S: Final = 1.0

OnUnknownCancel = Callable[[bytes], Awaitable[bool]]


class Proxy:
    """Brings clients of its ports to servers.

    All methods belong to the thread of the running event loop.
    """

    def __init__(
        self,
        *,
        binding: Binding,
        limits: Limits,
        on_event: OnEvent,
        on_unknown_cancel: OnUnknownCancel | None = None,
        data_path: DataPath = DataPath.AUTO,
        tls: TlsFiles | None = None,
    ) -> None:
        self._binding = binding
        self._limits = limits
        # How many connections there may be: the limit, or what descriptors allow.
        self._connections_max = limits.connections_max
        self._on_event = on_event
        self._loop: AbstractEventLoop = asyncio.get_running_loop()
        self._poller = make_poller(self._loop)
        self._host = RelayHost(self._loop, self._poller, limits)
        self._host.on_event = on_event
        self._host.on_key = self._on_key
        self.set_tls(tls)
        self._host.on_end = self._on_relay_end
        self._board = Switchboard(self._loop, on_event, limits)
        self._host.on_expired = self._board.expire
        self._canceller = Canceller(self._board, on_unknown_cancel)
        self._listening = ListeningSockets(
            self._loop, self._poller, self._admit, on_event
        )
        # Addresses that are closed, and when what is left of their sessions ends.
        self._closed: dict[ListenAddress, TimerHandle] = {}
        self._openings: dict[Opening, Task[None]] = {}
        self._refusing = 0
        self._relays: dict[Relay, str] = {}
        self._by_address: Counter[str] = Counter()
        self._refused: Counter[Refusal] = Counter()
        self._accepted = 0
        self._drained = asyncio.Event()
        self._draining = Draining(self._loop, self._board, lambda: self._relays)
        self._stalled_readers = StalledReaders(
            self._connections, lambda: self._limits.user_timeout_ms
        )
        self._path = DataPathChoice(
            self._loop, self._poller, data_path, limits, on_event
        )
        self._tasks: list[Task[None]] = []

    async def start(self, inherited: Sequence[socket.socket] = ()) -> None:
        """Listen on all ports.

        Args:
            inherited: Listening sockets that a predecessor has left.

        Raises:
            ProxyError: An address cannot be had; no port is open then, and this
                object is of no more use.
        """
        try:
            self._listening.open(self._binding, inherited)
        except BaseException:
            self._poller.close()
            raise
        for work in (self._stalled_readers.watch(), self._settle_data_path()):
            self._tasks.append(self._loop.create_task(self._own(work)))
        self._allow_descriptors()
        self._tell_addresses()

    def rebind(self, binding: Binding) -> None:
        """Listen elsewhere; sessions of addresses that close have time to end.

        Raises:
            ProxyError: An address cannot be had; nothing has changed.
        """
        gone = self._listening.open(binding)
        if binding != self._binding:
            self._binding = binding
            self._tell_addresses()
        for address in self._closed.keys() & binding.services().keys():
            self._closed.pop(address).cancel()
        for address in gone:
            self._closed[address] = self._loop.call_later(
                self._limits.drain_s, self._end_sessions_of, address
            )

    def _tell_addresses(self) -> None:
        ports = {s.value: port for s, port in self._binding.ports.items()}
        bind = ",".join(self._binding.addresses)
        self._on_event("proxy_listening", {"bind": bind, **ports})

    def _end_sessions_of(self, address: ListenAddress) -> None:
        del self._closed[address]
        still_open = self._binding.services()
        left = [
            relay
            for relay in self._relays
            if _came_through(relay, address)
            and not any(_came_through(relay, other) for other in still_open)
        ]
        self._board.end(left, render_refusal(Refusal.DRAINING, UNKNOWN))

    @property
    def listening(self) -> Sequence[socket.socket]:
        """The listening sockets, for a successor."""
        return self._listening.sockets

    @property
    def fault(self) -> str:
        """Say why no client gets in; empty: clients do."""
        return self._listening.fault

    def drain(self, timeout_s: float, *, idle_first: bool = False) -> None:
        """Let nobody new in, and end the sessions after ``timeout_s``.

        Args:
            timeout_s: How long they may go on; a later call sets another time.
            idle_first: Whether those between two transactions are ended at once.
        """
        for opening in tuple(self._openings):
            opening.refuse(Refusal.DRAINING)
        self._draining.begin(timeout_s, idle_first=idle_first)
        self._on_event(
            "proxy_draining", {"sessions": len(self._relays), "timeout_s": timeout_s}
        )

    def undrain(self) -> None:
        """Let clients in again; sessions that are there go on."""
        if self._draining.is_on:
            self._draining.cancel()
            self._on_event("proxy_drained_no_more", {"sessions": len(self._relays)})

    async def until_empty(self) -> None:
        """Wait until the last session has ended."""
        while self._relays:
            self._drained.clear()
            await self._drained.wait()

    def sessions(self) -> Iterator[SessionInfo]:
        """Describe every client that is there now."""
        for opening in self._openings:
            described = opening.describe()
            if described is not None:
                yield described
        now_s = self._loop.time()
        kernel = self._path.kernel
        for relay in self._relays:
            moves = kernel is not None and kernel.has_adopted(relay)
            path = DataPath.KERNEL if moves else DataPath.USERSPACE
            yield relay.describe(path, now_s)

    def on_answer(self, service: Service, listener: Callable[[], None] | None) -> None:
        """Have ``listener`` called whenever a server has a new client of a port."""
        self._board.on_answer.pop(service, None)
        if listener is not None:
            self._board.on_answer[service] = listener

    def sessions_through(self, service: Service) -> int:
        """Return how many sessions there are through a port, without a look at each."""
        return sum(t.sessions for t in self._board.traffic() if t.service is service)

    def set_limits(self, limits: Limits) -> None:
        """Take other bounds for what is accepted from now on.

        What was given to each session's own parts when they were made stays: the bytes
        read at once, the time-outs of the wire.
        """
        self._limits = limits
        self._host.limits = limits
        self._board.limits = limits
        self._allow_descriptors()

    def set_tls(self, files: TlsFiles | None) -> None:
        """End TLS of new clients with these files, or pass it through.

        Raises:
            ProxyError: The files cannot be used; nothing has changed.
        """
        self._host.tls = None if files is None else Tls(files, self._on_event)

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
            draining=self._draining.is_on,
            drain_left_s=self._draining.left_s,
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
        await self._host.closing.all_told()

    async def stop(self, drain_s: float) -> None:
        """Accept nobody, give sessions ``drain_s`` to end, then end them."""
        self._listening.close()
        for opening in tuple(self._openings):
            opening.refuse(Refusal.STOPPING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self.until_empty()
        self._draining.cancel()
        self._board.end_all()
        self._board.close()
        await self._end_tasks()
        if self._openings:
            _, late = await asyncio.wait(self._openings.values(), timeout=_STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._host.closing.finish(_STOP_S)
        self._board.mirror_lease(None)
        self._path.close()
        self._poller.close()

    def _allow_descriptors(self) -> None:
        """See to it that the limit of connections can be reached, or lower it.

        Clients must never take what keeping the cluster needs.
        """
        most = self._limits.connections_max
        wanted = 2 * most + _DESCRIPTORS_BESIDE
        allowed = sockets.allow_descriptors(wanted)
        if allowed < wanted:
            # Of very few each side has half.
            beside = min(_DESCRIPTORS_BESIDE, allowed // 2)
            most = (allowed - beside) // 2
            self._on_event(
                "proxy_descriptors_short",
                {"wanted": wanted, "allowed": allowed, "connections_max": most},
            )
        self._connections_max = most

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

    def _connections(self) -> Iterator[socket.socket]:
        for relay in self._relays:
            yield relay.client
            yield relay.server

    def _admit(
        self, client: socket.socket, peer: tuple[object, ...], service: Service
    ) -> None:
        address = sockets.printable_address(peer)
        self._accepted += 1
        try:
            sockets.tune(client, self._limits)
        except OSError:
            client.close()  # it has been reset meanwhile
            return
        refusal = self._refusal_of(address)
        if refusal is not None and self._refusing >= self._limits.refusals_max:
            self._refused[refusal] += 1
            self._host.closing.close(client, render_refusal(refusal))
            return
        opening = Opening(
            self._board,
            self._host,
            client,
            address=address,
            service=service,
            cancel=self._canceller.cancel,
            on_proxied=self._on_proxied,
        )
        # At once: more may be accepted before the task begins.
        if refusal is None:
            self._by_address[address] += 1
        else:
            self._refusing += 1
        open_up = self._own(self._open(opening, refusal))
        self._openings[opening] = self._loop.create_task(open_up)

    def _refusal_of(self, address: str) -> Refusal | None:
        """Return why a new client exceeds a limit; None if it does not."""
        limits = self._limits
        if self._draining.is_on:
            return Refusal.DRAINING
        if not limits.is_proxied(address):
            refusal = self._refusal_of_address(address)
            if refusal is not None:
                return refusal
        occupied = len(self._openings) - self._refusing + len(self._relays)
        if occupied < self._connections_max or self._make_room():
            return None
        return Refusal.TOO_MANY

    def _refusal_of_address(self, address: str) -> Refusal | None:
        limits = self._limits
        if not limits.allows(address):
            return Refusal.NOT_ALLOWED
        per_address = limits.connections_per_address_max
        if per_address and self._by_address[address] >= per_address:
            return Refusal.TOO_MANY_FROM_ADDRESS
        return None

    def _on_proxied(self, opening: Opening, address: str) -> Refusal | None:
        """Take the address that a balancer has told; return why it is refused."""
        self._forget_address(opening.address)
        refusal = self._refusal_of_address(address)
        opening.address = address
        self._by_address[address] += 1
        return refusal

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

    async def _open(self, opening: Opening, refusal: Refusal | None) -> None:
        """Own one client until its relay runs, and count what becomes of it."""
        counted = refusal is None
        try:
            outcome = await opening.run(refusal)
            if isinstance(outcome, Relay):
                self._relays[outcome] = opening.address
                counted = False
            elif isinstance(outcome, Refusal):
                self._refused[outcome] += 1
        finally:
            del self._openings[opening]
            if refusal is not None:
                self._refusing -= 1
            elif counted:
                self._forget_address(opening.address)

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


def _came_through(relay: Relay, address: ListenAddress) -> bool:
    """Tell whether a session came through ``address``, or might have."""
    bound, port = address
    try:
        came_to = relay.client.getsockname()[1]
    except OSError:
        return False
    return port == came_to and covers(bound, sockets.own_address(relay.client))
