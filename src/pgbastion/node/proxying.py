"""The proxy of a node: made from the configuration, led by the routing."""

from collections.abc import Callable, Iterator
from ipaddress import ip_network

from pgbastion.api.ports import Done, Outcome
from pgbastion.config.proxy import ProxySection
from pgbastion.control.routing import Routing
from pgbastion.ha.loop import Loop
from pgbastion.model.cluster import Member
from pgbastion.model.snapshot import BackendTraffic, ProxyCounts, SessionFacts
from pgbastion.observe.logging import get_logger
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import (
    Backend,
    Binding,
    Limits,
    Network,
    ProxySnapshot,
    Routes,
    Service,
)
from pgbastion.proxy.tls import TlsFiles

log = get_logger("proxy")


def binding_of(proxy: ProxySection) -> Binding:
    """Return where clients are expected."""
    ports = {Service.PRIMARY: proxy.primary_port, Service.REPLICA: proxy.replica_port}
    if proxy.any_port is not None:
        ports[Service.ANY] = proxy.any_port
    return Binding(addresses=proxy.bind_address, ports=ports)


def limits_of(proxy: ProxySection) -> Limits:
    """Return the bounds of what clients may do."""
    return Limits(
        connections_max=proxy.max_connections,
        connections_per_address_max=proxy.max_connections_per_address,
        allow=_networks(proxy.allow),
        proxied_from=_networks(proxy.proxy_protocol_from),
        tells_servers=proxy.proxy_protocol_to_servers,
        first_packet_s=proxy.first_packet_timeout / 1_000,
        connect_s=proxy.connect_timeout / 1_000,
        drain_s=proxy.drain_timeout / 1_000,
        hold_s=proxy.hold_timeout / 1_000,
        hold_max=proxy.max_hold,
        keepalive_idle_s=_seconds(proxy.keepalive_idle),
        keepalive_interval_s=_seconds(proxy.keepalive_interval),
        keepalive_probes=proxy.keepalive_probes,
        user_timeout_ms=proxy.user_timeout,
    )


def tls_of(proxy: ProxySection) -> TlsFiles | None:
    """Return what TLS needs where it ends in the proxy; None: it goes through."""
    tls = proxy.tls
    if tls.mode != "terminate" or tls.cert_file is None or tls.key_file is None:
        return None
    return TlsFiles(
        cert=tls.cert_file,
        key=tls.key_file,
        required=tls.required,
        verify=tls.verify,
        ca=tls.ca_file,
    )


def _seconds(value_ms: int) -> int:
    """Return whole seconds, which is all that TCP takes; one at least."""
    return max(round(value_ms / 1_000), 1)


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


def routes_of(routing: Routing, revision: int) -> Routes:
    """Return the routes that a decision means; their expiry is not in it."""
    primary = _backend(routing.primary) if routing.primary else None
    return Routes(
        revision=revision,
        epoch=routing.epoch,
        primary=primary,
        primary_reason=routing.primary_reason,
        replicas=tuple(_backend(m) for m in routing.replicas),
        replica_reason=routing.replica_reason,
        expires_ns=0,
        hold=routing.changing or bool(routing.parking),
        patient=primary is not None,
        park=bool(routing.parking),
        weights={m.name: m.replica_weight for m in routing.replicas},
        draining=frozenset(_backend(m) for m in routing.draining),
    )


def _backend(member: Member) -> Backend:
    return Backend(node=member.name, host=member.host, port=member.postgres_port or 0)


def counts_of(
    snapshot: ProxySnapshot, sessions: Callable[[], Iterator[SessionFacts]]
) -> ProxyCounts:
    """Return the proxy's counters for those who ask."""
    return ProxyCounts(
        connections=snapshot.connections,
        opening=snapshot.opening,
        held=snapshot.held,
        held_total=snapshot.held_total,
        held_oldest_s=snapshot.held_oldest_s,
        held_seconds_total=snapshot.held_seconds_total,
        accepted_total=snapshot.accepted_total,
        superseded_total=snapshot.superseded_total,
        cancels_total=snapshot.cancels_total,
        cancels_dropped_total=snapshot.cancels_dropped_total,
        data_path=snapshot.data_path.value,
        data_path_reason=snapshot.data_path_reason,
        in_kernel=snapshot.in_kernel,
        kernel_refused_total=snapshot.kernel_refused_total,
        draining=snapshot.draining,
        drain_left_s=snapshot.drain_left_s,
        sessions=sessions,
        refused_total={
            refusal.value: count for refusal, count in snapshot.refused_total.items()
        },
        traffic=tuple(
            BackendTraffic(
                service=traffic.service,
                node=traffic.node,
                sessions=traffic.sessions,
                sessions_total=traffic.sessions_total,
                bytes_to_server=traffic.bytes_to_server,
                bytes_to_client=traffic.bytes_to_client,
                failures_total=traffic.failures_total,
            )
            for traffic in snapshot.traffic
        ),
    )


def sessions_of(proxy: Proxy) -> Iterator[SessionFacts]:
    """Describe every client that is there now."""
    for session in proxy.sessions():
        yield SessionFacts(
            port=session.service.value,
            client=session.client,
            state=session.state,
            age_s=round(session.age_s, 3),
            node=session.node,
            epoch=session.epoch,
            path=session.path,
            user=session.user,
            database=session.database,
            application=session.application,
            encryption=session.encryption,
            bytes_to_server=session.bytes_to_server,
            bytes_to_client=session.bytes_to_client,
        )


class Maintenance:
    """Takes this node out of service for clients, and back in."""

    def __init__(self, proxy: Proxy, loop: Loop, drain_ms: Callable[[], int]) -> None:
        self._proxy = proxy
        self._loop = loop
        self._drain_ms = drain_ms

    def drain(self, timeout_ms: int | None, *, dry_run: bool = False) -> Outcome:
        """Let nobody new in here, nor by other proxies to this node's standby."""
        wait_ms = self._drain_ms() if timeout_ms is None else timeout_ms
        if not dry_run:
            self._proxy.drain(wait_ms / 1_000)
            self._loop.set_draining(True)
            log.info("draining", timeout_ms=wait_ms)
        left = self._proxy.snapshot().connections
        return Done(facts={"draining": True, "timeout_ms": wait_ms, "sessions": left})

    def leave(self, timeout_ms: int) -> None:
        """Drain because the daemon stops: sessions end as soon as they are idle."""
        self._proxy.drain(timeout_ms / 1_000, idle_first=True)
        self._loop.set_draining(True)

    def undrain(self, *, dry_run: bool = False) -> Outcome:
        """Let clients in again."""
        if not dry_run:
            self._proxy.undrain()
            self._loop.set_draining(False)
            log.info("drained_no_more")
        return Done(facts={"draining": False})
