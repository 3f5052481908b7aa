"""A client's way from its first byte to a server, or to a refusal that says why."""

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pgbastion.proxy.client_handshake import ClientHandshake
from pgbastion.proxy.proxy_protocol import render_header
from pgbastion.proxy.refusals import (
    ClientGoneError,
    Refusal,
    RefusedError,
    render_refusal,
)
from pgbastion.proxy.relay import Engagement, Mode, Relay, RelayHost
from pgbastion.proxy.routes import Backend, Service
from pgbastion.proxy.sessions import (
    Encryption,
    SessionInfo,
    about,
    describe_client,
    peer_name,
)
from pgbastion.proxy.sockets import (
    FamilyAddress,
    own_address,
    reset,
    resolve,
    tune,
)
from pgbastion.proxy.switchboard import Hold, Switchboard
from pgbastion.proxy.tls import TlsSocket
from pgbastion.proxy.waiting import Waiting, Wake
from pgbastion.proxy.wire import (
    SSL_REQUEST,
    STARTUP_BYTES_MAX,
    TLS_REFUSAL,
    CancelRequest,
    DirectTls,
    EncryptionRequest,
    Startup,
    leading_error_message,
    leading_error_sqlstate,
)

# A request for TLS, one for GSSAPI, and what follows them.
_PACKETS_MAX: Final = 3
# Enough of a server's first answer to see what kind of error it is.
_ANSWER_BYTES: Final = 4_096
_NO: Final = b"N"
_ACCEPTED: Final = (b"S", b"G")
_NO_MORE: Final = "it accepts connections, no more"

Cancel = Callable[[CancelRequest, Service], Awaitable[None]]
OnProxied = Callable[["Opening", str], Refusal | None]


class Opening:
    """One client until its relay runs.

    Everything that is awaited goes through one `Waiting`, so that a change of the
    routes, the hold queue and the end of the proxy can each break into it.
    """

    def __init__(
        self,
        board: Switchboard,
        host: RelayHost,
        client: socket.socket,
        *,
        address: str,
        service: Service,
        cancel: Cancel,
        on_proxied: OnProxied,
    ) -> None:
        self._board = board
        self._host = host
        self._loop = host.loop
        self._limits = host.limits
        self.address = address
        self.service = service
        self._cancel = cancel
        self._on_proxied = on_proxied
        self._waiting = Waiting(self._loop, host.poller)
        self._handshake = ClientHandshake(host, client, self._waiting)
        self._server: socket.socket | None = None
        self._engagement: Engagement | None = None
        # Servers that failed this client, and how the last of them did.
        self._avoid: set[Backend] = set()
        self._failure = RefusedError(Refusal.UNREACHABLE)
        # Requests for encryption that a server has declined to the client.
        self._declined: list[bytes] = []
        self._hold_end_s: float | None = None
        self._last_words = b""
        self._parameters: Mapping[str, str] = {}
        self.since_s = self._loop.time()

    @property
    def local_address(self) -> str:
        """The address of ours that the client came to; empty: it has gone."""
        return (
            own_address(self._handshake.client)
            if self._handshake.client is not None
            else ""
        )

    @property
    def is_silent(self) -> bool:
        """Whether the client still owes its first packet."""
        return self._handshake.is_silent

    def describe(self) -> SessionInfo | None:
        """Tell who this is, as far as it has said; None: it is gone."""
        if self._handshake.client is None:
            return None
        return describe_client(
            self.service,
            peer_name(self._handshake.client, self.address),
            about(self.since_s, self._parameters, self._handshake.encryption),
            waits=self._board.is_held(self),
            now_s=self._loop.time(),
        )

    async def run(self, refusal: Refusal | None = None) -> Relay | Refusal | None:
        """Bring the client to a server.

        Args:
            refusal: Why it is going to be refused whatever it asks for.

        Returns:
            The running relay, or why the client was refused; None when its request
            was a cancel, or when it has gone away.
        """
        refused = RefusedError(refusal) if refusal is not None else None
        try:
            return await self._serve(refused)
        except RefusedError as exc:
            self._tell(exc)
            return exc.refusal
        except ClientGoneError:
            return None
        finally:
            self._drop_server()
            if self._handshake.client is not None:
                self._handshake.client.close()
                self._handshake.client = None

    def cut(self) -> None:
        """Reset the server's side at once and look for another one."""
        self._waiting.wake(Wake.SUPERSEDED)
        if self._server is not None:
            reset(self._server)
        self._drop_server()

    def dismiss(self, last_words: bytes) -> None:
        """Note what to tell the client if it cannot go to another server any more."""
        self._last_words = last_words

    def release(self) -> None:
        """Let the client look for a server again."""
        self._waiting.wake(Wake.RELEASED)

    def refuse(self, refusal: Refusal, detail: str = "") -> None:
        """Break off: the client is told and closed."""
        self._waiting.dismiss(RefusedError(refusal, detail))
        self._handshake.is_silent = False
        self.cut()

    async def _serve(self, refused: RefusedError | None) -> Relay | None:
        refused = await self._know_client(refused)
        for _ in range(_PACKETS_MAX):
            packet = await self._handshake.next_packet()
            if await self._handshake.begins_tls(packet):
                continue
            match packet:
                case CancelRequest():
                    if refused is not None and refused.refusal is Refusal.NOT_ALLOWED:
                        raise refused
                    self._drop_server()
                    await self._cancel(packet, self.service)
                    return None
                case EncryptionRequest():
                    relay, refused = await self._encrypt(packet, refused)
                    if relay is not None:
                        return relay
                case _ if refused is not None:
                    raise refused
                case DirectTls():
                    await self._reach()
                    return self._begin_relay(Mode.ENCRYPTED)
                case Startup():
                    self._parameters = packet.parameters
                    await self._exchange(packet.packet)
                    return self._begin_relay(Mode.PLAIN)
        raise RefusedError(Refusal.MALFORMED, "Encryption was asked for repeatedly.")

    async def _know_client(self, refused: RefusedError | None) -> RefusedError | None:
        """Learn the client's own address from a balancer that tells it."""
        if not self._limits.is_proxied(self.address):
            return refused
        # It comes first, also where the client is going to be refused.
        address = await self._handshake.proxied_address()
        if refused is not None:
            return refused
        # Without one the balancer speaks for itself, as it does to look at servers.
        why = self._on_proxied(self, address or self.address)
        return None if why is None else RefusedError(why)

    async def _encrypt(
        self, request: EncryptionRequest, refused: RefusedError | None
    ) -> tuple[Relay | None, RefusedError | None]:
        """Ask a server for encryption, or decline it in order to refuse in the clear.

        A refusal stands, even if a server could be reached by the time of the next
        packet: the session would go on without the encryption that the server offers.
        """
        if refused is None:
            try:
                answer = await self._exchange(request.packet)
            except RefusedError as exc:
                refused = exc
            else:
                if answer[:1] != _NO:
                    # Anything but S or G is an ErrorResponse, in the clear.
                    encrypted = answer[:1] in _ACCEPTED
                    mode = Mode.ENCRYPTED if encrypted else Mode.PLAIN
                    return self._begin_relay(mode), None
                if self._server is not None:
                    self._server.recv(len(_NO))
                self._declined.append(request.packet)
        self._handshake.decline()
        return None, refused

    async def _exchange(self, packet: bytes) -> bytes:
        """Send ``packet`` to a server; return how its answer begins, still unread.

        Another server is tried where one fails; what the client is told in the end is
        how the last one failed.
        """
        while True:
            if self._server is None:
                await self._reach()
            answer = await self._ask(packet)
            if answer and not self._is_turned_down(answer):
                self._board.note_answer(self.service)
                return answer
            if self._engagement is None:
                continue  # the routes have changed
            failure, problem = Refusal.SILENT, _NO_MORE
            if answer:
                failure, problem = Refusal.UNREACHABLE, leading_error_message(answer)
            self._give_up(self._engagement.backend, failure, problem)

    async def _ask(self, packet: bytes) -> bytes:
        """Return the server's first bytes; none: it failed, or was superseded."""
        server, engagement = self._server, self._engagement
        if server is None or engagement is None:
            return b""
        if self._board.lease_of(engagement).is_over():
            self._board.expire()
            return b""
        try:
            # A new connection's buffer takes a whole start-up packet; where it does
            # not, the server is in no state to be used.
            if server.send(packet) < len(packet):
                return b""
            end_s = self._loop.time() + self._limits.answer_s
            while True:
                wake = await self._waiting.readable(server, end_s)
                if self._server is not server or wake is Wake.LATE:
                    return b""
                # With TLS, what has arrived need not be a whole record of the answer.
                with contextlib.suppress(BlockingIOError):
                    return server.recv(_ANSWER_BYTES, socket.MSG_PEEK)
        except OSError:
            return b""

    def _is_turned_down(self, answer: bytes) -> bool:
        """Tell whether another server should be asked instead of this one."""
        state = leading_error_sqlstate(answer)
        if self._engagement is None or state is None:
            return False
        avoid = {*self._avoid, self._engagement.backend}
        return self._board.looks_further(self.service, state, avoid)

    async def _reach(self) -> None:
        """Connect to a server that the routes allow."""
        while self._server is None:
            choice = self._board.choose(self.service, self._avoid)
            match choice:
                case Refusal.UNREACHABLE:
                    raise self._failure
                case Refusal():
                    raise self._refused(choice)
                case Hold():
                    await self._hold()
                case Backend():
                    await self._connect(choice)

    async def _connect(self, backend: Backend) -> None:
        """Connect to ``backend``, or note that it is to be avoided.

        Of several addresses each is tried for its share of the time that is left.
        """
        connect_s = self._limits.connect_s
        addresses = await resolve(self._loop, backend, connect_s)
        self._waiting.check()
        end_s = self._loop.time() + connect_s
        problem = "its name does not resolve"
        for number, address in enumerate(addresses):
            if not self._board.allows(self.service, backend):
                return
            share_s = (end_s - self._loop.time()) / (len(addresses) - number)
            problem = await self._dial(backend, address, share_s)
            if not problem:
                break
            self._drop_server()
        if not problem and self._server is not None:
            problem = await self._greet(self._server, backend)
        if not problem:
            problem = await self._repeat_declined()
        if problem:
            self._give_up(backend, Refusal.UNREACHABLE, problem)

    async def _dial(self, backend: Backend, at: FamilyAddress, timeout_s: float) -> str:
        """Open a connection; return what went wrong.

        That is nothing, too, where a change of the routes took the server away.
        """
        family, address = at
        try:
            server = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:
            if exc.errno == errno.EAFNOSUPPORT:
                return os.strerror(exc.errno)  # a machine without IPv6, for instance
            raise RefusedError(Refusal.TOO_MANY, f"{exc.strerror}.") from exc
        self._server = server
        tune(server, self._limits)
        self._engagement = self._board.engage(self.service, backend)
        self._board.enter(self, self._engagement)
        failure = server.connect_ex(address)
        if failure == errno.EINPROGRESS:
            end_s = self._loop.time() + timeout_s
            wake = await self._waiting.writable(server, end_s)
            if self._server is not server:
                return ""
            failure = errno.ETIMEDOUT
            if wake is Wake.READY:
                failure = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return os.strerror(failure) if failure else ""

    async def _greet(self, server: socket.socket, backend: Backend) -> str:
        """Say who the client is, and begin TLS, where that is configured."""
        end_s = self._loop.time() + self._limits.connect_s
        tls = self._host.tls
        try:
            if self._limits.tells_servers:
                client = self._handshake.the_client()
                source = self.address, int(client.getpeername()[1])
                server.send(render_header(source, server.getpeername()[:2]))
            if tls is None or not tls.secures_servers:
                return ""
            server.send(SSL_REQUEST)
            wake = await self._waiting.readable(server, end_s)
            if self._server is not server:
                return ""
            if wake is Wake.LATE or server.recv(1) != _ACCEPTED[0]:
                return "it does not offer TLS"
            secured = tls.connect(server, backend.host)
        except OSError as exc:
            return exc.strerror or "the connection broke"
        self._server = secured
        problem = await self._handshake.shake(secured, end_s)
        if self._server is not secured:
            return ""
        return f"TLS failed: {problem}" if problem else ""

    async def _repeat_declined(self) -> str:
        """Ask this server for what another one has declined; return what went wrong.

        Raises:
            RefusedError: It would encrypt, which the client was told not to do.
        """
        for packet in self._declined:
            answer = await self._ask(packet)
            if self._server is None:
                break
            if answer[:1] in _ACCEPTED:
                raise RefusedError(Refusal.SUPERSEDED)
            if answer[:1] != _NO:
                return leading_error_message(answer) if answer else _NO_MORE
            self._server.recv(len(_NO))
        return ""

    async def _hold(self) -> None:
        """Wait in the queue until a server may be there; refuse after ``hold_s``."""
        now_s = self._loop.time()
        if self._hold_end_s is None:
            if self._board.held >= self._limits.hold_max:
                raise self._refused(Refusal.HOLD_FULL)
            self._hold_end_s = now_s + self._limits.hold_s
            self._board.held_total += 1
        if now_s >= self._hold_end_s:
            if self._avoid:
                raise RefusedError(Refusal.HOLD_TIMED_OUT, self._failure.detail)
            raise self._refused(Refusal.HOLD_TIMED_OUT)
        end_s = self._hold_end_s
        if self._avoid:
            # One that is there and could not be reached is tried again before long.
            end_s = min(end_s, self._board.next_try_s())
        self._board.hold(self)
        try:
            while await self._wait_held(end_s) is Wake.READY:
                # The client has spoken, which it may, or has gone.
                self._handshake.read()
        finally:
            self._board.unhold(self)
            self._board.held_seconds_total += self._loop.time() - now_s
        if self._loop.time() < self._hold_end_s:
            self._avoid.clear()

    async def _wait_held(self, end_s: float) -> Wake:
        if len(self._handshake.received) < STARTUP_BYTES_MAX:
            return await self._waiting.readable(self._handshake.the_client(), end_s)
        return await self._waiting.woken(end_s)

    def _begin_relay(self, mode: Mode) -> Relay:
        client, server, engagement = (
            self._handshake.client,
            self._server,
            self._engagement,
        )
        if client is None or server is None or engagement is None:
            raise RefusedError(Refusal.SUPERSEDED)
        relay = Relay(
            self._host,
            client,
            server,
            engagement,
            client_address=self.address,
            lease=self._board.lease_of(engagement),
            mode=mode,
            about=about(
                self.since_s,
                self._parameters,
                Encryption.PASSTHROUGH
                if mode is Mode.ENCRYPTED
                else self._handshake.encryption,
            ),
        )
        self._board.leave(self)
        self._handshake.client = self._server = self._engagement = None
        self._board.enter(relay, engagement)
        # What was peeked at in TLS is out of the kernel already.
        peeked = server.recv() if isinstance(server, TlsSocket) else b""
        relay.start(bytes(self._handshake.received), peeked)
        return relay

    def _give_up(self, backend: Backend, failure: Refusal, problem: str) -> None:
        """Leave a server that cannot be used, and do not choose it again."""
        self._avoid.add(backend)
        self._board.count_failure(self.service, backend)
        self._failure = RefusedError(failure, f"{backend.node}: {problem}.")
        self._drop_server()

    def _drop_server(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = self._engagement = None
        self._board.leave(self)

    def _refused(self, refusal: Refusal) -> RefusedError:
        """Refuse for a reason that the routes explain."""
        if refusal is Refusal.VIEW_EXPIRED:
            return RefusedError(refusal)
        routes = self._board.routes
        primary = self.service is Service.PRIMARY
        reason = routes.primary_reason if primary else routes.replica_reason
        reason = reason or "it cannot be reached from here"
        return RefusedError(refusal, f"{reason[:1].upper()}{reason[1:]}.")

    def _tell(self, refused: RefusedError) -> None:
        """Send the refusal in the language that the client speaks, then close."""
        if self._handshake.client is None:
            return
        words = render_refusal(refused.refusal, refused.detail)
        if self._handshake.speaks_tls:
            words = TLS_REFUSAL
        elif refused.refusal is Refusal.SUPERSEDED and self._last_words:
            words = self._last_words
        client, self._handshake.client = self._handshake.client, None
        self._host.closing.close(client, words)
