"""The node's virtual addresses: the manager, joined with what they are tied to."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pgbastion.api.ports import Refused
from pgbastion.clock import boottime_ms, wall_text
from pgbastion.config.addresses import VipSection
from pgbastion.config.model import Config
from pgbastion.control.addresses import CAUSE, decide_hand_on
from pgbastion.errors import PgBastionError, VipError
from pgbastion.ha.host import Host
from pgbastion.model.addresses import (
    AddressCounts,
    AddressReport,
    AddressStatus,
    AddressView,
    Holding,
    VirtualAddress,
)
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.node.ordering import Ordering
from pgbastion.node.replica_addresses import ReplicaAddresses
from pgbastion.observe.logging import get_logger
from pgbastion.platform.choice import current
from pgbastion.postgres.guard_link import GuardLink
from pgbastion.vip.hooks import Hook
from pgbastion.vip.manager import Leave, TellGuard, VipManager

LOOK_S: Final = 1.0
START_DEADLINE_S: Final = 5.0

log = get_logger("vip")


class NodeAddresses:
    """The virtual addresses of this node; fulfils ``ha.ports.Addresses``.

    Args:
        node: This node's name.
        manager: Sets and watches those that follow the primary role.
        replicas: Those for replicas.
        host: The replicated state and the reports.
        ordering: Hands the role on where that helps.
    """

    def __init__(
        self,
        node: NodeId,
        manager: VipManager,
        replicas: ReplicaAddresses,
        *,
        host: Host,
        ordering: Ordering,
    ) -> None:
        self._node = node
        self._manager = manager
        self._replicas = replicas
        self._host = host
        self._ordering = ordering
        self._path_fault: Callable[[], str] = str
        self._holding = Holding(epoch=Epoch(0))
        self._held_since_ms = 0
        self._problem_since_ms = 0

    def end_sessions_by(self, leave: Leave) -> None:
        """Have ``leave`` end clients' sessions before their address goes."""
        self._manager.leave = leave
        self._replicas.end_sessions_by(leave)

    def lead_to(self, fault: Callable[[], str]) -> None:
        """Have ``fault`` say why clients who come by an address would get nowhere."""
        self._path_fault = fault

    @property
    def may_be_set(self) -> bool:
        """Whether one that follows the primary role is, or may be, on this node."""
        return self._manager.may_be_set

    def want(self, holding: Holding) -> None:
        """Have them here, or not."""
        if holding.epoch != self._holding.epoch:
            self._held_since_ms = boottime_ms()
        self._holding = holding
        self._manager.want(holding)

    def want_replicas(
        self, holdings: Mapping[str, Holding], seen: Mapping[str, int]
    ) -> None:
        """Have these addresses for replicas here, and no others."""
        self._replicas.want(holdings, seen)

    async def drop(self) -> None:
        """Remove those that follow the primary role, for good in this epoch."""
        await self._manager.drop()

    def report(self) -> AddressReport:
        """Return what the other nodes are told."""
        own, fault = self._manager.report(), self._path_fault()
        return replace(
            own,
            problem=own.problem or (fault if self._manager.statuses() else ""),
            replicas=tuple(
                replace(report, problem=report.problem or fault)
                for report in self._replicas.reports()
            ),
        )

    def statuses(self) -> tuple[AddressStatus, ...]:
        """Return how each address stands here."""
        return (*self._manager.statuses(), *self._replicas.statuses())

    def counts(self) -> AddressCounts:
        """Return what has happened so far."""
        return sum(self._replicas.counts(), self._manager.counts())

    async def start(self) -> None:
        """Remove what an earlier life left behind; what fails is tried again."""
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await self._manager.start()
                await self._replicas.start()
        except (VipError, TimeoutError) as exc:
            log.error("vip_of_an_earlier_life", error=str(exc) or "not found out")

    async def run(self) -> None:
        """Keep them, and hand the role on where another node could have them."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._manager.run(), name="addresses")
            group.create_task(self._replicas.run(), name="addresses-for-replicas")
            group.create_task(self._hand_on(), name="addresses-hand-on")

    async def close(self) -> None:
        """Remove them and close everything."""
        for part in (self._replicas, self._manager):
            with contextlib.suppress(VipError):
                await part.close()

    async def _hand_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._consider()
            except PgBastionError as exc:
                log.warning("vip_role_not_handed_on", error=str(exc))

    async def _consider(self) -> None:
        """Have another node take the role over if only that one can have them."""
        own = self.report()
        if not own.problem or not self._holding.allowed:
            self._problem_since_ms = 0
            return
        self._problem_since_ms = self._problem_since_ms or boottime_ms()
        target = decide_hand_on(self._view(own))
        if target is None:
            return
        log.warning("vip_role_handed_on", to=target, why=own.problem)
        outcome = await self._ordering.switch_over(target, 0, cause=CAUSE)
        if isinstance(outcome, Refused):
            log.warning("vip_role_stays", why=outcome.message)

    def _view(self, own: AddressReport) -> AddressView:
        state = self._host.state
        reports = {
            node: received.report.addresses
            for node, received in self._host.reports.items()
            if received.report.addresses is not None
        }
        reports[self._node] = own
        return AddressView(
            now_ms=boottime_ms(),
            node=self._node,
            epoch=self._holding.epoch,
            held_since_ms=self._held_since_ms,
            reports=reports,
            problem_since_ms=self._problem_since_ms,
            handed_on_at=tuple(o.at for o in state.orders if o.cause == CAUSE),
            at=wall_text(),
            fit=self._ordering.fit(),
        )


class NoAddresses:
    """A node without virtual addresses; fulfils ``ha.ports.Addresses``."""

    may_be_set = False

    def end_sessions_by(self, leave: Leave) -> None:
        """Do nothing: there are none."""

    def lead_to(self, fault: Callable[[], str]) -> None:
        """Do nothing: there are none."""

    def want(self, holding: Holding) -> None:
        """Do nothing: there are none."""

    def want_replicas(
        self, holdings: Mapping[str, Holding], seen: Mapping[str, int]
    ) -> None:
        """Do nothing: there are none."""

    async def drop(self) -> None:
        """Do nothing: there are none."""

    def report(self) -> None:
        """Tell nobody of any."""

    def statuses(self) -> tuple[AddressStatus, ...]:
        """Return that there are none."""
        return ()

    def counts(self) -> None:
        """Return that there are none."""

    async def start(self) -> None:
        """Do nothing: there are none."""

    async def run(self) -> None:
        """Have nothing to do."""

    async def close(self) -> None:
        """Do nothing: there are none."""


AnyAddresses = NodeAddresses | NoAddresses


def build_addresses(
    config: Config,
    *,
    guard: GuardLink | None,
    permit: Callable[[Epoch], bool],
    on_change: Callable[[], None],
    host: Host,
    ordering: Ordering,
) -> AnyAddresses:
    """Build the part: none where no address is configured, or not for such a node."""
    section = config.vip
    if section is None or not section.all:
        return NoAddresses()
    if not current().has_addresses:
        log.warning("vip_unsupported", platform=current().name)
        return NoAddresses()
    if guard is None:
        # A witness never has the role.
        return NoAddresses()
    managers = _Managers(config, section, guard=guard, on_change=on_change)
    replicas = ReplicaAddresses(
        section.replicas,
        make=lambda address: managers.of_replica(address, host),
        fallback=section.replica_fallback,
    )
    name = NodeId(config.node.name)
    manager = managers.of_primary(permit)
    return NodeAddresses(name, manager, replicas, host=host, ordering=ordering)


class _Managers:
    """Makes the managers of a node's addresses."""

    def __init__(
        self,
        config: Config,
        section: VipSection,
        *,
        guard: GuardLink,
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._section = section
        self._guard = guard
        self._on_change = on_change
        self._told = Epoch(0)

    def of_primary(self, permit: Callable[[Epoch], bool]) -> VipManager:
        """Return the manager of those that follow the primary role."""
        return self._make(self._section.primary, self._tell_once, permit)

    def of_replica(self, address: VirtualAddress, host: Host) -> VipManager:
        """Return the manager of one address for replicas."""

        def stands(serial: Epoch) -> bool:
            placed = host.state.placement(address.address)
            return placed is not None and placed.serial == serial and not placed.ended

        return self._make((address,), self._tell_end, stands)

    async def _tell_once(self, names: tuple[str, ...], holding: Holding) -> None:
        """Name them once an epoch: when its lease ends the guard knows itself."""
        if holding.epoch != self._told:
            await self._guard.remove_at_end(names)
            self._told = holding.epoch

    async def _tell_end(self, names: tuple[str, ...], holding: Holding) -> None:
        for name in names:
            await self._guard.keep_address(name, holding.until_ns)

    def _make(
        self,
        addresses: tuple[VirtualAddress, ...],
        tell_guard: TellGuard,
        permit: Callable[[Epoch], bool],
    ) -> VipManager:
        from pgbastion.vip.netlink import Netlink

        return VipManager(
            addresses,
            netlink=Netlink(),
            renew_ms=self._section.renew_interval,
            hook=self._hook(),
            tell_guard=tell_guard,
            permit=permit,
            on_change=self._on_change,
        )

    def _hook(self) -> Hook | None:
        section, config = self._section, self._config
        if section.hook is None:
            return None
        return Hook(
            section.hook,
            timeout_s=section.hook_timeout / 1_000,
            environment={
                "PGBASTION_NODE": config.node.name,
                "PGBASTION_ADDRESS": config.node.address,
                "PGBASTION_CLUSTER": config.cluster.name,
            },
        )
