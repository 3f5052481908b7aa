"""Look every 10 ms where virtual addresses are, and whether a client reaches them.

For every node the kernel's own table is read, over a netlink socket in the node's
namespace; the node's processes have no part in it, frozen or not. On the client's host
a new connection to each address is begun at every turn; the answer's hardware address
is what the client's neighbour cache then has. A claim is a server that says, on a
connection of its own, that it is not in recovery.

Run as a program it records until its standard input ends.
"""

import argparse
import contextlib
import ctypes
import errno
import json
import os
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from pyroute2 import IPRoute

from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.overlaps import Sample
from pgbastion.bench.lab.sampler import Kind, Probe
from pgbastion.bench.lab.writers import PASSWORD_VARIABLE
from pgbastion.clock import NS_PER_MS, boottime_ns
from pgbastion.guard.addresses import packed
from pgbastion.platform.netlink import dump

EVERY_NS: Final = 10 * NS_PER_MS
# A connection that a vanished host owes an answer is given up; new ones are begun.
CONNECT_NS: Final = 100 * NS_PER_MS
_CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressSample:
    """One turn: on which nodes an address was, between two instants."""

    address: str
    from_ns: int
    to_ns: int
    at: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A client's connection to an address was taken by a node's proxy."""

    address: str
    began_ns: int
    at_ns: int
    hardware: str


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        libc.setns(own, _CLONE_NEWNET)
        os.close(there)
        os.close(own)


class Client:
    """Connects to an address, over and over."""

    def __init__(self, namespace: str, address: str, port: int) -> None:
        self._namespace = namespace
        self._address = address
        self._port = port
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._open: dict[int, tuple[socket.socket, int]] = {}
        with _inside(namespace):
            self._route = IPRoute()

    def turn(self) -> None:
        """Begin one more connection, and give up those that nobody answers."""
        now_ns = boottime_ns()
        for fd, (begun, at_ns) in tuple(self._open.items()):
            if now_ns - at_ns > CONNECT_NS:
                begun.close()
                del self._open[fd]
        with _inside(self._namespace):
            begun = socket.socket(self._family, socket.SOCK_STREAM)
        begun.setblocking(False)
        code = begun.connect_ex((self._address, self._port))
        if code not in (0, errno.EINPROGRESS):
            begun.close()
            return
        self._open[begun.fileno()] = (begun, now_ns)

    def fds(self) -> Sequence[int]:
        """Return what is waited for."""
        return list(self._open)

    def ready(self, fd: int) -> Reached | None:
        """Take what became of a connection."""
        begun, at_ns = self._open.pop(fd)
        failed = begun.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        begun.close()
        if failed:
            return None
        return Reached(
            address=self._address,
            began_ns=at_ns,
            at_ns=boottime_ns(),
            hardware=self._cached(),
        )

    def _cached(self) -> str:
        """Return whose hardware address the client's neighbour cache has."""
        for known in self._route.neigh("dump", family=self._family):
            if known.get("dst") == self._address:
                return known.get("lladdr") or ""
        return ""


class Tables:
    """The nodes' address tables."""

    def __init__(self, namespaces: dict[str, str], addresses: Sequence[str]) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._wanted = {address: packed(address) for address in addresses}
        for node, namespace in namespaces.items():
            with _inside(namespace):
                kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
                asked = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
                asked.bind((0, 0))
                asked.settimeout(1.0)
            self._sockets[node] = asked

    def close(self) -> None:
        """Ask no more."""
        for asked in self._sockets.values():
            asked.close()

    def look(self) -> tuple[AddressSample, ...]:
        """Return where each address is now."""
        from_ns = boottime_ns()
        found = {
            node: {address for address, _ in dump(asked)}
            for node, asked in self._sockets.items()
        }
        to_ns = boottime_ns()
        return tuple(
            AddressSample(
                address=address,
                from_ns=from_ns,
                to_ns=to_ns,
                at=tuple(node for node, there in found.items() if wanted in there),
            )
            for address, wanted in self._wanted.items()
        )


class Recorder:
    """Takes every turn and writes down what was seen."""

    def __init__(
        self,
        tables: Tables,
        clients: Sequence[Client],
        claims: Sequence[Probe],
        out: TextIO,
    ) -> None:
        self._tables = tables
        self._clients = clients
        self._claims = claims
        self._out = out

    def run(self, stop: int) -> None:
        """Sample until ``stop`` can be read."""
        next_ns = boottime_ns()
        while True:
            if boottime_ns() >= next_ns:
                now_ns = boottime_ns()
                next_ns = now_ns - now_ns % EVERY_NS + EVERY_NS
                self._turn(now_ns)
            if not self._wait(stop, next_ns - boottime_ns()):
                return

    def _turn(self, now_ns: int) -> None:
        for seen in self._tables.look():
            at = ",".join(seen.at) or "-"
            self._out.write(f"at {seen.address} {seen.from_ns} {seen.to_ns} {at}\n")
        for client in self._clients:
            client.turn()
        for probe in self._claims:
            probe.expire(now_ns)
            probe.turn(boottime_ns())

    def _wait(self, stop: int, wait_ns: int) -> bool:
        """Take what comes until the next turn; False: it is over."""
        watched = {
            link.fileno(): (probe, link)
            for probe in self._claims
            if (link := probe.watched()) is not None
        }
        poll = select.poll()
        poll.register(stop, select.POLLIN)
        for fd, (_, link) in watched.items():
            poll.register(fd, link.events())
        connecting = {fd: client for client in self._clients for fd in client.fds()}
        for fd in connecting:
            poll.register(fd, select.POLLOUT)
        for fd, _ in poll.poll(min(max(wait_ns / NS_PER_MS, 0), 10)):
            if fd == stop:
                return False
            if fd in watched:
                self._note_claim(watched[fd][0].ready())
            else:
                self._note_reached(connecting[fd].ready(fd))
        return True

    def _note_claim(self, sample: Sample | None) -> None:
        if sample is not None:
            self._out.write(
                f"claim {sample.node} {sample.sent_ns} {sample.received_ns}\n"
            )

    def _note_reached(self, reached: Reached | None) -> None:
        if reached is not None:
            hardware = reached.hardware or "-"
            at = f"{reached.address} {reached.began_ns} {reached.at_ns}"
            self._out.write(f"reached {at} {hardware}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a sampler wrote down."""

    samples: tuple[AddressSample, ...]
    claims: tuple[tuple[int, str], ...]
    """When the answer came, and from whom."""
    reached: tuple[Reached, ...]


def read_addresses(path: Path) -> Record:
    """Return the record of a sampler that has ended."""
    samples, claims, reached = [], [], []
    for line in path.read_text(encoding="ascii").splitlines():
        kind, *fields = line.split()
        if kind == "at":
            address, begun, ended, at = fields
            nodes = () if at == "-" else tuple(at.split(","))
            samples.append(
                AddressSample(
                    address=address, from_ns=int(begun), to_ns=int(ended), at=nodes
                )
            )
        elif kind == "claim":
            claims.append((int(fields[2]), fields[0]))
        else:
            reached.append(
                Reached(
                    address=fields[0],
                    began_ns=int(fields[1]),
                    at_ns=int(fields[2]),
                    hardware=fields[3],
                )
            )
    return Record(samples=tuple(samples), claims=tuple(claims), reached=tuple(reached))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sampler."""
    parser = argparse.ArgumentParser(prog="address-sampler")
    parser.add_argument(
        "--nodes", required=True, help="NODE=NAMESPACE, comma-separated"
    )
    parser.add_argument("--servers", required=True, help="NODE=ADDRESS:PORT")
    parser.add_argument("--client", required=True, help="the client's namespace")
    parser.add_argument("--addresses", required=True, help="comma-separated")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args(arguments)
    password = os.environ[PASSWORD_VARIABLE]
    nodes = dict(item.split("=") for item in options.nodes.split(","))
    claims = []
    for item in options.servers.split(","):
        node, place = item.split("=")
        host, port = place.rsplit(":", 1)
        target = Target(
            address=host, port=int(port), user=options.user, password=password
        )
        claims.append(Probe(node, target, Kind.CLAIM))
    addresses = options.addresses.split(",")
    tables = Tables(nodes, addresses)
    clients = [Client(options.client, each, options.port) for each in addresses]
    with options.record.open("w", encoding="ascii") as out:
        Recorder(tables, clients, claims, out).run(sys.stdin.fileno())
    sys.stdout.write(json.dumps({"ended": True}) + "\n")


if __name__ == "__main__":
    main()
