"""The proxy's listening sockets: opened, changed while running, handed to a successor.

A socket that is handed over goes on collecting clients in the kernel's queue while
nobody accepts, so a restart of the daemon makes them wait and refuses nobody.
"""

import contextlib
import errno
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from pgbastion.proxy import sockets
from pgbastion.proxy.poller import Poller
from pgbastion.proxy.routes import Binding, ListenAddress, Service

# Accepted at one wake-up, so that a storm of clients does not starve the others.
_ACCEPTS_AT_ONCE: Final = 16
# How long nothing is accepted once file descriptors or memory have run out.
_PAUSE_S: Final = 0.1
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

OnClient = Callable[[socket.socket, tuple[object, ...], Service], None]
OnEvent = Callable[[str, Mapping[str, object]], None]


class ListeningSockets:
    """Listens wherever the binding says, and accepts clients."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        poller: Poller,
        on_client: OnClient,
        on_event: OnEvent,
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._on_client = on_client
        self._on_event = on_event
        self._open: dict[ListenAddress, socket.socket] = {}
        self._services: dict[ListenAddress, Service] = {}
        self._paused = False

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening sockets, for a successor."""
        return tuple(self._open.values())

    @property
    def fault(self) -> str:
        """Say why no client gets in; empty: clients do."""
        if not self._open:
            return "the proxy listens nowhere"
        return "the proxy cannot accept clients" if self._paused else ""

    def open(
        self, binding: Binding, inherited: Sequence[socket.socket] = ()
    ) -> tuple[ListenAddress, ...]:
        """Listen as ``binding`` says, and close every other address.

        Args:
            binding: Where clients are expected.
            inherited: Listening sockets of a predecessor. Those that fit are taken,
                the others listen no more, whoever else has a copy of them.

        Returns:
            The addresses that were closed.

        Raises:
            ProxyError: An address cannot be had; nothing has changed.
        """
        wanted = binding.services()
        ready: dict[ListenAddress, socket.socket] = {}
        for listener in inherited:
            address = _address_of(listener)
            if address in wanted:
                ready[address] = listener
            else:
                _end(listener)
        new = [address for address in wanted if address not in self._open]
        gone = tuple(self._open.keys() - wanted.keys())
        # A port of all addresses is not to be had while it is open on one of them, nor
        # the other way round.
        ports = {port for _, port in new}
        ended = [address for address in gone if address[1] in ports]
        for address in ended:
            self._close(address, for_all=True)
        try:
            opened = _listen_at(new, ready)
        except BaseException:
            self._take(_listen_at(ended, {}))
            raise
        for address in gone:
            if address not in ended:
                self._close(address, for_all=True)
        self._services = dict(wanted)
        self._take(opened)
        return gone

    def close(self) -> None:
        """Listen nowhere any more."""
        for address in tuple(self._open):
            self._close(address, for_all=False)

    def _take(self, opened: Mapping[ListenAddress, socket.socket]) -> None:
        for address, listener in opened.items():
            self._open[address] = listener
            self._watch(address)

    def _close(self, address: ListenAddress, *, for_all: bool) -> None:
        listener = self._open.pop(address)
        self._poller.remove_reader(listener.fileno())
        if for_all:
            _end(listener)
        else:
            listener.close()

    def _watch(self, address: ListenAddress) -> None:
        listener = self._open.get(address)
        if listener is not None:
            self._poller.add_reader(
                listener.fileno(), partial(self._accept, address, listener)
            )

    def _accept(self, address: ListenAddress, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                client, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _OUT_OF_RESOURCES:
                    self._pause(address, exc)
                    return
                # The client was gone before it was accepted; accept(2), "Error
                # handling".
                continue
            self._paused = False
            self._on_client(client, peer, self._services[address])

    def _pause(self, address: ListenAddress, why: OSError) -> None:
        """Leave clients in the kernel's queue until something may be free again."""
        self._poller.remove_reader(self._open[address].fileno())
        self._loop.call_later(_PAUSE_S, self._watch, address)
        if not self._paused:
            self._paused = True
            self._on_event("proxy_accept_paused", {"reason": why.strerror})


def _listen_at(
    addresses: Sequence[ListenAddress], ready: dict[ListenAddress, socket.socket]
) -> dict[ListenAddress, socket.socket]:
    """Return a listening socket for each address: one of ``ready``, or a new one."""
    opened: dict[ListenAddress, socket.socket] = {}
    try:
        # In the binding's order: the first address that cannot be had is named.
        for address in addresses:
            taken = address in ready
            opened[address] = ready.pop(address) if taken else sockets.listen(*address)
    except BaseException:
        for listener in opened.values():
            listener.close()
        raise
    finally:
        for listener in ready.values():
            listener.close()
    return opened


def _end(listener: socket.socket) -> None:
    """Close a socket for good: systemd may keep a copy, at which nobody would answer.

    It drops the copy once the socket hangs up; sd_pid_notify_with_fds(3).
    """
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _address_of(listener: socket.socket) -> ListenAddress:
    host, port = listener.getsockname()[:2]
    with contextlib.suppress(OSError):
        listener.setblocking(False)
    return str(host), int(port)
