"""Sockets of the proxy: listening, tuning, and the ways in which one is closed."""

import asyncio
import contextlib
import ipaddress
import resource
import socket
import struct
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pgbastion.errors import ProxyError
from pgbastion.platform.choice import current
from pgbastion.proxy.routes import Backend, Limits

# What the kernel keeps of connections that were not accepted yet; it lowers this to
# net.core.somaxconn.
_BACKLOG: Final = 4096
# What one side of a session may have sent that the other one has not taken; the kernel
# doubles it for its own needs. Left alone it allows up to tcp_rmem's maximum, 6 MiB or
# what an administrator made of it, and a reader that stalls would cost all of that.
RECEIVE_BYTES: Final = 3 << 19
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

# A family of addresses, and one of them with a port, as its sockets take it.
FamilyAddress = tuple[int, tuple[object, ...]]


def allow_descriptors(wanted: int) -> int:
    """Allow this process ``wanted`` file descriptors if it may have them.

    Returns:
        How many it may have now; never fewer than before.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return soft if soft != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def listen(bind: str, port: int) -> socket.socket:
    """Return a listening socket; ``bind`` is an IPv4 or IPv6 address.

    The address ``::`` takes IPv4 clients as well.

    Raises:
        ProxyError: It is not an address, or the kernel refused; the message names the
            address and, where this can be seen, the process that holds it.
    """
    try:
        address = ipaddress.ip_address(bind)
    except ValueError as exc:
        raise ProxyError(f"cannot listen on {bind!r}: it is no IP address") from exc
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    where = f"[{bind}]:{port}" if address.version == 6 else f"{bind}:{port}"
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as exc:
        # A machine without IPv6, for instance.
        raise ProxyError(f"the proxy cannot listen on {where}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only = 0 if address.is_unspecified else 1
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        # An address of one link comes with the number of the link.
        at = socket.getaddrinfo(bind, port, flags=socket.AI_NUMERICHOST)[0][4]
        listener.bind(at)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        holder = holder_of(port)
        held = f"; port {port} is held by {holder}" if holder else ""
        raise ProxyError(f"the proxy cannot listen on {where}{held}") from exc
    return listener


def holder_of(port: int) -> str:
    """Return "name (pid N)" of a process that listens on ``port``, empty if unseen.

    Another user's processes are visible to root only.
    """
    inodes = set(_listening_inodes(port))
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                if str(link.readlink()) in wanted:
                    name = (process / "comm").read_text().strip()
                    return f"{name} (pid {process.name})"
    return ""


def _listening_inodes(port: int) -> Iterator[str]:
    """Yield the inodes of sockets in state LISTEN; proc(5), /proc/net/tcp."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                listens_there = columns[1].endswith(f":{port:04X}")
                if listens_there and columns[3] == "0A":
                    yield columns[9]


async def resolve(
    loop: AbstractEventLoop, backend: Backend, timeout_s: float
) -> tuple[FamilyAddress, ...]:
    """Return the addresses of ``backend``; none: its name does not resolve.

    An address needs no waiting; a name is asked of the system's resolver, which puts
    first what is most likely to work (RFC 6724).
    """
    where = (backend.host, backend.port)
    kind, numeric = socket.SOCK_STREAM, socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(*where, type=kind, flags=numeric)
    except socket.gaierror:
        try:
            async with asyncio.timeout(timeout_s):
                found = await loop.getaddrinfo(*where, type=kind)
        except (OSError, TimeoutError):
            return ()
    return tuple((family, address) for family, _, _, _, address in found)


def tune(connection: socket.socket, limits: Limits) -> None:
    """Prepare one side of a session: non-blocking, no delay, dead peers noticed."""
    connection.setblocking(False)
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # An urgent byte stays in its place and is counted, as it is in the kernel path.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    connection.setsockopt(tcp, socket.TCP_KEEPINTVL, limits.keepalive_interval_s)
    connection.setsockopt(tcp, socket.TCP_KEEPCNT, limits.keepalive_probes)
    current().limit_silence(
        connection, idle_s=limits.keepalive_idle_s, unheard_ms=limits.user_timeout_ms
    )
    # Without CAP_NET_ADMIN only less than net.core.rmem_max could be had, which may
    # be too little for a long distance: then the kernel's own bound stands, as it
    # does where there is no such option.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)


def reset(connection: socket.socket) -> None:
    """Close with a reset: the peer learns of it at once, nothing more is sent."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    connection.close()


def own_address(connection: socket.socket) -> str:
    """Return the local address of a connection; empty: it is closed.

    A listener on ``::`` shows IPv4 addresses in IPv6 form; what is returned is not.
    """
    try:
        name = str(connection.getsockname()[0])
    except OSError:
        return ""
    return name.removeprefix("::ffff:")


def printable_address(address: tuple[object, ...]) -> str:
    """Return the address part of a peer's name; IPv4 in IPv6 is shown as IPv4."""
    host = str(address[0])
    return host.removeprefix("::ffff:") if "." in host else host
