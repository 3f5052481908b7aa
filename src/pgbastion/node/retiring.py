"""How this node's PostgreSQL ends with its daemon, when that is told to stop."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from pgbastion.api.ports import Done
from pgbastion.clock import boottime_ms, wall_text
from pgbastion.config.model import Config
from pgbastion.control.restart_and_copy import RELEASE_WAIT_MS
from pgbastion.control.sync_standbys import commits_wait_for
from pgbastion.ha.host import Host
from pgbastion.model.cluster import Assignment
from pgbastion.model.commands import Release
from pgbastion.model.ids import Epoch, Incarnation, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.node.addresses import AnyAddresses
from pgbastion.node.ordering import Ordering
from pgbastion.node.page import SharedPage
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.guard_link import GuardLink

RELEASE_DEADLINE_S: Final = 3.0
# Besides what wakes it: the end of a lease, or of a leader, is no event.
LOOK_AGAIN_S: Final = 0.25

log = get_logger("node")


class Retiring:
    """Hands the role on, stops the server, releases the epoch: in this order.

    Args:
        config: Returns the configuration; a reload may have changed it.
        holds_lease: Whether an epoch's lease is held here, with time left.
        hold: Has the engine renew an epoch's lease; 0: none.
        say_leaving: Tells everybody that this node's server is about to end.
        guard: The postmaster's parent; None: a witness.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        *,
        host: Host,
        ordering: Ordering,
        guard: GuardLink | None,
        addresses: AnyAddresses,
        page: SharedPage,
        incarnation: Incarnation,
        holds_lease: Callable[[Epoch], bool],
        hold: Callable[[Epoch], None],
        say_leaving: Callable[[], None],
    ) -> None:
        self._config = config
        self._host = host
        self._ordering = ordering
        self._guard = guard
        self._addresses = addresses
        self._page = page
        self._incarnation = incarnation
        self._holds_lease = holds_lease
        self._hold = hold
        self._say_leaving = say_leaving
        self._moved = asyncio.Event()

    def note(self) -> None:
        """Look again whether the role has moved: something has changed."""
        self._moved.set()

    async def hand_role_on(self) -> None:
        """Have a standby take the role before this daemon stops, if one is ready."""
        config, epoch = self._config(), self._host.state.epoch
        if not self._holds_lease(epoch) or self._ordering.best() is None:
            return
        limit_ms = config.failover.stop_timeout
        drain_ms = min(config.proxy.drain_timeout, limit_ms // 2)
        done = await self._ordering.switch_over(
            None, drain_ms, cause="the daemon was told to stop"
        )
        log.info("handing_role_on", answer=repr(done))
        if not isinstance(done, Done):
            return
        led_ms = boottime_ms()

        def nobody_is_left() -> bool:
            """Tell whether nobody led for as long as a lease: nobody can be next."""
            nonlocal led_ms
            if self._host.raft().leader:
                led_ms = boottime_ms()
            return boottime_ms() - led_ms > config.timings.lease_ms

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_ms / 1_000):
                await self._until(
                    lambda: self._hand_over_is_over(epoch) or nobody_is_left()
                )
        if not self._hand_over_is_over(epoch):
            log.warning("role_not_handed_on", nobody_leads=nobody_is_left())

    async def leave_sync_set(self) -> None:
        """Wait until no commit waits for this node's server, which is about to end.

        The primary hears of it by this node's report, and makes the set smaller. In
        strict mode a set that would become too small stays as it is: there they wait.
        """
        own = NodeId(self._config().node.name)
        if not commits_wait_for(self._host.state, own):
            return
        self._say_leaving()
        left = True
        try:
            async with asyncio.timeout(RELEASE_WAIT_MS / 1_000):
                await self._until(lambda: not commits_wait_for(self._host.state, own))
        except TimeoutError:
            left = False
        log.info("sync_set_left", left=left)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), LOOK_AGAIN_S)

    def _hand_over_is_over(self, epoch: Epoch) -> bool:
        """Tell whether another node took the role, or the order failed."""
        state = self._host.state
        held = state.assignment
        if held is not None and held.epoch > epoch and held.opened:
            return True
        return state.order is None and state.epoch == epoch

    async def stop_postgres(self) -> None:
        """Stop PostgreSQL cleanly; a primary releases its epoch first."""
        if self._guard is None:
            return
        held = self._host.state.assignment
        own = held is not None and held.member_id == self._host.raft().member_id
        await self._addresses.drop()
        await self._guard.stop(fast_ms=self._config().failover.stop_timeout)
        if own and held is not None and held.live:
            await self._release(held)
        await self._guard.quit()

    async def _release(self, held: Assignment) -> None:
        """Give the epoch back: PostgreSQL has stopped, another node may go on."""
        if self._guard is None or held.incarnation != self._incarnation:
            return
        await self._guard.end_epoch(held.epoch)
        self._page.latch_release(held.epoch)
        self._hold(Epoch(0))
        command = Release(
            epoch=held.epoch,
            incarnation=self._incarnation,
            lsn=None,
            cause=Reason.STOPPED_BY_OPERATOR,
            at=wall_text(),
        )
        outcome = await self._host.propose(command, timeout_s=RELEASE_DEADLINE_S)
        log.info("epoch_released", epoch=held.epoch, outcome=outcome)
