"""Judges a configuration, alone and with the facts of this machine. Pure.

Each check is a function that yields what is wrong; all are asked, so that everybody
hears of every problem at once.
"""

import ipaddress
from collections.abc import Iterator
from itertools import combinations
from typing import Final

from pgbastion.config.address_checks import check_addresses
from pgbastion.config.listening import listeners
from pgbastion.config.model import Config, PostgresqlSection
from pgbastion.config.problems import Problem, Severity
from pgbastion.config.proxy_checks import check_proxy
from pgbastion.config.section import Section
from pgbastion.config.timings import PROFILES, smallest_lease_ms, timing_faults
from pgbastion.config.types import RAFT_PORT, parts_of_conninfo
from pgbastion.config.watchdog_checks import check_watchdog
from pgbastion.model.cluster import VOTERS_MAX
from pgbastion.postgres.settings import check_parameters

# sun_path holds 108 bytes with its end; the rest is for "/.s.PGSQL.PORT.lock".
SOCKET_DIR_BYTES_MAX: Final = 90
RUN_DIR_BYTES_MAX: Final = 90
# Keys that are understood and whose part is not built yet.
WITHOUT_EFFECT: Final = {
    "tags.clonefrom": "copies are taken from the primary",
}


def check_config(config: Config) -> list[Problem]:
    """Return what the file alone shows; `check_machine` looks at the machine."""
    return [problem for check in _CHECKS for problem in check(config)]


def _ports(config: Config) -> Iterator[Problem]:
    for first, second in combinations(listeners(config), 2):
        if first.port == second.port and _overlap(first.address, second.address):
            yield Problem(
                key=second.key,
                problem=f"port {second.port} on {second.address} clashes with "
                f"{first.key} on {first.address}",
                remedy="give one of them another port, or addresses that differ",
            )


def _overlap(first: str, second: str) -> bool:
    return first == second or _is_wildcard(first) or _is_wildcard(second)


def _is_wildcard(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified


def _reachable(config: Config) -> Iterator[Problem]:
    """Members find each other under ``node.address``: what they need listens there."""
    places = {
        "raft.bind_address": config.raft.bind_address,
        "memberlist.bind_address": config.memberlist.bind_address,
    }
    if config.postgresql is not None:
        places["postgresql.listen"] = config.postgresql.listen
    for key, address in places.items():
        if not _overlap(address, config.node.address):
            yield Problem(
                key=key,
                problem=f"{address} is not node.address {config.node.address}, under "
                "which the other nodes connect",
                remedy="remove the key, or make sure that the address leads here",
                severity=Severity.WARNING,
            )


def _timings(config: Config) -> Iterator[Problem]:
    for fault in timing_faults(config.timings):
        profile = PROFILES[config.failover.profile]
        room_ms = profile.lease_ms - smallest_lease_ms(profile)
        most_ms = profile.election_ms + max(room_ms, 0) // 2
        yield Problem(
            key=_timing_key(config),
            problem=fault,
            remedy=f"in profile {config.failover.profile} write an election_timeout "
            f"of at most {most_ms}ms and a heartbeat_interval of at most a third of "
            "it, or take a slower profile",
        )


def _timing_key(config: Config) -> str:
    if config.raft.election_timeout is not None:
        return "raft.election_timeout"
    if config.raft.heartbeat_interval is not None:
        return "raft.heartbeat_interval"
    return "failover.profile"


def _peers(config: Config) -> Iterator[Problem]:
    written = config.cluster.peers
    for peer in sorted({p for p in written if written.count(p) > 1}):
        yield Problem(
            key="cluster.peers",
            problem=f"{peer.host}:{peer.port} is listed twice",
            remedy="keep one of them",
        )
    for peer in written:
        same_host = peer.host == config.node.address
        if same_host and peer.port != config.raft.bind_port:
            yield Problem(
                key="cluster.peers",
                problem=f"{peer.host}:{peer.port} has this node's address and another "
                f"port than raft.bind_port {config.raft.bind_port}: it is taken for "
                "another node",
                remedy="correct the port, unless a second node runs on this address",
                severity=Severity.WARNING,
            )
    if not config.peers and not config.raft.bootstrap:
        yield Problem(
            key="cluster.peers",
            problem="there is no other node to join, and raft.bootstrap is false: the "
            "node waits until it is added by hand",
            remedy="list the other nodes, or set raft.bootstrap on the first node",
            severity=Severity.WARNING,
        )
    if len(config.peers) + 1 > VOTERS_MAX:
        yield Problem(
            key="cluster.peers",
            problem=f"{len(config.peers) + 1} nodes: at most {VOTERS_MAX} of them vote",
            remedy="nothing has to be done; the others follow without a vote",
            severity=Severity.NOTE,
        )
    if RAFT_PORT in {peer.port for peer in written}:
        yield Problem(
            key="cluster.peers",
            problem=f"peers without a port are asked on port {RAFT_PORT}",
            remedy="write HOST:PORT where it differs",
            severity=Severity.NOTE,
        )


def _paths(config: Config) -> Iterator[Problem]:
    run_bytes = len(bytes(config.run_dir))
    if run_bytes > RUN_DIR_BYTES_MAX:
        yield Problem(
            key="node.name",
            problem=f"the run directory {config.run_dir} has {run_bytes} bytes; "
            f"sockets in it allow {RUN_DIR_BYTES_MAX}",
            remedy="take a shorter node.name",
        )
    section = config.postgresql
    if section is None:
        return
    socket_bytes = len(bytes(section.socket_dir))
    if socket_bytes > SOCKET_DIR_BYTES_MAX:
        yield Problem(
            key="postgresql.socket_dir",
            problem=f"has {socket_bytes} bytes; the kernel allows a socket's path 107, "
            f"so the directory may have {SOCKET_DIR_BYTES_MAX}",
            remedy="take a shorter directory, or leave the key out",
        )
    raft, data = config.raft.data_dir, section.data_dir
    if raft == data or raft in data.parents or data in raft.parents:
        yield Problem(
            key="postgresql.data_dir",
            problem=f"{data} and raft.data_dir {raft} lie in each other",
            remedy="take two directories side by side",
        )


def _roles(section: PostgresqlSection) -> Iterator[Problem]:
    roles = {
        "postgresql.superuser": section.superuser,
        "postgresql.replication_user": section.replication_user,
        "postgresql.rewind_user": section.rewind_user,
    }
    for (first, one), (second, other) in combinations(roles.items(), 2):
        if one == other:
            yield Problem(
                key=second,
                problem=f'"{other}" is {first} too',
                remedy="take three roles, each with the rights that its task needs",
            )


def _postgresql(config: Config) -> Iterator[Problem]:
    section = config.postgresql
    if section is None:
        yield Problem(
            key="",
            problem="there is no section postgresql: this node is a witness, it votes "
            "and proxies",
            remedy="add postgresql: with data_dir where it shall hold data",
            severity=Severity.NOTE,
        )
        return
    yield from _roles(section)
    for refused in check_parameters(section.parameters):
        yield Problem(
            key=f"postgresql.parameters.{refused.name}",
            problem=refused.reason,
            remedy="correct the value, or remove the line",
        )
    if section.os_user == "root":
        yield Problem(
            key="postgresql.os_user",
            problem="PostgreSQL refuses to run as root",
            remedy="name an ordinary user, such as postgres",
        )


def _dsn(config: Config) -> Iterator[Problem]:
    """The daemon asks its own server, by its socket, with the rights that it needs."""
    section = config.postgresql
    if section is None or section.connect_dsn is None:
        return
    parts = parts_of_conninfo(section.connect_dsn)
    user = parts.get("user", section.superuser)
    if user != section.superuser:
        yield Problem(
            key="postgresql.connect_dsn",
            problem=f"the user {user} is replaced by postgresql.superuser "
            f"{section.superuser}, whose rights the daemon needs",
            remedy="name the user as postgresql.superuser, or leave it out",
            severity=Severity.WARNING,
        )
    replaced = sorted(set(parts) - {"dbname", "options", "user"})
    if replaced:
        yield Problem(
            key="postgresql.connect_dsn",
            problem=f"{', '.join(replaced)}: replaced by the server's own socket and "
            "the superuser's password, so that no probe goes through the proxy",
            remedy="nothing has to be done; database and options are used",
            severity=Severity.NOTE,
        )


def _transport(config: Config) -> Iterator[Problem]:
    raft = config.raft
    files = {"tls_cert": raft.tls_cert, "tls_key": raft.tls_key, "tls_ca": raft.tls_ca}
    given = [name for name, path in files.items() if path is not None]
    if not raft.tls_enabled:
        yield Problem(
            key="raft.tls_enabled",
            problem="traffic between nodes is authenticated but not encrypted",
            remedy="remove the key on every node, or keep raft.bind_address on a "
            "network of the nodes' own",
            severity=Severity.NOTE,
        )
    for name in given if not raft.tls_enabled else ():
        yield Problem(
            key=f"raft.{name}",
            problem="is not used: raft.tls_enabled is false",
            remedy="remove one of the two",
            severity=Severity.WARNING,
        )
    for name in files.keys() - set(given) if given else ():
        yield Problem(
            key=f"raft.{name}",
            problem=f"is missing: {' and '.join(given)} alone are of no use",
            remedy="name all three files, or none: then the nodes sign their own",
        )


def _api_tls(config: Config) -> Iterator[Problem]:
    api = config.api
    files = {"tls_cert": api.tls_cert, "tls_key": api.tls_key}
    given = [k for k, path in files.items() if path is not None]
    if api.tls_client_ca is not None:
        given.append("tls_client_ca")
    for name in files.keys() - set(given) if given else ():
        yield Problem(
            key=f"api.{name}",
            problem=f"is missing: {' and '.join(given)} alone are of no use",
            remedy="name both api.tls_cert and api.tls_key, or none of the three",
        )
    shown = {"client_cert": api.client_cert, "client_key": api.client_key}
    named = [k for k, path in shown.items() if path is not None]
    for name in shown.keys() - set(named) if named else ():
        yield Problem(
            key=f"api.{name}",
            problem=f"is missing: {named[0]} alone is of no use",
            remedy="name both api.client_cert and api.client_key, or neither",
        )


def _exposure(config: Config) -> Iterator[Problem]:
    if config.tags.failover_priority == 0 and not config.tags.nofailover:
        yield Problem(
            key="tags.failover_priority",
            problem="0 means that this node never becomes primary",
            remedy="write nofailover: true to say the same in words",
            severity=Severity.NOTE,
        )


def _without_effect(config: Config) -> Iterator[Problem]:
    for key, why in WITHOUT_EFFECT.items():
        name, _, field = key.partition(".")
        section: Section | None = getattr(config, name)
        if section is not None and field in section.model_fields_set:
            yield Problem(
                key=key,
                problem=f"has no effect in this version: {why}",
                remedy="nothing has to be done",
                severity=Severity.NOTE,
            )


_CHECKS: Final = (
    check_proxy,
    _ports,
    _reachable,
    _timings,
    _peers,
    _paths,
    _postgresql,
    _dsn,
    _transport,
    _api_tls,
    check_addresses,
    check_watchdog,
    _exposure,
    _without_effect,
)
