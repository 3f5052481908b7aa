"""Judges the virtual addresses, alone and with the facts of this machine. Pure."""

import ipaddress
from collections import Counter
from collections.abc import Iterator

from pgbastion.config.addresses import REPLICA_ADDRESSES_MAX, VipSection
from pgbastion.config.machine import Facts
from pgbastion.config.model import Config
from pgbastion.config.problems import Problem, Severity
from pgbastion.model.addresses import VirtualAddress


def check_addresses(config: Config) -> Iterator[Problem]:
    """Return what the file alone shows of its virtual addresses."""
    section = config.vip
    if section is None or not section.all:
        # Of an empty section only comments are left.
        return
    yield from _written_twice(section.all)
    yield from _for_replicas(section)
    for address in section.all:
        yield from _one(config, address)
    if config.postgresql is None:
        yield Problem(
            key="vip",
            problem="a witness never holds the addresses",
            remedy="nothing has to be done; all nodes may carry one section",
            severity=Severity.NOTE,
        )


def _written_twice(addresses: tuple[VirtualAddress, ...]) -> Iterator[Problem]:
    counts = Counter(address.address for address in addresses)
    for text, count in counts.items():
        if count > 1:
            yield Problem(
                key="vip.addresses",
                problem=f"{text} is written {count} times",
                remedy="keep one of them",
            )


def _for_replicas(section: VipSection) -> Iterator[Problem]:
    if len(section.replicas) > REPLICA_ADDRESSES_MAX:
        yield Problem(
            key="vip.addresses",
            problem=f"has more than {REPLICA_ADDRESSES_MAX} addresses for replicas",
            remedy="name at most as many as there are standbys",
        )
    if section.replica_fallback and not section.replicas:
        yield Problem(
            key="vip.replica_fallback",
            problem="there is no address for replicas",
            remedy="give an address role: replica, or remove the key",
        )


def _one(config: Config, address: VirtualAddress) -> Iterator[Problem]:
    own = config.node.address
    peers = {peer.host for peer in config.cluster.peers}
    if address.address == own or address.address in peers:
        yield Problem(
            key="vip.address",
            problem=f"{address.address} is a node's own address",
            remedy="take one that belongs to no machine",
        )
    if address.prefix == address.value.max_prefixlen:
        yield Problem(
            key="vip.address",
            problem=f"{address.address} stands alone, as {address}",
            remedy="write its prefix length where clients are on its own network",
            severity=Severity.NOTE,
        )
    if not address.interface and (config.vip is None or config.vip.hook is None):
        yield Problem(
            key="vip.interface",
            problem=f"{address.address} has neither an interface nor a hook",
            remedy="name the interface that it is to be set on",
        )
    yield from _label(address)
    yield from _proxy(config, address)


def _label(address: VirtualAddress) -> Iterator[Problem]:
    if not address.label:
        return
    if address.version == 6:
        yield Problem(
            key="vip.label",
            problem="IPv6 addresses have no labels",
            remedy="remove the label",
        )
    elif not address.label.startswith(address.interface):
        yield Problem(
            key="vip.label",
            problem=f'"{address.label}" does not begin with "{address.interface}"',
            remedy=f"write {address.interface}:NAME",
        )


def _proxy(config: Config, address: VirtualAddress) -> Iterator[Problem]:
    """A client that comes to the address has to find the proxy there."""
    if any(_covers(bound, address) for bound in config.proxy.bind_address):
        return
    wanted = '"::"' if address.version == 6 else '"0.0.0.0"'
    yield Problem(
        key="proxy.bind_address",
        problem=f"on {', '.join(config.proxy.bind_address)} the proxy does not listen "
        f"on {address.address}",
        remedy=f"write {wanted}",
    )


def _covers(bound: str, address: VirtualAddress) -> bool:
    at = ipaddress.ip_address(bound)
    # "::" takes IPv4 clients as well.
    everywhere = at.is_unspecified and at.version in {6, address.version}
    return everywhere or bound == address.address


def check_addresses_on_machine(config: Config, facts: Facts) -> Iterator[Problem]:
    """Return what the machine lacks for the virtual addresses."""
    section = config.vip
    if section is None:
        return
    if not facts.has_addresses:
        yield Problem(
            key="vip",
            problem="addresses are set on Linux only: this node never holds them",
            remedy="use a load balancer that asks /primary",
            severity=Severity.WARNING,
        )
        return
    for name in dict.fromkeys(a.interface for a in section.all if a.interface):
        if name not in facts.interfaces:
            yield Problem(
                key="vip.interface",
                problem=f"there is no interface {name}",
                remedy=f"this machine has: {', '.join(facts.interfaces)}",
                severity=Severity.WARNING,
            )
    if any(a.interface for a in section.all) and facts.missing_capabilities:
        missing = " and ".join(facts.missing_capabilities)
        yield Problem(
            key="vip",
            problem=f"{missing} missing: this user cannot set and announce addresses",
            remedy="give the service AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW, or "
            "run it as root",
            severity=Severity.WARNING,
        )
    if section.hook is not None and not facts.hook_runs:
        yield Problem(
            key="vip.hook",
            problem=f"{section.hook} is not an executable program",
            remedy="make it executable, or remove the key",
        )
