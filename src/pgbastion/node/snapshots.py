"""What a node knows at one instant, taken for those who ask it."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from pgbastion._build import COMMIT, VERSION
from pgbastion.clock import NS_PER_MS, boottime_ms
from pgbastion.control.routing import Routing
from pgbastion.ha.host import Host
from pgbastion.ha.loop import Loop
from pgbastion.ha.ports import RaftEngine, RaftStatus
from pgbastion.model.actions import Decision
from pgbastion.model.cluster import Member
from pgbastion.model.ids import Epoch, MemberId
from pgbastion.model.snapshot import (
    ApiCertificateSnapshot,
    CertificateSnapshot,
    DecisionSnapshot,
    FenceCounts,
    GossipSnapshot,
    LeaseSnapshot,
    NodeSnapshot,
    ProxyCounts,
    RaftPeer,
    RaftSnapshot,
    RouteSnapshot,
)
from pgbastion.node.addresses import AnyAddresses
from pgbastion.node.proxying import counts_of, sessions_of
from pgbastion.observe.gaps import GapMeter
from pgbastion.proxy.listener import Proxy

LAG_EVERY_S: Final = 0.5


class LoopLag:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        self.ms = 0.0

    async def run(self) -> None:
        """Measure for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.ms = max((loop.time() - due) * 1_000, 0.0)


class Snapshots:
    """Takes snapshots of one node."""

    def __init__(
        self,
        *,
        host: Host,
        engine: RaftEngine,
        loop: Loop,
        proxy: Proxy,
        own: Member,
        cluster_name: str,
        report_max_ms: int,
        lag_max_bytes: int,
        gaps: GapMeter,
        certificate: Callable[[], CertificateSnapshot | None],
        api_certificate: Callable[[], ApiCertificateSnapshot | None],
        addresses: AnyAddresses,
        gossip: Callable[[], GossipSnapshot],
    ) -> None:
        self._host = host
        self._engine = engine
        self._loop = loop
        self._proxy = proxy
        self._own = own
        self._cluster_name = cluster_name
        self.report_max_ms = report_max_ms
        self.lag_max_bytes = lag_max_bytes
        self._gaps = gaps
        self._certificate = certificate
        self._api_certificate = api_certificate
        self._addresses = addresses
        self._gossip = gossip
        self.lag = LoopLag()
        self.routing: Routing | None = None

    def take(self) -> NodeSnapshot:
        """Return what the node knows now."""
        now_ms = boottime_ms()
        state = self._host.state
        status = self._engine.status()
        fresh_ms = self._loop.view_fresh_until_ns // NS_PER_MS
        routing, fencer = self.routing, self._host.fencer
        return NodeSnapshot(
            now_ms=now_ms,
            node=self._own.name,
            member_id=MemberId(status.member_id),
            witness=self._own.is_witness,
            state=state,
            reports=self._host.reports,
            report_max_ms=self.report_max_ms,
            cluster_name=self._cluster_name,
            lag_max_bytes=self.lag_max_bytes,
            raft=_raft(status),
            lease=LeaseSnapshot(
                epoch=Epoch(self._loop.sight.lease_epoch()),
                left_ms=self._loop.sight.lease_left_ms(),
            ),
            view_left_ms=max(fresh_ms - now_ms, 0),
            node_decision=_decision(self._loop.node_decision),
            cluster_decision=_decision(self._loop.cluster_decision),
            routes=RouteSnapshot()
            if routing is None
            else RouteSnapshot(
                primary=routing.primary,
                primary_reason=routing.primary_reason,
                replicas=routing.replicas,
                replica_reason=routing.replica_reason,
            ),
            count_proxy=self._proxy_counts,
            claims=self._loop.split.claims,
            certificate=self._certificate(),
            api_certificate=self._api_certificate(),
            gossip=self._gossip(),
            version=VERSION,
            commit=COMMIT,
            gaps=self._gaps.gaps,
            addresses=self._addresses.statuses(),
            address_counts=self._addresses.counts(),
            records=self._loop.recorder.records,
            fences=fencer.counts if fencer is not None else FenceCounts(),
            loop_lag_ms=self.lag.ms,
        )

    def _proxy_counts(self) -> ProxyCounts:
        return counts_of(self._proxy.snapshot(), partial(sessions_of, self._proxy))


def _raft(status: RaftStatus) -> RaftSnapshot:
    leads = status.role == "leader"
    return RaftSnapshot(
        role=status.role,
        term=status.term,
        leader=MemberId(status.leader),
        voters=tuple(MemberId(m) for m in status.voters),
        learners=tuple(MemberId(m) for m in status.learners),
        committed=status.committed,
        applied=status.applied,
        last_index=status.last_index,
        writing_ms=status.writing_ms,
        peers=tuple(
            RaftPeer(
                member_id=MemberId(member_id),
                address=peer.address,
                matched=peer.matched if leads else None,
            )
            for member_id, peer in status.peers.items()
        ),
    )


def _decision(decision: Decision) -> DecisionSnapshot:
    return DecisionSnapshot(reason=decision.reason, detail=decision.detail)
