"""Where a node listens, and whether it can. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from pgbastion.config.machine import Facts
from pgbastion.config.model import Config
from pgbastion.config.problems import Problem, Severity


class Listener(NamedTuple):
    """A TCP port that the node listens on, and the key that names it."""

    key: str
    address: str
    port: int


def listeners(config: Config) -> list[Listener]:
    """Return every TCP port of the node, its PostgreSQL's included."""
    proxy = config.proxy
    found = [
        Listener("raft.bind_port", config.raft.bind_address, config.raft.bind_port),
        Listener("api.port", config.api.bind_address, config.api.port),
        Listener("metrics.port", config.metrics.bind_address, config.metrics.port),
    ]
    ports = {"primary_port": proxy.primary_port, "replica_port": proxy.replica_port}
    if proxy.any_port is not None:
        ports["any_port"] = proxy.any_port
    found += [
        Listener(f"proxy.{key}", address, port)
        for address in proxy.bind_address
        for key, port in ports.items()
    ]
    if config.postgresql is not None:
        section = config.postgresql
        found.append(Listener("postgresql.port", section.listen, section.port))
    return found


def listening_addresses(config: Config) -> dict[str, str]:
    """Return the addresses that the node listens on, each with the key it is from."""
    bound = [(each.key.partition(".")[0], each.address) for each in listeners(config)]
    bound.append(("memberlist", config.memberlist.bind_address))
    found: dict[str, str] = {}
    for section, address in bound:
        key = "listen" if section == "postgresql" else "bind_address"
        own = address == config.node.address
        found.setdefault(address, "node.address" if own else f"{section}.{key}")
    return found


def check_listening(config: Config, facts: Facts) -> Iterator[Problem]:
    """Return the addresses to listen on that the machine lacks, now at least."""
    for address, key in listening_addresses(config).items():
        if address in facts.absent_addresses:
            yield Problem(
                key=key,
                problem=f"{address} is not an address of this machine: nothing can "
                "listen there",
                remedy="correct it, or set the address on an interface before the "
                "daemon starts",
                severity=Severity.WARNING,
            )
