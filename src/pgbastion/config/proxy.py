"""The section of the proxy: where clients connect, and what they may do there."""

from typing import Annotated, Final, Literal

from pydantic import Field

from pgbastion.config.section import Section
from pgbastion.config.types import (
    AbsolutePath,
    Addresses,
    DurationMs,
    Networks,
    Port,
    PositiveMs,
    SizeBytes,
)

EVERYWHERE: Final = "0.0.0.0"


class ProxyTlsSection(Section):
    """TLS of clients, and towards the servers."""

    mode: Literal["passthrough", "terminate"] = Field(
        "passthrough",
        description="Whether TLS goes through to PostgreSQL (passthrough), or ends "
        "here, with a certificate of the proxy's own (terminate). What goes through "
        "cannot be read: a client is not made to wait for a server that says it is "
        "starting, and a cancel request that is encrypted too (libpq 17 and newer) "
        "reaches one of the port's servers, perhaps not its own.",
    )
    cert_file: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/proxy.crt"],
        description="The proxy's certificate, followed by the chain; read again when "
        "it changes.",
    )
    key_file: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/proxy.key"],
        description="Its private key, mode 0600.",
    )
    required: bool = Field(
        default=False, description="With terminate: refuse clients without TLS."
    )
    verify: Literal["off", "require", "ca", "full"] = Field(
        "off",
        description="With terminate, how the proxy itself connects to the servers: "
        "in the clear (off), with TLS (require), with a certificate of ca_file (ca), "
        "which names the member's address (full). Except with off, clients can log in "
        "by SCRAM only with TLS, and only with channel_binding=disable or where "
        "cert_file is the servers' own certificate.",
    )
    ca_file: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/ca.crt"],
        description="Authorities of the servers' certificates.",
    )


class ProxySection(Section):
    """Where clients connect."""

    bind_address: Annotated[Addresses, Field(examples=["0.0.0.0"])] = Field(
        (EVERYWHERE,),
        description="Address to listen on, or a list of them, IPv4 and IPv6; `::` "
        "stands for all of both.",
    )
    primary_port: Port = Field(5_432, description="Leads to the primary.")
    replica_port: Port = Field(5_433, description="Leads to the standbys in turn.")
    any_port: Port | None = Field(
        None,
        examples=[5_434],
        description="Leads to any server, the primary included: for reads that do "
        "not mind. Default: no such port.",
    )
    drain_timeout: DurationMs = Field(
        30_000, description="How long sessions may go on before a planned change."
    )
    hold_timeout: DurationMs = Field(
        10_000,
        description="How long new connections wait for a new primary, or at the "
        "replica port for a standby where the last one has just gone.",
    )
    max_hold: int = Field(
        1_000, ge=0, le=100_000, description="How many may wait at once."
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Sessions on all ports together; fewer where the daemon may not "
        "open two files for each, and 500 more.",
    )
    max_connections_per_address: int = Field(
        0, ge=0, le=1_000_000, description="Sessions of one client's address; 0: any."
    )
    allow: Networks = Field(
        (),
        examples=[["10.0.0.0/8", "2001:db8::/32"]],
        description="Networks whose clients may connect; empty: all.",
    )
    max_replica_lag: SizeBytes = Field(
        16 << 20,
        description="A standby further behind gets no new session, until it is "
        "behind by no more than half of this.",
    )
    replica_fallback: Literal["none", "primary"] = Field(
        "none",
        description="Whether the replica port leads to the primary while no standby "
        "can serve.",
    )
    connect_timeout: PositiveMs = Field(
        3_000, description="How long a server may take to accept a connection."
    )
    first_packet_timeout: PositiveMs = Field(
        10_000, description="How long a client may take for each of its first packets."
    )
    keepalive_idle: PositiveMs = Field(
        30_000, description="Silence after which a peer's life is asked for, in TCP."
    )
    keepalive_interval: PositiveMs = Field(
        10_000, description="Between two such questions."
    )
    keepalive_probes: int = Field(
        3, ge=1, le=100, description="Questions without an answer that end a session."
    )
    user_timeout: DurationMs = Field(
        60_000,
        description="How long sent bytes may stay unacknowledged by a peer "
        "(TCP_USER_TIMEOUT); 0s: as long as the system likes. A peer that only reads "
        "slowly is left alone.",
    )
    proxy_protocol_from: Networks = Field(
        (),
        examples=[["10.0.2.10/32"]],
        description="Balancers that tell the client's address by PROXY protocol, "
        "version 2: connections from there have to begin with it.",
    )
    proxy_protocol_to_servers: bool = Field(
        default=False,
        description="Tell the servers the client's address in that way. PostgreSQL "
        "itself does not understand it.",
    )
    data_path: Literal["auto", "kernel", "userspace"] = Field(
        "auto",
        description="Who moves the bytes of busy sessions: the kernel where a "
        "self-test passes (auto), the same with a warning where it does not "
        "(kernel), or the daemon itself (userspace).",
    )
    tls: ProxyTlsSection = Field(
        default_factory=ProxyTlsSection, description="TLS of clients."
    )
