"""What clients, people and programs see of a node: the proxy, the API, the metrics."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from pgbastion.api.app import build_api, build_metrics_api
from pgbastion.api.ports import Tokens
from pgbastion.api.server import ApiServer
from pgbastion.api.tls import ApiTls, TlsFiles
from pgbastion.clock import boottime_ms
from pgbastion.config.model import Config
from pgbastion.config.secrets import TOKEN_FILE_NAME, Secrets
from pgbastion.consensus.certificates import CertificateFacts
from pgbastion.control.routing import Routing
from pgbastion.errors import ProxyError
from pgbastion.ha.host import Host
from pgbastion.ha.loop import Loop
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.cluster import Member
from pgbastion.model.snapshot import (
    ApiCertificateSnapshot,
    CertificateSnapshot,
    GossipSnapshot,
)
from pgbastion.node.addresses import AnyAddresses
from pgbastion.node.cancels import FarCancels
from pgbastion.node.commands import NodeCommands
from pgbastion.node.members import MemberOrders
from pgbastion.node.notifications import Notifications
from pgbastion.node.ordering import Ordering
from pgbastion.node.proxying import (
    Maintenance,
    binding_of,
    limits_of,
    routes_of,
    tls_of,
)
from pgbastion.node.settings_change import SettingsChange
from pgbastion.node.snapshots import Snapshots
from pgbastion.node.socket_passing import SocketPassing
from pgbastion.observe.gaps import GapMeter
from pgbastion.observe.logging import get_logger
from pgbastion.observe.metrics import Metrics
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import DataPath, Routes, Service

PROXY_WARNINGS: Final = frozenset(
    {
        "proxy_accept_paused",
        "proxy_certificate_refused",
        "proxy_descriptors_short",
        "proxy_kernel_path_failed",
        "proxy_stream_broken",
        "proxy_task_failed",
    }
)
PROXY_STATES: Final = frozenset({"proxy_listening", "proxy_data_path"})

log = get_logger("front")


class Front:
    """The ports of one node.

    Args:
        reload: Reads the configuration again; returns what came of it, in words.
        certificate: What this node shows to the others; None: plain transport.
        gossip: What gossip has told.
        on_ready: Called once, when this node first knows a primary to lead clients to.
    """

    def __init__(
        self,
        config: Config,
        secrets: Secrets,
        *,
        host: Host,
        engine: RaftEngine,
        loop: Loop,
        own: Member,
        members: MemberOrders,
        ordering: Ordering,
        settings_change: SettingsChange,
        reload: Callable[[bool], Awaitable[str]],
        on_ready: Callable[[], None],
        certificate: Callable[[], CertificateSnapshot | None],
        addresses: AnyAddresses,
        gossip: Callable[[], GossipSnapshot],
        notifications: Notifications,
    ) -> None:
        self._config, self._secrets = config, secrets
        self._notifications, self._on_ready = notifications, on_ready
        self._is_ready, self._revision = False, 0
        self._routes: Routes | None = None
        self.proxy = _proxy(config, FarCancels(engine, host))
        self._loop = loop
        self.sockets = SocketPassing(config.run_dir, lambda: self.proxy.listening)
        self.tls = _api_tls(config)
        self.maintenance = Maintenance(
            self.proxy, loop, lambda: self._config.proxy.drain_timeout
        )
        self.gaps = GapMeter(boottime_ms)
        loop.outages.sessions = self.primary_sessions
        self.snapshots = Snapshots(
            host=host,
            engine=engine,
            loop=loop,
            proxy=self.proxy,
            own=own,
            cluster_name=config.cluster.name,
            report_max_ms=3 * config.timings.probe_ms,
            lag_max_bytes=config.failover.max_lag_threshold,
            gaps=self.gaps,
            certificate=certificate,
            api_certificate=self._api_certificate,
            addresses=addresses,
            gossip=gossip,
        )
        commands = partial(
            NodeCommands,
            host=host,
            own=own,
            members=members,
            ordering=ordering,
            settings_change=settings_change,
            maintenance=self.maintenance,
            reload=reload,
        )
        self.passed_on = commands(engine=None)
        """Carries out what another node passed on."""
        self._servers = self._make_servers(commands(engine=engine))

    def _make_servers(self, commands: NodeCommands) -> tuple[ApiServer, ApiServer]:
        api, metrics = self._config.api, self._config.metrics
        render = Metrics(lambda: self._config.metrics.patroni_names).render
        take = self.snapshots.take
        return (
            ApiServer(
                build_api(
                    take,
                    commands,
                    tokens=self._tokens,
                    render_metrics=render,
                    requests_per_second=lambda: self._config.api.requests_per_second,
                    events=self._notifications.events,
                ),
                host=api.bind_address,
                port=api.port,
                tls=self.tls,
            ),
            ApiServer(
                build_metrics_api(take, tokens=self._tokens, render_metrics=render),
                host=metrics.bind_address,
                port=metrics.port,
                tls=self.tls,
            ),
        )

    def _api_certificate(self) -> ApiCertificateSnapshot | None:
        return self.tls.snapshot() if self.tls is not None else None

    def _tokens(self) -> Tokens:
        config = self._config
        place = config.api.auth_token_file or config.raft.data_dir / TOKEN_FILE_NAME
        return Tokens(
            write=self._secrets.write_token,
            read=self._secrets.read_token,
            place=str(place),
        )

    async def start(self) -> None:
        """Listen on all ports.

        Raises:
            PgBastionError: One of them cannot be had.
        """
        await self.proxy.start(self.sockets.inherited)
        self.sockets.start()
        for server in self._servers:
            await server.start()

    def reconfigure(self, config: Config, secrets: Secrets) -> None:
        """Take other limits; sessions that are open stay."""
        self._config, self._secrets = config, secrets
        self.snapshots.lag_max_bytes = config.failover.max_lag_threshold
        self._notifications.reconfigure(config)
        self.proxy.set_limits(limits_of(config.proxy))
        self._loop.set_readers(
            lag_max_bytes=config.proxy.max_replica_lag,
            fallback=config.proxy.replica_fallback == "primary",
        )
        try:
            self.proxy.rebind(binding_of(config.proxy))
            self.sockets.keep()
            self.proxy.set_tls(tls_of(config.proxy))
        except ProxyError as exc:
            log.warning("proxy_not_reloaded", error=str(exc))

    async def stop(self) -> None:
        """Close all ports and every session."""
        self.sockets.close()
        self._notifications.events.close()
        await self.proxy.stop(0)
        for server in self._servers:
            await server.stop()

    def primary_sessions(self) -> int:
        """Return how many sessions with the primary this proxy has."""
        return self.proxy.sessions_through(Service.PRIMARY)

    def route(self, routing: Routing, expires_ns: int) -> None:
        """Send clients there, as long as the knowledge behind it may be used."""
        self.snapshots.routing = routing
        self.gaps.note(has_primary=routing.primary is not None)
        known = self.snapshots.take()
        self._notifications.note_role(known.role, tuple(c.node for c in known.claims))
        routes = routes_of(routing, self._revision)
        if self._routes is not None and routes == self._routes:
            self.proxy.extend(expires_ns)
            return
        self._revision += 1
        self._routes = replace(routes, revision=self._revision)
        self.proxy.set_routes(replace(self._routes, expires_ns=expires_ns))
        if not self._is_ready and routes.primary is not None:
            self._is_ready = True
            self._on_ready()


def _api_tls(config: Config) -> ApiTls | None:
    api = config.api
    if api.tls_cert is None or api.tls_key is None:
        return None
    files = TlsFiles(cert=api.tls_cert, key=api.tls_key, client_ca=api.tls_client_ca)
    return ApiTls(files, lambda pem: CertificateFacts.read(pem).not_after_s)


def _proxy(config: Config, cancels: FarCancels) -> Proxy:
    proxy = config.proxy
    return Proxy(
        binding=binding_of(proxy),
        limits=limits_of(proxy),
        tls=tls_of(proxy),
        on_event=_log_of_proxy,
        on_unknown_cancel=cancels.ask,
        data_path=DataPath(proxy.data_path),
    )


def _log_of_proxy(event: str, fields: Mapping[str, object]) -> None:
    """Record what the proxy does; what concerns one session is a detail."""
    if event in PROXY_WARNINGS:
        log.warning(event, **fields)
    elif event in PROXY_STATES:
        log.info(event, **fields)
    else:
        log.debug(event, **fields)
