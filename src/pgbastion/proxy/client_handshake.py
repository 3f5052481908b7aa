"""The client's side of an opening: what it says first, and TLS where that ends here."""

import socket
from typing import Final

from pgbastion.proxy.proxy_protocol import missing_bytes, parse_header
from pgbastion.proxy.refusals import ClientGoneError, Refusal, RefusedError
from pgbastion.proxy.relay import RelayHost
from pgbastion.proxy.sessions import Encryption
from pgbastion.proxy.tls import ALPN, TlsSocket, shake_hands
from pgbastion.proxy.waiting import Waiting, Wake
from pgbastion.proxy.wire import (
    SSL_REQUEST,
    STARTUP_BYTES_MAX,
    TLS_HANDSHAKE,
    CancelRequest,
    DirectTls,
    EncryptionRequest,
    FirstPacket,
    Incomplete,
    Malformed,
    Startup,
    Unsupported,
    parse_first_packet,
)

_YES: Final = b"S"
_NO: Final = b"N"


class ClientHandshake:
    """Reads a client's first packets.

    Args:
        host: What all sessions share.
        client: The client's socket.
        waiting: Waits for the client, up to an instant of the loop.
    """

    def __init__(
        self,
        host: RelayHost,
        client: socket.socket,
        waiting: Waiting,
    ) -> None:
        self._host = host
        self._loop = host.loop
        self._limits = host.limits
        self._waiting = waiting
        self.client: socket.socket | None = client
        self.received = bytearray()
        self.encryption = Encryption.NONE
        # Whether only an alert of TLS can be understood.
        self.speaks_tls = False
        self.is_silent = True

    @property
    def ends_tls(self) -> bool:
        """Whether TLS would end here, and has not begun."""
        return self._host.tls is not None and self.encryption is Encryption.NONE

    def the_client(self) -> socket.socket:
        """Return the client's socket.

        Raises:
            ClientGoneError: It is closed.
        """
        if self.client is None:
            raise ClientGoneError
        return self.client

    async def proxied_address(self) -> str:
        """Read the header of the PROXY protocol; return the client's address."""
        end_s = self._loop.time() + self._limits.first_packet_s
        while True:
            header = parse_header(self.received)
            if isinstance(header, str):
                raise RefusedError(Refusal.MALFORMED, header)
            if header is not None:
                del self.received[: header.length]
                return header.address
            await self._receive(end_s, missing_bytes(self.received))

    async def next_packet(self) -> FirstPacket:
        """Read one packet; what follows it stays."""
        end_s = self._loop.time() + self._limits.first_packet_s
        while True:
            packet = parse_first_packet(self.received)
            match packet:
                case Incomplete():
                    await self._receive(end_s)
                case EncryptionRequest() | Startup() | CancelRequest():
                    del self.received[: len(packet.packet)]
                    break
                case DirectTls():
                    self.speaks_tls = True
                    break
                case Malformed(problem):
                    raise RefusedError(Refusal.MALFORMED, problem)
                case Unsupported(major, minor):
                    detail = f"The client asks for version {major}.{minor}."
                    raise RefusedError(Refusal.UNSUPPORTED, detail)
        self.is_silent = False
        return packet

    async def _receive(self, end_s: float, most: int = STARTUP_BYTES_MAX) -> None:
        client = self.the_client()
        wake = await self._waiting.readable(client, end_s)
        if wake is Wake.LATE:
            raise RefusedError(Refusal.LATE)
        self.read(most)

    def read(self, most: int = STARTUP_BYTES_MAX) -> None:
        """Take what the client has sent, ``most`` bytes of it.

        Raises:
            ClientGoneError: It has closed, or broken off.
        """
        client = self.the_client()
        try:
            if self.ends_tls and not self.received:
                first = client.recv(1, socket.MSG_PEEK)
                if first and first[0] == TLS_HANDSHAKE:
                    # The handshake reads it again.
                    self.received += first
                    return
            received = client.recv(most)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            raise ClientGoneError from exc
        if not received:
            raise ClientGoneError
        self.received += received

    async def begins_tls(self, packet: FirstPacket) -> bool:
        """Begin TLS with the client where it ends here; tell whether it was asked."""
        tls = self._host.tls
        if tls is None or isinstance(packet, CancelRequest):
            return False
        if isinstance(packet, Startup):
            if tls.required and self.ends_tls:
                raise RefusedError(Refusal.NOT_ENCRYPTED)
            return False
        if not self.ends_tls:
            raise RefusedError(Refusal.MALFORMED, "Encryption was asked for twice.")
        if isinstance(packet, EncryptionRequest) and packet.packet != SSL_REQUEST:
            self.decline()
        else:
            await self.encrypt(direct=isinstance(packet, DirectTls))
        return True

    async def encrypt(self, *, direct: bool) -> None:
        """Begin TLS, which the client has asked for, or begun directly."""
        if direct:
            self.received.clear()
        elif self.received:
            # Bytes in the clear behind the request must never count as encrypted.
            raise RefusedError(Refusal.MALFORMED, "TLS was not waited for.")
        else:
            self.say(_YES)
        tls = self._host.tls
        if tls is None:
            raise RefusedError(Refusal.MALFORMED)
        try:
            client = tls.accept(self.the_client())
        except OSError as exc:
            raise ClientGoneError from exc
        self.client = client
        self.speaks_tls = False
        end_s = self._loop.time() + self._limits.first_packet_s
        problem = await self.shake(client, end_s)
        if problem:
            self._host.on_event("proxy_handshake_failed", {"reason": problem})
            raise ClientGoneError
        self.encryption = Encryption.TERMINATED
        if direct and client.selected_alpn_protocol() != ALPN:
            # Another protocol's client could be made to speak to us.
            raise RefusedError(Refusal.MALFORMED, "TLS did not name the protocol.")

    async def shake(self, tls: TlsSocket, end_s: float) -> str:
        """Bring a handshake to its end; return what went wrong, or nothing."""

        async def readable() -> bool:
            return await self._waiting.readable(tls, end_s) is Wake.READY

        async def writable() -> bool:
            return await self._waiting.writable(tls, end_s) is Wake.READY

        return await shake_hands(tls, readable, writable)

    def decline(self) -> None:
        """Tell the client that it has to go on without encryption."""
        self.say(_NO)

    def say(self, word: bytes) -> None:
        """Send a byte or two.

        Raises:
            ClientGoneError: They cannot be sent.
        """
        try:
            self.the_client().send(word)
        except OSError as exc:
            raise ClientGoneError from exc
