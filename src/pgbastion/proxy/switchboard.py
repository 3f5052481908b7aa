"""Which server each port leads to now, and which sessions have to end because of it.

Everything here is synchronous: between a change of the routes and the end of the
sessions that it outdates nothing else runs.
"""

from asyncio import AbstractEventLoop, Handle, TimerHandle
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from pgbastion.clock import boottime_ns
from pgbastion.proxy.refusals import Refusal, render_refusal
from pgbastion.proxy.relay import Engagement, Lease
from pgbastion.proxy.routes import (
    NO_ROUTES,
    Backend,
    Limits,
    Routes,
    Service,
    Traffic,
)
from pgbastion.proxy.wire import CancelKey, SqlState

OnEvent = Callable[[str, Mapping[str, object]], None]

_NS_PER_S: Final = 1_000_000_000
# The loop's timers stand still while the machine is suspended; the lease does not. So
# the expiry is looked at this often at least; relays look at it before every move.
_EXPIRY_LOOK_S: Final = 1.0
# A primary that could not be reached is tried again this soon, and by this many of the
# waiting clients a second at most: each try is a line in its log.
_RETRY_S: Final = 0.2
_RETRIES_PER_S: Final = 50
# Held clients that go on before the loop's other work has its turn: each connects.
RELEASED_AT_ONCE: Final = 16
UNKNOWN: Final = "Whether a commit that was under way took effect is not known here."


class Session(Protocol):
    """What can be ended: a relay, or a client that is on its way to a server."""

    def cut(self) -> None:
        """Reset the server's side at once."""

    def dismiss(self, last_words: bytes) -> None:
        """End the client's side, after `cut`."""


class Held(Protocol):
    """A client in the hold queue."""

    since_s: float
    """When it came, on the loop's clock."""
    service: Service

    def release(self) -> None:
        """Let the client look for a server again."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The client has to wait for a server."""


@dataclass(slots=True)
class Tally:
    """Counters of one server through one port."""

    sessions: int = 0
    sessions_total: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    failures_total: int = 0


class Switchboard:
    """Holds the routes, the sessions that they allow and the clients that wait."""

    def __init__(
        self, loop: AbstractEventLoop, on_event: OnEvent, limits: Limits
    ) -> None:
        self._loop = loop
        self._on_event = on_event
        self.limits = limits
        self._settled_s = 0.0
        self._next_try_s = 0.0
        self._routes = NO_ROUTES
        self._primary_lease = Lease(0)
        self._no_lease = Lease()
        self._sessions: dict[Session, Engagement] = {}
        self._tallies: dict[tuple[Service, str], Tally] = {}
        self._held: dict[Held, None] = {}
        # Ports whose held clients may go on, and the turn in which some more will.
        self._released: set[Service] = set()
        self._release_turn: Handle | None = None
        self._keys: dict[CancelKey, Backend] = {}
        self._turn = 0
        self._expiry_timer: TimerHandle | None = None
        # Servers that are taken out, and when what is left of their sessions ends.
        self._drains: dict[Backend, TimerHandle] = {}
        self._expired = True
        self.on_answer: dict[Service, Callable[[], None]] = {}
        """Whom to tell when a server has a new client of a port."""
        self.superseded_total = 0
        self.held_total = 0
        self.held_seconds_total = 0.0

    @property
    def routes(self) -> Routes:
        """What was set last; its expiry may have been extended since."""
        return self._routes

    @property
    def held(self) -> int:
        """How many clients wait for a server."""
        return len(self._held)

    @property
    def held_oldest_s(self) -> float:
        """How long the one that came first has been here; 0: nobody waits."""
        came_s = min((client.since_s for client in self._held), default=None)
        return 0.0 if came_s is None else self._loop.time() - came_s

    @property
    def sessions(self) -> Collection[Session]:
        """All that are with a server or on the way to one."""
        return self._sessions.keys()

    def looks_further(
        self, service: Service, state: str, avoid: Collection[Backend]
    ) -> bool:
        """Tell whether a client whom a server turns away looks for another one.

        Args:
            service: The port it came to.
            state: The SQLSTATE that the server answered with.
            avoid: That server, and others that failed this client.
        """
        if service is Service.PRIMARY:
            # It starts, or it ends: the client waits for it, or for the next primary.
            waits = self._routes.park or self._routes.hold or self._routes.patient
            return waits and state == SqlState.CANNOT_CONNECT_NOW
        # A standby that answers so has nothing against the client.
        turned_down = SqlState.CANNOT_CONNECT_NOW, SqlState.TOO_MANY_CONNECTIONS
        return state in turned_down and isinstance(self.choose(service, avoid), Backend)

    def primary_usable(self) -> bool:
        """Tell whether the primary may be talked to at this instant."""
        return self._routes.primary is not None and not self._primary_lease.is_over()

    def set_routes(self, routes: Routes) -> None:
        """Take new routes: end what they outdate, then let waiting clients go on."""
        self._let_readers_wait(routes)
        taken_out = routes.draining - self._routes.draining
        self._routes = routes
        outdated = [
            session
            for session, engagement in self._sessions.items()
            if _is_outdated(engagement, routes)
        ]
        self._supersede(outdated, _superseded_because(routes))
        # Not before: a new expiry must never prolong the life of an outdated session.
        self._primary_lease.set(routes.expires_ns)
        self._watch_expiry()
        self._release_held()
        for backend in tuple(self._drains):
            if backend not in routes.draining:
                self._drains.pop(backend).cancel()
        for backend in taken_out:
            self._drains[backend] = self._loop.call_later(
                self.limits.drain_s, self._end_drained, backend
            )

    def extend(self, expires_ns: int) -> None:
        """Raise the expiry; it never goes back this way."""
        if expires_ns <= self._primary_lease.expires_ns:
            return
        self._primary_lease.set(expires_ns)
        # While it runs, the timer that is set looks at the raised expiry by itself.
        if self._expired:
            self._watch_expiry()
            self._release_held()

    def expire(self) -> None:
        """End every session with the primary if the view is too old by now."""
        if not self._primary_lease.is_over() or self._expired:
            return
        self._expired = True
        bound = [s for s, engagement in self._sessions.items() if engagement.bound]
        self._on_event(
            "proxy_view_expired",
            {"epoch": self._routes.epoch, "sessions": len(bound)},
        )
        self._supersede(
            bound, "this node has not heard from the cluster for longer than the lease"
        )
        self._release_held()

    def choose(
        self, service: Service, avoid: Collection[Backend]
    ) -> Backend | Refusal | Hold:
        """Return where a new client of ``service`` goes.

        Args:
            service: The port it came to.
            avoid: Servers that did not answer this client.
        """
        if service is Service.PRIMARY:
            return self._choose_primary(avoid)
        allowed = self._allowed(service)
        candidates = [backend for backend in allowed if backend not in avoid]
        if not candidates:
            if self._routes.hold or self._loop.time() < self._settled_s:
                return Hold()
            return Refusal.UNREACHABLE if allowed else Refusal.NO_STANDBY
        # Of several with equally few sessions, each has its turn.
        self._turn += 1
        first = self._turn % len(candidates)
        in_turn = candidates[first:] + candidates[:first]
        return min(in_turn, key=partial(self._load, service))

    def servers_of(self, service: Service) -> set[Backend]:
        """Return the servers that have sessions of a port, or may get some.

        A standby that readers are not led to any more, for its lag or because it is
        drained, keeps the sessions that it has.
        """
        expired = self._primary_lease.is_over()
        engaged = {
            engagement.backend
            for engagement in self._sessions.values()
            if engagement.service is service and not (engagement.bound and expired)
        }
        return engaged.union(self._allowed(service))

    def allows(self, service: Service, backend: Backend) -> bool:
        """Tell whether the routes lead from ``service`` to ``backend`` now."""
        if backend == self._routes.primary:
            among = service is not Service.REPLICA or backend in self._routes.replicas
            return among and not self._primary_lease.is_over()
        return service is not Service.PRIMARY and backend in self._routes.replicas

    def engage(self, service: Service, backend: Backend) -> Engagement:
        """Describe a session with ``backend`` that begins now."""
        bound = self._routes.is_primary(backend)
        return Engagement(service, backend, self._routes.epoch, bound)

    def mirror_lease(self, word: memoryview | None) -> None:
        """Keep ``word`` equal to the expiry from now on."""
        self._primary_lease.mirror(word)

    def lease_of(self, engagement: Engagement) -> Lease:
        """Return until when the session's bytes may flow."""
        return self._primary_lease if engagement.bound else self._no_lease

    def enter(self, session: Session, engagement: Engagement) -> None:
        """Count ``session`` in; it is told when it has to end."""
        self._sessions[session] = engagement
        self._tally(engagement.service, engagement.backend).sessions += 1

    def leave(self, session: Session) -> None:
        """Count ``session`` out."""
        engagement = self._sessions.pop(session)
        self._tally(engagement.service, engagement.backend).sessions -= 1

    def count(
        self, engagement: Engagement, *, bytes_to_server: int, bytes_to_client: int
    ) -> None:
        """Add a finished session to the counters."""
        tally = self._tally(engagement.service, engagement.backend)
        tally.sessions_total += 1
        tally.bytes_to_server += bytes_to_server
        tally.bytes_to_client += bytes_to_client

    def count_failure(self, service: Service, backend: Backend) -> None:
        """Count a server that did not answer, or could not be found."""
        self._tally(service, backend).failures_total += 1

    def traffic(self) -> tuple[Traffic, ...]:
        """Return the counters of the sessions that have ended."""
        return tuple(
            Traffic(
                service=service,
                node=node,
                sessions=tally.sessions,
                sessions_total=tally.sessions_total,
                bytes_to_server=tally.bytes_to_server,
                bytes_to_client=tally.bytes_to_client,
                failures_total=tally.failures_total,
            )
            for (service, node), tally in sorted(self._tallies.items())
        )

    def hold(self, client: Held) -> None:
        """Put ``client`` into the queue; its place is that of its arrival."""
        self._held[client] = None

    def unhold(self, client: Held) -> None:
        """Take ``client`` out of the queue, wherever it stands."""
        self._held.pop(client, None)

    def is_held(self, client: Held) -> bool:
        """Tell whether ``client`` waits for a server."""
        return client in self._held

    def next_try_s(self) -> float:
        """Return when a client that has failed may try again, on the loop's clock."""
        soonest_s = self._loop.time() + _RETRY_S
        self._next_try_s = max(soonest_s, self._next_try_s + 1 / _RETRIES_PER_S)
        return self._next_try_s

    def note_answer(self, service: Service) -> None:
        """Take note that a server has a new client: the others may go there too."""
        told = self.on_answer.get(service)
        if told is not None:
            told()
        if self._held:
            self._release_held(service)

    def remember_key(self, key: CancelKey, backend: Backend) -> None:
        """Note which server a cancel request with ``key`` is for."""
        self._keys[key] = backend

    def forget_key(self, key: CancelKey, backend: Backend) -> None:
        """Forget ``key`` unless a session with another server has taken it over."""
        if self._keys.get(key) == backend:
            del self._keys[key]

    def backend_of_key(self, key: CancelKey) -> Backend | None:
        """Return the server that knows ``key``; None: no session here has it."""
        return self._keys.get(key)

    def end_all(self) -> None:
        """End every session because the proxy stops."""
        self.end(tuple(self._sessions), render_refusal(Refusal.STOPPING, UNKNOWN))

    @staticmethod
    def end(sessions: Collection[Session], last_words: bytes) -> None:
        """End sessions: first their servers' sides, then the clients are told."""
        for session in sessions:
            session.cut()
        for session in sessions:
            session.dismiss(last_words)

    def close(self) -> None:
        """Stop watching the expiry, the queue and what is taken out."""
        for timer in self._drains.values():
            timer.cancel()
        self._drains.clear()
        if self._release_turn is not None:
            self._release_turn.cancel()
            self._release_turn = None
        self._stop_watching()

    def _let_readers_wait(self, routes: Routes) -> None:
        """Have readers wait for standbys that are likely to come, or to come back.

        With a primary that dies all of them stop streaming at once, long before
        anybody has decided on another one.
        """
        now_s = self._loop.time()
        if routes.epoch != self._routes.epoch or not self._routes.revision:
            self._settled_s = max(self._settled_s, now_s + self.limits.settle_s)
        if self._routes.replicas and not routes.replicas:
            self._settled_s = max(self._settled_s, now_s + self.limits.hold_s)

    def _choose_primary(self, avoid: Collection[Backend]) -> Backend | Refusal | Hold:
        if self._routes.park:
            return Hold()
        primary = self._routes.primary
        if primary is not None and not self._primary_lease.is_over():
            if primary not in avoid:
                return primary
            waits = self._routes.hold or self._routes.patient
            return Hold() if waits else Refusal.UNREACHABLE
        if self._routes.hold:
            return Hold()
        return Refusal.NO_PRIMARY if primary is None else Refusal.VIEW_EXPIRED

    def _tally(self, service: Service, backend: Backend) -> Tally:
        return self._tallies.setdefault((service, backend.node), Tally())

    def _supersede(self, outdated: list[Session], sentence: str) -> None:
        if not outdated:
            return
        self.superseded_total += len(outdated)
        detail = f"{sentence[0].upper()}{sentence[1:]}. {UNKNOWN}"
        self.end(outdated, render_refusal(Refusal.SUPERSEDED, detail))
        self._on_event(
            "proxy_sessions_closed",
            {
                "sessions": len(outdated),
                "epoch": self._routes.epoch,
                "reason": sentence,
            },
        )

    def _end_drained(self, backend: Backend) -> None:
        """End what is left of the sessions with a server that is taken out."""
        del self._drains[backend]
        if self._routes.is_primary(backend):
            return
        left = [s for s, e in self._sessions.items() if e.backend == backend]
        self.end(left, render_refusal(Refusal.DRAINING, UNKNOWN))

    def _allowed(self, service: Service) -> list[Backend]:
        """Return all servers to which the routes lead from ``service`` now."""
        replicas, primary = self._routes.replicas, self._routes.primary
        others = () if primary is None or primary in replicas else (primary,)
        return [b for b in (*replicas, *others) if self.allows(service, b)]

    def _load(self, service: Service, backend: Backend) -> float:
        weight = self._routes.weights.get(backend.node, 1)
        return self._tally(service, backend).sessions / weight

    def _watch_expiry(self) -> None:
        """Make sure that `expire` is called in time, however often it is extended."""
        self._stop_watching()
        self._expired = self._routes.primary is None
        if not self._expired:
            self._look_at_expiry()

    def _stop_watching(self) -> None:
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
            self._expiry_timer = None

    def _look_at_expiry(self) -> None:
        self._expiry_timer = None
        left_ns = self._primary_lease.expires_ns - boottime_ns()
        if left_ns <= 0:
            self.expire()
            return
        left_s = min(left_ns / _NS_PER_S, _EXPIRY_LOOK_S)
        self._expiry_timer = self._loop.call_later(left_s, self._look_at_expiry)

    def _release_held(self, *services: Service) -> None:
        """Let those go on for whom there is a server again, or a refusal."""
        if not self._held:
            return
        self._released.update(services or Service)
        if self._release_turn is None:
            self._release_some()

    def _release_some(self) -> None:
        """Let some go on now, and the others in the loop's next turns."""
        self._release_turn = None
        open_to = {
            service
            for service in self._released
            if not isinstance(self.choose(service, ()), Hold)
        }
        free = [client for client in self._held if client.service in open_to]
        # In the order of arrival, also those that have tried a server meanwhile.
        free.sort(key=lambda client: client.since_s)
        for client in free[:RELEASED_AT_ONCE]:
            del self._held[client]
            client.release()
        if len(free) > RELEASED_AT_ONCE:
            self._release_turn = self._loop.call_soon(self._release_some)
        else:
            self._released.clear()


def _is_outdated(engagement: Engagement, routes: Routes) -> bool:
    """Tell whether ``routes`` end a session.

    With the primary: when it is another one or the same in another epoch. With a
    standby: when it has become the primary, at whatever address, since from then on
    the session could write without being bound to the epoch.
    """
    if engagement.bound:
        same = engagement.backend == routes.primary
        return not same or engagement.epoch != routes.epoch
    return routes.is_primary(engagement.backend)


def _superseded_because(routes: Routes) -> str:
    if routes.primary is None:
        return f"there is no primary now: {routes.primary_reason}"
    return f"the primary is now {routes.primary.node} in epoch {routes.epoch}"
