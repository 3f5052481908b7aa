"""The configuration: every key, its type, its default and what it means.

Pure. `File` is the file as written with its defaults filled in; `Config` adds what
follows from it and is what the daemon works with. Units stand in the types: durations
are milliseconds, sizes are bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pgbastion.config.addresses import VipSection, as_section
from pgbastion.config.api import ApiSection
from pgbastion.config.hooks import Webhooks
from pgbastion.config.memberlist import MemberlistSection
from pgbastion.config.proxy import EVERYWHERE, ProxySection
from pgbastion.config.section import Section
from pgbastion.config.timings import Timings, timings_of
from pgbastion.config.tracing import TracingSection
from pgbastion.config.types import (
    RAFT_PORT,
    AbsolutePath,
    Address,
    Conninfo,
    DurationMs,
    Lines,
    NodeName,
    OwnAddress,
    Parameters,
    Peer,
    Peers,
    Port,
    PositiveMs,
    RoleName,
    SizeBytes,
    SyncCount,
    Text,
    is_address,
)
from pgbastion.config.watchdog import WatchdogSection
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.profile import Profile

POSTGRES_PORT: Final = 5_442
HBA_DEFAULT: Final = "host all all all scram-sha-256"

# Keys whose default follows from others or from the machine; see `with_defaults`.
DERIVED: Final = frozenset(
    {
        "raft.bind_address",
        "memberlist.bind_address",
        "postgresql.bin_dir",
        "postgresql.listen",
        "postgresql.socket_dir",
    }
)


class NodeSection(Section):
    """This node."""

    name: Annotated[NodeName, Field(examples=["n1"])] = Field(
        description="Unique name of this node in the cluster."
    )
    address: Annotated[OwnAddress, Field(examples=["10.0.1.1"])] = Field(
        description="Its IP address, under which the other nodes reach it."
    )


class ClusterSection(Section):
    """The cluster that the node belongs to."""

    name: Text = Field("main", description="Name of the cluster.")
    peers: Peers = Field(
        (),
        examples=[["10.0.1.1", "10.0.1.2", "10.0.1.3"]],
        description="Nodes to ask when joining: HOST or HOST:PORT of the Raft port, "
        "IPv6 in brackets. The node's own entry is ignored, so that all nodes may "
        "carry one list.",
    )
    auto_join: bool = Field(
        default=True, description="Join the cluster of the peers without a command."
    )
    secret_file: AbsolutePath = Field(
        Path("/etc/pgbastion/secret"),
        description="The secret that nodes prove to each other, the same on every "
        "node, at least 16 bytes, mode 0600. The bootstrapping node makes it where it "
        "is missing. Environment: PGBASTION_SECRET.",
    )


class RaftSection(Section):
    """Consensus between the nodes."""

    data_dir: Annotated[AbsolutePath, Field(examples=["/var/lib/pgbastion/raft"])] = (
        Field(description="Directory of the consensus log.")
    )
    bind_address: Annotated[Address, Field(examples=["10.0.1.1"])] = Field(
        description="Address to listen on. Default: node.address."
    )
    bind_port: Port = Field(RAFT_PORT, description="Port between the nodes.")
    bootstrap: bool = Field(
        default=False,
        description="Found a cluster when no peer has one. Harmless when left on.",
    )
    heartbeat_interval: PositiveMs | None = Field(
        None,
        examples=["100ms"],
        description="Overrides the profile's, where it fits it.",
    )
    election_timeout: PositiveMs | None = Field(
        None,
        examples=["500ms"],
        description="Overrides the profile's, where it fits it; drawn from [t, 2t).",
    )
    tls_enabled: bool = Field(
        default=True,
        description="TLS on the port between the nodes, each of which proves itself to "
        "the other. False, in words and on every node: the traffic is authenticated "
        "by the secret but not encrypted.",
    )
    tls_cert: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/n1.crt"],
        description="This node's certificate in PEM, for server and client use, with "
        "node.address in its alternative names; the authority's intermediates after "
        "it. Read again when it changes. Default: the nodes sign their own, by an "
        "authority that follows from the cluster's secret.",
    )
    tls_key: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/n1.key"],
        description="The certificate's key in PEM, mode 0600.",
    )
    tls_ca: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/ca.crt"],
        description="The authority in PEM that every node's certificate has to be of.",
    )


class FailoverSection(Section):
    """How fast, and how patient, a change of primary is."""

    profile: Profile = Field(
        Profile.NORMAL,
        strict=False,
        description="Lease, renewal, election and probe times together: fast (lease "
        "2s), normal (5s) or wide (30s). Read when the cluster is founded; later "
        "`pgbastion profile` changes it, for all nodes.",
    )
    primary_restart_timeout: DurationMs = Field(
        0,
        description="How long a restart in place may take before a standby that holds "
        "every commit is preferred; 0s: a ready standby is preferred at once, and "
        "after 3s if the server ended since one of its sessions was killed.",
    )
    max_lag_threshold: SizeBytes = Field(
        1 << 20,
        description="With asynchronous replication, how far behind a standby may be "
        "to become primary.",
    )
    stop_timeout: PositiveMs = Field(
        60_000, description="How long a planned stop of PostgreSQL may take."
    )
    fence_command: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/fence"],
        description="A program that switches a node off (STONITH), run as PROGRAM off "
        "NODE HOST by the node that leads, when the primary has been silent for so "
        "long that it has begun to stop by itself. Only exit code 0 says that it is "
        "off: then nobody waits for the rest of its lease.",
    )
    fence_timeout: PositiveMs = Field(
        10_000,
        description="How long fence_command may run; then it is ended and has failed.",
    )


class ReplicationSection(Section):
    """Who confirms a commit before the client hears of it."""

    mode: ReplicationMode = Field(
        ReplicationMode.QUORUM,
        strict=False,
        description="async (nobody), sync (the first standbys by order) or quorum "
        "(any of the standbys).",
    )
    sync_count: SyncCount = Field(
        None,
        description="How many standbys confirm; auto is half the PostgreSQL nodes, "
        "rounded down.",
    )
    strict: bool = Field(
        default=False,
        description="Let commits wait rather than go on alone when no standby confirms."
        " A cluster's first primary waits once a standby has joined.",
    )


class PostgresqlSection(Section):
    """The node's PostgreSQL. Without this section the node is a witness."""

    bin_dir: Annotated[AbsolutePath, Field(examples=["/usr/lib/postgresql/16/bin"])] = (
        Field(
            description="Directory of its programs. Default: the newest of the machine "
            "(14 to 19), of the data directory's version where it has one."
        )
    )
    data_dir: Annotated[
        AbsolutePath, Field(examples=["/var/lib/postgresql/16/main"])
    ] = Field(
        description="Data directory; made by the daemon where it is missing.",
    )
    config_dir: AbsolutePath | None = Field(
        None,
        examples=["/etc/postgresql/16/main"],
        description="Where postgresql.conf of an existing cluster lies, when it is "
        "not the data directory.",
    )
    port: Port = Field(POSTGRES_PORT, description="The server's own port.")
    listen: Annotated[Address, Field(examples=["10.0.1.1"])] = Field(
        description="Address of the server. Default: node.address."
    )
    socket_dir: Annotated[
        AbsolutePath, Field(examples=["/run/pgbastion/n1-5d41402a"])
    ] = Field(
        description="Directory of the server's Unix socket, this node's own, at most "
        "90 bytes. Default: the node's run directory."
    )
    os_user: Text = Field("postgres", description="User that the server runs as.")
    superuser: RoleName = Field("postgres", description="Role of the daemon.")
    replication_user: RoleName = Field("replicator", description="Role of standbys.")
    rewind_user: RoleName = Field("rewinder", description="Role of pg_rewind.")
    password_file: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/passwords"],
        description="Lines ROLE:PASSWORD, mode 0600, the same on every node; roles "
        "that it lacks get a password derived from the secret. Environment: "
        "PGBASTION_PASSWORD_<ROLE>.",
    )
    connect_dsn: Conninfo | None = Field(
        None,
        repr=False,  # it may hold a password
        examples=["postgres://localhost/postgres"],
        description="Database, user and options of the daemon's own connections.",
    )
    parameters: Parameters = Field(
        default_factory=dict,
        examples=[{"shared_buffers": "128MB"}],
        description="Settings of PostgreSQL.",
    )
    member_slots_ttl: DurationMs = Field(
        1_800_000,
        description="How long WAL is kept for a member that says nothing; then its "
        "slots are dropped until it speaks again. 0s: as long as it is a member.",
    )
    hba: Lines = Field(
        (HBA_DEFAULT,), description="Lines of pg_hba.conf, put after pgbastion's own."
    )


class TagsSection(Section):
    """What this node is not, or less, wanted for."""

    nofailover: bool = Field(default=False, description="Never becomes primary.")
    noloadbalance: bool = Field(default=False, description="Not on the replica port.")
    nosync: bool = Field(default=False, description="Never confirms commits.")
    replica_weight: int = Field(
        1,
        ge=1,
        le=100,
        description="Its share of the replica port's sessions among the standbys.",
    )
    clonefrom: bool = Field(
        default=False, description="Without effect: copies come from the primary."
    )
    failover_priority: int = Field(
        1, ge=0, le=1_000, description="The higher wins among equals; 0: nofailover."
    )


class MetricsSection(Section):
    """Prometheus metrics; the API's port has them too."""

    bind_address: Address = Field(EVERYWHERE, description="Address to listen on.")
    port: Port = Field(9_090, description="Its port.")
    patroni_names: bool = Field(
        default=False,
        description="Also give what dashboards for Patroni read, under its names.",
    )


class LogSection(Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error."
    )
    format: Literal["auto", "text", "json"] = Field(
        "auto", description="text, json, or auto: text on a terminal, else JSON."
    )


class EventsSection(Section):
    """Who is told what happens; GET /events is always there."""

    webhooks: Webhooks = Field(
        (),
        examples=[
            [{"url": "https://example.com/hook", "secret_file": "/etc/pgbastion/hook"}]
        ],
        description="Addresses that every event is sent to, at least once within a "
        "day; with a secret_file each is signed (HMAC-SHA256).",
    )


class CallbacksSection(Section):
    """A program of yours that is run; nothing waits for it."""

    on_role_change: AbsolutePath | None = Field(
        None,
        examples=["/usr/local/bin/role-changed"],
        description="Run as PROGRAM on_role_change ROLE CLUSTER when this node's role "
        "changes; a newer change ends one that runs.",
    )
    timeout: PositiveMs = Field(30_000, description="How long it may run.")


class File(Section):
    """The whole file, with defaults that depend on other keys filled in."""

    node: NodeSection
    cluster: ClusterSection = Field(default_factory=ClusterSection)
    raft: RaftSection
    memberlist: MemberlistSection
    failover: FailoverSection = Field(default_factory=FailoverSection)
    replication: ReplicationSection = Field(default_factory=ReplicationSection)
    proxy: ProxySection = Field(default_factory=ProxySection)
    postgresql: PostgresqlSection | None = None
    vip: VipSection | None = None
    tags: TagsSection = Field(default_factory=TagsSection)
    api: ApiSection = Field(default_factory=ApiSection)
    metrics: MetricsSection = Field(default_factory=MetricsSection)
    events: EventsSection = Field(default_factory=EventsSection)
    callbacks: CallbacksSection = Field(default_factory=CallbacksSection)
    watchdog: WatchdogSection = Field(default_factory=WatchdogSection)
    log: LogSection = Field(default_factory=LogSection)
    tracing: TracingSection = Field(default_factory=TracingSection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found on the machine for keys that the file leaves out."""

    run_dir: Path
    bin_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that can be used: every value resolved."""

    source: Path
    """The file that it was read from."""
    run_dir: Path
    """This node's directory on tmpfs: shared page, guard's socket."""
    timings: Timings
    peers: tuple[Peer, ...]
    """Raft addresses of the other nodes: `cluster.peers` without this node's own."""
    node: NodeSection
    cluster: ClusterSection
    raft: RaftSection
    memberlist: MemberlistSection
    failover: FailoverSection
    replication: ReplicationSection
    proxy: ProxySection
    postgresql: PostgresqlSection | None
    """None: a witness."""
    vip: VipSection | None
    """None: no virtual address."""
    tags: TagsSection
    api: ApiSection
    metrics: MetricsSection
    events: EventsSection
    callbacks: CallbacksSection
    watchdog: WatchdogSection
    log: LogSection
    tracing: TracingSection

    @property
    def raft_address(self) -> Peer:
        """Where the other nodes reach this node's Raft port."""
        return Peer(self.node.address, self.raft.bind_port)


def with_defaults(raw: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """Return the mapping of the file with defaults that depend on other keys.

    What is not of the right kind stays as it is: the model refuses it.
    """
    # A section of which only comments are left is an empty one.
    filled: dict[str, Any] = {
        name: {} if section is None else section for name, section in raw.items()
    }
    if "vip" in filled:
        filled["vip"] = as_section(filled["vip"])
    node = raw.get("node")
    address = node.get("address") if isinstance(node, Mapping) else None
    if not is_address(address):
        # The model refuses node.address itself; what follows from it is no news.
        address = EVERYWHERE
    _fill(filled, "raft", "bind_address", address)
    filled.setdefault("memberlist", {})
    _fill(filled, "memberlist", "bind_address", address)
    _fill(filled, "postgresql", "listen", address)
    _fill(filled, "postgresql", "socket_dir", str(found.run_dir))
    if found.bin_dir is not None:
        _fill(filled, "postgresql", "bin_dir", str(found.bin_dir))
    return filled


def resolve(file: File, *, source: Path, found: Found) -> Config:
    """Return the configuration that ``file`` stands for."""
    own = Peer(file.node.address, file.raft.bind_port)
    return Config(
        source=source,
        run_dir=found.run_dir,
        timings=timings_of(
            file.failover.profile,
            heartbeat_ms=file.raft.heartbeat_interval,
            election_ms=file.raft.election_timeout,
        ),
        peers=tuple(dict.fromkeys(p for p in file.cluster.peers if p != own)),
        node=file.node,
        cluster=file.cluster,
        raft=file.raft,
        memberlist=file.memberlist,
        failover=file.failover,
        replication=file.replication,
        proxy=file.proxy,
        postgresql=file.postgresql,
        vip=file.vip,
        tags=file.tags,
        api=file.api,
        metrics=file.metrics,
        events=file.events,
        callbacks=file.callbacks,
        watchdog=file.watchdog,
        log=file.log,
        tracing=file.tracing,
    )


def _fill(filled: dict[str, Any], section: str, key: str, value: object) -> None:
    present = filled.get(section)
    if isinstance(present, Mapping) and present.get(key) is None:
        filled[section] = {**present, key: value}
