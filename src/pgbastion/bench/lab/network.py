"""Hosts that can be cut off from one another, and loopback where that is not needed.

`Namespaces` gives every host a network namespace with one link to a bridge in a
namespace of its own. A cut is a rule of the receiving host that drops what comes from
the sender, in silence, also on connections that exist; so each direction can be cut
alone, and a packet filter has to be installed only to lose packets by chance.
`Loopback` needs no privilege, gives every host an address of 127.0.0.0/8 and can cut
nothing.
"""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.processes import Process
from pgbastion.bench.lab.waits import LINK_UP_S, wait_for

CLIENT: Final = "client"
WATCH: Final = "watch"
MARK: Final = "PGBASTION_LAB_HOST"
NAME_PREFIX: Final = "pgb-"

_NETNS_DIR: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_SUBNETS: Final = {4: "10.77.0.", 6: "fd77::"}
_PREFIXES: Final = {4: 24, 6: 64}
# Rules are looked at in this order: cuts come before the table of own addresses.
_CUT_PREFERENCE: Final = "10"
_LOCAL_PREFERENCE: Final = "100"
_COMMAND_S: Final = 10.0


class Network(Protocol):
    """Hosts by name; the nodes, and two for clients: `CLIENT` and `WATCH`."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """The hosts' addresses by name."""

    def command(self, host: str) -> list[str]:
        """Return what to put before a command so that it runs on ``host``."""

    def environment(self, host: str) -> dict[str, str]:
        """Return the variables that a program on ``host`` is started with."""

    def inside(self, host: str) -> contextlib.AbstractContextManager[None]:
        """Let sockets that this thread makes meanwhile belong to ``host``."""

    def processes(self, host: str) -> list[Process]:
        """Return every process that runs on ``host``."""

    def cut(self, sender: str, receiver: str) -> None:
        """Lose all that ``sender`` sends to ``receiver``."""

    def heal(self, sender: str, receiver: str) -> None:
        """End that cut."""

    def lose(self, host: str, percent: int) -> None:
        """Lose so many of the packets from and to ``host``, each by chance; 0: none."""

    def set_link(self, host: str, *, up: bool) -> None:
        """Pull or plug the cable of ``host``."""

    def close(self) -> None:
        """Remove all of it; idempotent."""


class Namespaces:
    """Hosts as network namespaces named ``pgb-RANDOM-HOST``."""

    def __init__(
        self, nodes: Sequence[str], tag: str, families: Sequence[int] = (4,)
    ) -> None:
        """Build the hosts; ``tag`` goes into their namespaces' names.

        Each host has an address of each of ``families``, 4 and 6; the first one's are
        the `addresses`.

        Raises:
            CannotRun: This user may not make namespaces, or ``ip`` is missing.
        """
        _require_privilege()
        self._tag = tag
        numbers = {name: number for number, name in enumerate(nodes, start=1)}
        numbers |= {CLIENT: 200, WATCH: 250}
        self._families = tuple(families)
        self._by_family = {
            family: {host: f"{_SUBNETS[family]}{n}" for host, n in numbers.items()}
            for family in families
        }
        self.addresses = MappingProxyType(self._by_family[families[0]])
        self._bridge = self._namespace("bridge")
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def command(self, host: str) -> list[str]:
        """Enter the namespace; the program keeps the pid that it was started with."""
        return ["ip", "netns", "exec", self._namespace(host)]

    def environment(self, host: str) -> dict[str, str]:
        """Mark the program with its namespace."""
        return {MARK: self._namespace(host)}

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Move the calling thread into the namespace for the length of the block."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(_NETNS_DIR / self._namespace(host))
            try:
                yield
            finally:
                _set_namespace(own)
        finally:
            os.close(own)

    def processes(self, host: str) -> list[Process]:
        """Return what runs in the namespace."""
        return _in_namespace(_NETNS_DIR / self._namespace(host))

    def cut(self, sender: str, receiver: str) -> None:
        """Let ``receiver`` drop what comes from the address of ``sender``."""
        self._rule("add", sender, receiver)

    def heal(self, sender: str, receiver: str) -> None:
        """Remove the rule of `cut`."""
        self._rule("del", sender, receiver)

    def lose(self, host: str, percent: int) -> None:
        """Let the bridge drop packets of its port, in both directions."""
        if shutil.which("nft") is None:
            raise CannotRun("the program nft (nftables) is missing")
        table, port = f"bridge lose-{host}", _port(host)
        chance = f"numgen random mod 100 < {percent} drop"
        lines = [f"table {table} {{}}", f"delete table {table}"]
        if percent:
            lines += [
                f"table {table} {{ chain forward {{",
                "type filter hook forward priority 0;",
                *(f'{way} "{port}" {chance}' for way in ("iifname", "oifname")),
                "}; }",
            ]
        _nft(self._bridge, "\n".join(lines) + "\n")

    def set_link(self, host: str, *, up: bool) -> None:
        """Set the bridge's end of the cable up or down: the host loses carrier."""
        state = "up" if up else "down"
        _ip("-n", self._bridge, "link", "set", _port(host), state)
        if up:
            self._wait_forwarding(host)

    def close(self) -> None:
        """Kill what runs in the namespaces, and delete them; idempotent."""
        remove_namespaces(self._tag)

    def _namespace(self, host: str) -> str:
        return f"{NAME_PREFIX}{self._tag}-{host}"

    def _build(self) -> None:
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "hub", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "hub", "up")
        for host in self.addresses:
            self._add_host(host)
        for host in self.addresses:
            self._wait_forwarding(host)

    def _add_host(self, host: str) -> None:
        name = self._namespace(host)
        peer = ["type", "veth", "peer", "name", "eth0", "netns", name]
        _ip("netns", "add", name)
        _ip("-n", self._bridge, "link", "add", _port(host), *peer)
        _ip("-n", self._bridge, "link", "set", _port(host), "master", "hub", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        for family in self._families:
            address = f"{self._by_family[family][host]}/{_PREFIXES[family]}"
            # Nobody has to detect duplicates of what is numbered here.
            extra = ["nodad"] if family == 6 else []
            _ip("-n", name, "address", "add", address, "dev", "eth0", *extra)
            # A rule has to be able to drop what is meant for this host itself, and for
            # every packet: early demux would take those of a connection past the rules.
            rule = ("-n", name, f"-{family}", "rule")
            _ip(*rule, "add", "pref", _LOCAL_PREFERENCE, "lookup", "local")
            _ip(*rule, "del", "pref", "0")
        with self.inside(host):
            Path("/proc/sys/net/ipv4/ip_early_demux").write_text("0")

    def _wait_forwarding(self, host: str) -> None:
        # The kernel may take a second to notice that a link has come up.
        def forwards() -> bool:
            port = _link(self._bridge, _port(host))
            forwarding = port["linkinfo"]["info_slave_data"]["state"] == "forwarding"
            both = (port, _link(self._namespace(host), "eth0"))
            return forwarding and all(link["operstate"] == "UP" for link in both)

        wait_for(f"the link of {host}", forwards, LINK_UP_S, every_s=0.02)

    def _rule(self, verb: str, sender: str, receiver: str) -> None:
        name = self._namespace(receiver)
        for family, addresses in self._by_family.items():
            come_from = ["from", addresses[sender], "iif", "eth0", "blackhole"]
            rule = ("-n", name, f"-{family}", "rule", verb)
            _ip(*rule, "pref", _CUT_PREFERENCE, *come_from)


class Loopback:
    """Hosts as addresses of the loopback interface."""

    def __init__(self, nodes: Sequence[str], tag: str, subnet: str) -> None:
        """Give ``nodes`` the addresses ``subnet`` .1, .2 and so on."""
        hosts = {name: f"{subnet}.{n}" for n, name in enumerate(nodes, start=1)}
        hosts |= {CLIENT: f"{subnet}.200", WATCH: f"{subnet}.250"}
        self.addresses = MappingProxyType(hosts)
        self._tag = tag

    def command(self, host: str) -> list[str]:
        """Add nothing: every host is this machine."""
        del host
        return []

    def environment(self, host: str) -> dict[str, str]:
        """Mark the program with its host."""
        return {MARK: self._mark(host)}

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Change nothing: every address is reachable from everywhere."""
        del host
        yield

    def processes(self, host: str) -> list[Process]:
        """Return what carries the mark of ``host``."""
        return processes.marked(MARK, self._mark(host))

    def cut(self, sender: str, receiver: str) -> None:
        """Refuse: loopback cannot be cut."""
        raise CannotRun(f"{sender} to {receiver}: a cut needs network namespaces")

    def heal(self, sender: str, receiver: str) -> None:
        """Refuse: nothing was cut."""
        raise LabError(f"{sender} to {receiver}: nothing was cut")

    def lose(self, host: str, percent: int) -> None:
        """Refuse: loopback loses nothing."""
        raise CannotRun(f"{host}: losing {percent}% needs network namespaces")

    def set_link(self, host: str, *, up: bool) -> None:
        """Refuse: loopback has one link for all."""
        raise CannotRun(f"{host} up={up}: a link needs network namespaces")

    def close(self) -> None:
        """Kill what carries the marks; idempotent."""
        processes.kill_until_none(
            lambda: processes.marked(MARK, f"{NAME_PREFIX}{self._tag}-")
        )

    def _mark(self, host: str) -> str:
        # The colon ends the name: a mark is looked for by how it begins.
        return f"{NAME_PREFIX}{self._tag}-{host}:"


def free_subnet(base: str = "127.36") -> str:
    """Return a part of loopback on which nobody listens at PostgreSQL's usual port."""
    for number in secrets.SystemRandom().sample(range(10, 250), 20):
        subnet = f"{base}.{number}"
        with socket.socket() as probe:
            try:
                probe.bind((f"{subnet}.1", 5432))
            except OSError:
                continue
        return subnet
    raise LabError(f"no free addresses below {base}")


def remove_namespaces(tag: str) -> None:
    """Kill what runs in the namespaces with this tag, and delete them; idempotent."""
    found = sorted(_NETNS_DIR.glob(f"{NAME_PREFIX}{tag}-*"))
    for namespace in found:
        processes.kill_until_none(lambda each=namespace: _in_namespace(each))  # type: ignore[misc]
    for namespace in found:
        _ip("netns", "del", namespace.name)


def _in_namespace(namespace: Path) -> list[Process]:
    try:
        inode = namespace.stat().st_ino
    except FileNotFoundError:
        return []
    return processes.in_network(inode)


def _require_privilege() -> None:
    if shutil.which("ip") is None:
        raise CannotRun("the program ip (iproute2) is missing")
    name = f"{NAME_PREFIX}try-{secrets.token_hex(3)}"
    made = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise CannotRun(f"no network namespaces here: {made.stderr.strip()}")
    _ip("netns", "del", name)


def _ip(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["ip", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_COMMAND_S,
        )
    except subprocess.CalledProcessError as error:
        raise LabError(f"ip {' '.join(arguments)}: {error.stderr.strip()}") from error
    return done.stdout


def _nft(namespace: str, rules: str) -> None:
    """Have the packet filter of a namespace take these rules, all or none."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "nft", "-f", "-"],
        input=rules,
        capture_output=True,
        text=True,
        timeout=_COMMAND_S,
        check=False,
    )
    if done.returncode != 0:
        raise CannotRun(f"no packet filter in {namespace}: {done.stderr.strip()}")


def _link(namespace: str, name: str) -> dict[str, Any]:
    (link,) = json.loads(_ip("-n", namespace, "-d", "-j", "link", "show", name))
    return dict(link)


def _port(host: str) -> str:
    return f"to-{host}"


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    # os.setns came with Python 3.12. It moves the calling thread alone.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
