"""What the proxy is told and what it tells: routes, limits, counters.

The proxy decides nothing about the cluster: `Routes` are the daemon's decision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from pgbastion.proxy.refusals import Refusal


class Service(StrEnum):
    """The ports; the names are those of the configuration."""

    PRIMARY = "primary"
    REPLICA = "replica"
    # Any server, for reads that do not mind which.
    ANY = "any"


Network = IPv4Network | IPv6Network
# An address and a port to listen on.
ListenAddress = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Where clients are expected: each service's port on each of the addresses."""

    addresses: tuple[str, ...]
    ports: Mapping[Service, int]

    def services(self) -> dict[ListenAddress, Service]:
        """Return every address and port with what it leads to.

        What stands for all addresses takes the clients of the others in the list.
        """
        return {
            (address, port): service
            for address in self.addresses
            if not any(o != address and covers(o, address) for o in self.addresses)
            for service, port in self.ports.items()
        }


def covers(bound: str, address: str) -> bool:
    """Tell whether who listens at ``bound`` takes those who come to ``address``."""
    return bound in {address, "::"} or (bound == "0.0.0.0" and ":" not in address)


class DataPath(StrEnum):
    """What moves the bytes of sessions; the values are those of the configuration."""

    # The kernel where it can, else user space.
    AUTO = "auto"
    # The same, but user space instead is worth a warning.
    KERNEL = "kernel"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True)
class Backend:
    """One PostgreSQL server; ``host`` is an address or a name that resolves."""

    node: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Routes:
    """Where the ports lead.

    A session with the primary, whichever port it came through, is bound to ``epoch``
    and to the expiry. Sessions with standbys are bound to neither: what a standby
    answers is old by nature.
    """

    revision: int
    epoch: int
    primary: Backend | None
    # Why there is no primary, or why this one: a clause for people.
    primary_reason: str
    replicas: tuple[Backend, ...]
    # Why these standbys, for instance that the primary serves reads for want of them.
    replica_reason: str
    # CLOCK_BOOTTIME. From this instant on nothing goes to or comes from the primary.
    expires_ns: int
    # Whether new clients wait while the primary is missing, unreachable or not to be
    # used, instead of being refused: another one is on its way.
    hold: bool = False
    # Whether new clients wait while the primary that is named cannot be reached, or is
    # starting: it may be failing just now, and nobody has decided anything yet.
    patient: bool = False
    # Whether new clients wait although there is a primary: it is about to end.
    park: bool = False
    # Shares of the readers by node, where they differ from 1.
    weights: Mapping[str, int] = field(default_factory=dict)
    # Servers that are taken out for maintenance.
    draining: frozenset[Backend] = frozenset()

    def is_primary(self, backend: Backend) -> bool:
        """Tell whether ``backend`` is the primary's server, by whatever address."""
        return self.primary is not None and backend.node == self.primary.node


NO_ROUTES: Final = Routes(
    revision=0,
    epoch=0,
    primary=None,
    primary_reason="this node has not learnt the cluster's state yet",
    replicas=(),
    replica_reason="this node has not learnt the cluster's state yet",
    expires_ns=0,
    hold=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound of the proxy."""

    connections_max: int = 10_000
    # From one address; 0: no bound of its own.
    connections_per_address_max: int = 0
    # Who may connect; empty: everybody.
    allow: tuple[Network, ...] = ()
    # Balancers that begin with the PROXY protocol, and whether servers are told too.
    proxied_from: tuple[Network, ...] = ()
    tells_servers: bool = False
    # How long a client may take for each packet until it has a server. Where the
    # connections run out, one that is silent for a second gives way earlier.
    first_packet_s: float = 10.0
    connect_s: float = 3.0
    # How long a server may take for its first byte after the start-up packet.
    answer_s: float = 15.0
    # How long sessions may go on with a server, or an address, that is taken out.
    drain_s: float = 30.0
    hold_s: float = 10.0
    hold_max: int = 1_000
    # For so long after a change of the primary readers that come are let wait, for
    # ``hold_s`` at most, until standbys follow it; later ones are refused at once. When
    # the last standby goes, they are let wait for ``hold_s``.
    settle_s: float = 3.0
    # Bytes read at once, and so the most that a direction keeps for a slow reader.
    chunk_bytes: int = 65_536
    # After a server has closed its side, how long its client may stay half open.
    half_open_s: float = 30.0
    # How long to wait until a client has read its last message.
    linger_s: float = 1.0
    # Refusals that wait for the packet they answer, beyond ``connections_max``.
    refusals_max: int = 200
    cancels_max: int = 32
    keepalive_idle_s: int = 30
    keepalive_interval_s: int = 10
    keepalive_probes: int = 3
    user_timeout_ms: int = 60_000

    def allows(self, address: str) -> bool:
        """Tell whether clients of ``address`` may connect."""
        return not self.allow or _is_in(self.allow, address)

    def is_proxied(self, address: str) -> bool:
        """Tell whether ``address`` is a balancer's that tells its clients' ones."""
        return bool(self.proxied_from) and _is_in(self.proxied_from, address)


def _is_in(networks: tuple[Network, ...], address: str) -> bool:
    at = ip_address(address.partition("%")[0])
    return any(at in network for network in networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Sessions and bytes of one server through one port, since the proxy's start."""

    service: Service
    node: str
    sessions: int
    sessions_total: int
    bytes_to_server: int
    bytes_to_client: int
    failures_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySnapshot:
    """What the proxy does at one instant."""

    revision: int
    epoch: int
    data_path: DataPath
    data_path_reason: str
    # Sessions whose bytes the kernel moves, and how many it refused to take.
    in_kernel: int
    kernel_refused_total: int
    # Whether the primary port leads anywhere now.
    primary_usable: bool
    draining: bool
    # How long sessions may still go on while it drains.
    drain_left_s: float
    connections: int
    # Clients that have not finished their first packet.
    opening: int
    held: int
    held_total: int
    # How long the first of the queue has waited, and all that have left it together.
    held_oldest_s: float
    held_seconds_total: float
    accepted_total: int
    # Sessions that were closed because their primary is none any more.
    superseded_total: int
    cancels_total: int
    # Cancel requests beyond the number that is delivered at a time.
    cancels_dropped_total: int
    refused_total: dict[Refusal, int] = field(default_factory=dict)
    traffic: tuple[Traffic, ...] = ()
