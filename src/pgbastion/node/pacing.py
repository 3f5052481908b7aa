"""Has a node go by the timings of the cluster's profile, whatever its file says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pgbastion.clock import NS_PER_MS, boottime_ms
from pgbastion.config.timings import Timings
from pgbastion.errors import PgBastionError
from pgbastion.ha.sight import Sight
from pgbastion.model.cluster import ClusterState
from pgbastion.model.profile import Profile
from pgbastion.node.page import SharedPage
from pgbastion.observe.logging import get_logger

REMEDY: Final = "it is tried again; look whether this node's guard runs"

log = get_logger("node")


class Pacing:
    """Takes the profile's timings over as soon as the log says so.

    A holder waits until they fit. Slower ones need a lease that is as long: its stop
    would else be due before the lease ends. Quicker ones need a server that was asked
    just now: an answer as old as it could be before would look like none.

    Args:
        sight: Tells the others by which policy this node goes.
        page: Tells a later daemon.
        state: Returns the replicated state.
        is_confirmed: Tells whether that was once known to be the newest.
        timings: What this node goes by until it knows the cluster's profile.
        timings_of: Returns a profile's timings on this node.
        look: Has the server asked so often, in milliseconds.
        refuses: Returns why this node cannot go by them; "": it can.
        prepare: Is carried out before other timings are taken.
        take: Has every part go by other timings.
    """

    def __init__(
        self,
        sight: Sight,
        page: SharedPage,
        *,
        state: Callable[[], ClusterState],
        is_confirmed: Callable[[], bool],
        timings: Timings,
        timings_of: Callable[[Profile], Timings],
        look: Callable[[int], None],
        refuses: Callable[[Timings], str],
        prepare: Callable[[Timings], Awaitable[None]],
        take: Callable[[Timings], None],
    ) -> None:
        self._sight = sight
        self._page = page
        self._state = state
        self._is_confirmed = is_confirmed
        self._timings = timings
        self._timings_of = timings_of
        self._look = look
        self._refuses = refuses
        self._prepare = prepare
        self._take = take
        self._noted = asyncio.Event()
        sight.policy_revision = -1

    def note(self) -> None:
        """See soon whether other timings are due: state or lease have changed."""
        self._noted.set()

    async def run(self) -> None:
        """Follow the cluster's profile for ever."""
        while True:
            await self._noted.wait()
            self._noted.clear()
            try:
                await self._follow()
            except PgBastionError as exc:
                log.warning("timings_not_taken", error=str(exc), remedy=REMEDY)

    async def _follow(self) -> None:
        policy = self._state().policy
        if policy is None:
            return
        wanted = self._timings
        if policy.profile is not None:
            wanted = self._timings_of(policy.profile)
        why = self._refuses(wanted) if wanted != self._timings else ""
        if why and why != self._sight.unpaced:
            log.warning("profile_refused", profile=policy.profile, reason=why)
        self._sight.unpaced = why
        if why:
            return
        changed = wanted != self._timings
        if changed:
            if not self._fits_now(wanted):
                # The next renewal asks again.
                return
            await self._prepare(wanted)
            log.info("timings_taken", profile=policy.profile, lease_ms=wanted.lease_ms)
        first = self._sight.policy_revision < 0
        self._timings, self._sight.policy_revision = wanted, policy.revision
        if changed or first:
            self._take(wanted)
        self._page.note_policy(policy.revision, newest=self._is_confirmed())

    def _fits_now(self, wanted: Timings) -> bool:
        left_ms = self._sight.lease_left_ms()
        quicker = wanted.lease_ms < self._timings.lease_ms
        if quicker:
            self._look(wanted.probe_ms)
        if left_ms <= 0:
            return True
        if quicker:
            answer_ms = boottime_ms() - self._page.read().evidence_ns // NS_PER_MS
            return answer_ms <= wanted.evidence_max_ms - wanted.probe_ms
        # As if a renewal of the slower pace were just due, and took its time.
        return left_ms >= wanted.lease_ms - wanted.renew_ms - wanted.deadline_ms
