"""Three loopback addresses on which every port of a node is free.

A demonstration holds its addresses by an abstract socket for as long as it lives, so
that two that start at one time do not choose the same.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.errors import DemoError

NETWORKS: Final = range(77, 100)
NODES: Final = (1, 2, 3)
PORTS: Final = (5432, 5433, 5442, 8080, 8300, 9090)
_LISTENING: Final = "0A"


@dataclass(frozen=True, slots=True)
class Taken:
    """A port that somebody else listens on."""

    address: str
    port: int


class Addresses:
    """The addresses 127.0.N.1 to .3, held until `release`."""

    def __init__(self, network: int, claim: socket.socket) -> None:
        self.network = network
        self._claim = claim

    @property
    def prefix(self) -> str:
        """The first three parts: ``127.0.77``."""
        return prefix_of(self.network)

    def release(self) -> None:
        """Let another demonstration have them."""
        self._claim.close()


def prefix_of(network: int) -> str:
    """Return the first three parts of a network's addresses."""
    return f"127.0.{network}"


def reserve_addresses(networks: range = NETWORKS) -> Addresses:
    """Return the first network of which nobody uses a port.

    Raises:
        DemoError: There is none; the message names who holds a port of the first.
    """
    first: Taken | None = None
    for network in networks:
        claim = _claim(network)
        if claim is None:
            continue
        taken = _first_taken(prefix_of(network))
        if taken is None:
            return Addresses(network, claim)
        claim.close()
        first = first or taken
    if first is None:
        raise DemoError(
            f"all addresses from {prefix_of(networks[0])}.1 to "
            f"{prefix_of(networks[-1])}.3 are used by other demonstrations: end one"
        )
    raise DemoError(
        f"port {first.port} is taken on every address that the demonstration may use; "
        f"on {first.address} it is held by {holder_of(first)}: stop that, then start "
        "the demonstration again"
    )


def holder_of(taken: Taken) -> str:
    """Name the process that listens on a port, as far as this user may know."""
    inodes = set(_listeners(taken))
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if _holds(directory, inodes):
                name = (directory / "comm").read_text().strip()
                return f"{name} (pid {directory.name})"
    return "a process of another user"


def _claim(network: int) -> socket.socket | None:
    """Take a network for this process; None: another demonstration has it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # The abstract name space belongs to the network namespace, as loopback does,
        # and the name is free again however the process ends.
        claim.bind(f"\0pgbastion-demo-{network}")
    except OSError:
        claim.close()
        return None
    return claim


def _first_taken(prefix: str) -> Taken | None:
    for node in NODES:
        address = f"{prefix}.{node}"
        for port in PORTS:
            try:
                socket.create_server((address, port)).close()
            except OSError:
                return Taken(address, port)
    return None


def _listeners(taken: Taken) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on the port there."""
    # The kernel writes an address as one native word and the port in hexadecimal.
    own = f"{int.from_bytes(socket.inet_aton(taken.address), 'little'):08X}"
    wanted = {f"{address}:{taken.port:04X}" for address in (own, "0" * 8)}
    wanted.add(f"{'0' * 32}:{taken.port:04X}")
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1] in wanted and fields[3] == _LISTENING:
                    yield fields[9]


def _holds(process: Path, inodes: set[str]) -> bool:
    targets = {f"socket:[{inode}]" for inode in inodes}
    for name in os.listdir(process / "fd"):  # noqa: PTH208 - names alone are wanted
        with suppress(OSError):
            if str((process / "fd" / name).readlink()) in targets:
                return True
    return False
