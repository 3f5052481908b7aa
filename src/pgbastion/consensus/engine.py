"""The native engine in an asyncio program.

One thread waits for the engine's events without the interpreter's lock and hands
them to the loop. Heartbeats, elections, renewals and grants need nothing of this.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from pgbastion.clock import NS_PER_MS, ms_up
from pgbastion.consensus import _engine
from pgbastion.consensus._engine import Credentials
from pgbastion.consensus.engine_errors import as_consensus_error
from pgbastion.consensus.interface import (
    BaseWanted,
    Committed,
    Denied,
    Event,
    Granted,
    LeaderChanged,
    Logged,
    MembersChanged,
    Request,
    SnapshotTaken,
)
from pgbastion.consensus.ticks import ticks_of
from pgbastion.errors import ConsensusError
from pgbastion.ha.ports import PeerStatus, RaftStatus
from pgbastion.model.ids import MemberId
from pgbastion.model.views import AgeAnswer

EVENTS_MOST: Final = 256
EVENTS_WAIT_MS: Final = 1_000
TICKS_A_HEARTBEAT: Final = 4
HOST_ELECTIONS: Final = 8
"""So many election time-outs may the event loop stand still before this node leads
nobody any more: a leader's heartbeats go on without it, and nothing is decided."""
SIGNS_OF_LIFE: Final = 4
"""So many are given within that time."""
# The engine's words when one side or the other does not know the secret.
_OTHER_SECRET: Final = ("refused: secret", "does not know the secret")
# Its words when the certificates are of different authorities: without the operator's
# own, of different secrets.
_OTHER_AUTHORITY: Final = (
    "its certificate is of another authority",
    "it refuses this node's certificate",
)
_NO_TLS: Final = "no TLS with the other side: "


class PeerDiffersError(ConsensusError):
    """A peer is there, and differs from this node in what all have to have alike."""


class SecretDiffersError(PeerDiffersError):
    """A peer has another secret than this node, or another authority."""


class TransportDiffersError(PeerDiffersError):
    """A peer has no TLS with this node."""


async def ask_as_guest(
    address: str,
    secret: bytes,
    kind: int,
    payload: bytes,
    *,
    timeout_s: float,
    credentials: Credentials | None,
) -> bytes:
    """Ask the node at ``address`` one question as a guest.

    Without credentials over plain transport.

    Raises:
        SecretDiffersError: It has another secret, or another authority.
        TransportDiffersError: Only one of the two speaks TLS, or its certificate is
            of no use.
        ConsensusError: No answer: nobody there, or too late.
    """
    try:
        answer: bytes = await asyncio.to_thread(
            _engine.guest_request,
            address,
            secret,
            kind,
            payload,
            round(timeout_s * 1_000),
            credentials,
        )
    except _engine.EngineError as exc:
        said = str(exc)
        if said.endswith(_OTHER_SECRET):
            raise SecretDiffersError(
                f"the node at {address} has another secret"
            ) from exc
        if said.endswith(_OTHER_AUTHORITY):
            raise SecretDiffersError(
                f"the node at {address} has another secret, or another authority "
                "(raft.tls_ca)"
            ) from exc
        if _NO_TLS in said:
            raise TransportDiffersError(said) from exc
        raise ConsensusError(said) from exc
    return answer


def is_member(directory: Path) -> bool:
    """Tell whether the Raft directory has the identity of a member.

    Raises:
        ConsensusError: It cannot be read, which is not the same as none.
    """
    with as_consensus_error():
        return _engine.inspect(str(directory)) is not None


class Engine:
    """This node's consensus engine; fulfils ``ha.ports.RaftEngine``.

    Args:
        directory: The Raft directory; this process locks it.
        listen: ``HOST:PORT`` to listen on.
        secret: The cluster's secret.
        heartbeat_ms: Between heartbeats of a leader.
        election_ms: An election time-out is drawn from [t, 2t).
        page: The shared page.
        generation: This process's generation as the page's writer.
        credentials: Certificate and authority; None: plain transport.

    Raises:
        ConsensusError: The directory or the address cannot be had.
    """

    def __init__(
        self,
        *,
        directory: Path,
        listen: str,
        secret: bytes,
        heartbeat_ms: int,
        election_ms: int,
        page: Path,
        generation: int,
        credentials: Credentials | None = None,
    ) -> None:
        # Several ticks a heartbeat: time-outs are drawn in whole ticks, and two nodes
        # that draw the same one split the vote.
        election_ms = max(election_ms, 2 * heartbeat_ms)
        self._election_ticks = election_ms // max(heartbeat_ms // TICKS_A_HEARTBEAT, 1)
        tick_ms, heartbeat_ticks = ticks_of(
            heartbeat_ms, election_ms, election_ticks=self._election_ticks
        )
        with as_consensus_error():
            self._node = _engine.Node(
                dir=str(directory),
                listen=listen,
                secret=secret,
                tick_ms=tick_ms,
                heartbeat_ticks=heartbeat_ticks,
                election_ticks=self._election_ticks,
                page_path=str(page),
                generation=generation,
                credentials=credentials,
            )
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[tuple[str, Any]]] = {}
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._stopping = False
        self._election_ms = election_ms
        self._sign: asyncio.TimerHandle | None = None
        self._show_life()
        self._thread = threading.Thread(
            target=self._read, name="raft-events", daemon=True
        )
        self._thread.start()

    # Events

    def _read(self) -> None:
        while not self._stopping:
            events = self._node.events(EVENTS_WAIT_MS, EVENTS_MOST)
            if events:
                try:
                    self._loop.call_soon_threadsafe(self._take, events)
                except RuntimeError:
                    return

    def _take(self, events: list[tuple[Any, ...]]) -> None:
        for event in events:
            if event[0] == "done":
                self._settle(event[1], event[2], event[3])
            else:
                self._events.put_nowait(_event(event))

    def _settle(self, token: int, status: str, payload: Any) -> None:
        future = self._waiting.pop(token, None)
        # Nobody waits any more if the caller was cancelled.
        if future is not None and not future.done():
            future.set_result((status, payload))

    async def events(self) -> AsyncIterator[Event]:
        """Yield what the engine tells, in its order."""
        while True:
            yield await self._events.get()

    async def _outcome(self, token: int) -> tuple[str, Any]:
        # The outcome comes through the loop, so not before this has registered.
        future: asyncio.Future[tuple[str, Any]] = self._loop.create_future()
        self._waiting[token] = future
        try:
            return await future
        finally:
            self._waiting.pop(token, None)

    # Identity

    def identity(self) -> tuple[str, int] | None:
        """Return cluster id and member id; None: this node has none yet."""
        known = self._node.identity()
        return None if known is None else (known[0].hex(), known[1])

    def form(self, cluster_id: str, member_id: int, address: str) -> None:
        """Become the first voter of a new cluster.

        Raises:
            ConsensusError: The disk has no room for the log, or this is a member.
        """
        with as_consensus_error():
            self._node.form(bytes.fromhex(cluster_id), member_id, address)
        self._show_life()

    def join(
        self, cluster_id: str, member_id: int, peers: list[tuple[int, str]]
    ) -> None:
        """Take this identity; the leader of the cluster does the rest.

        Raises:
            ConsensusError: The disk has no room for the log, or this is a member.
        """
        with as_consensus_error():
            self._node.join(bytes.fromhex(cluster_id), member_id, peers)
        self._show_life()

    # Commands

    async def propose(self, data: bytes, timeout_s: float) -> int | None:
        """Return the index at which ``data`` was applied here; None: unknown."""
        token = self._node.propose(data, _ms(timeout_s))
        status, payload = await self._outcome(token)
        return payload[0] if status == "ok" else None

    async def read_index(self, timeout_s: float) -> int | None:
        """Wait until all that was committed is applied; return when it was asked."""
        token = self._node.read_index(_ms(timeout_s))
        status, payload = await self._outcome(token)
        return payload[1] if status == "ok" else None

    async def change(
        self, change: str, member_id: int, address: str, timeout_s: float
    ) -> str:
        """Change the membership; return ``ok`` or why not."""
        token = self._node.change(change, member_id, address, _ms(timeout_s))
        status, payload = await self._outcome(token)
        return f"{status}: {payload}" if status == "refused" else status

    async def transfer(self, member_id: int, timeout_s: float) -> bool:
        """Hand leadership to a member; tell whether it has it."""
        token = self._node.transfer(member_id, _ms(timeout_s))
        status, _ = await self._outcome(token)
        return status == "ok"

    async def request(
        self, member_id: int, kind: int, payload: bytes, timeout_s: float
    ) -> bytes | None:
        """Ask a member; None: no answer in time, or an empty one."""
        token = self._node.request(member_id, kind, payload, _ms(timeout_s))
        status, answer = await self._outcome(token)
        return answer if status == "ok" and answer else None

    def broadcast(self, kind: int, payload: bytes) -> None:
        """Tell all other members; it may be lost."""
        self._node.broadcast(kind, payload)

    def answer(self, request_id: int, payload: bytes) -> None:
        """Answer a request."""
        if request_id:
            self._node.answer(request_id, payload)

    async def ages(self, timeout_s: float) -> tuple[AgeAnswer, ...]:
        """Ask all voters how long ago they last confirmed an older leader."""
        status, answers = await self._outcome(self._node.ages(_ms(timeout_s)))
        if status != "ok":
            return ()
        # Rounded so that a wait only becomes longer.
        return tuple(
            AgeAnswer(
                member_id=MemberId(member_id),
                term=term,
                age_ms=age_ns // NS_PER_MS,
                receipt_ms=ms_up(receipt_ns),
            )
            for member_id, term, age_ns, receipt_ns in answers
        )

    # What the host says

    def applied(self, index: int) -> None:
        """Say that everything up to ``index`` is applied."""
        self._node.applied(index)

    def compact(self, index: int, state: bytes) -> None:
        """Let the log up to ``index`` go: ``state`` stands for it."""
        self._node.compact(index, state)

    def lease(self, member_id: int, epoch: int, incarnation: int, lease_ms: int) -> int:
        """Say whose renewals may be answered; return the last answer's instant (ns)."""
        answered: int = self._node.lease(member_id, epoch, incarnation, lease_ms)
        return answered

    def hold(
        self,
        epoch: int,
        incarnation: int,
        *,
        renew_ms: int,
        deadline_ms: int,
        evidence_max_ms: int,
        asked_max_ms: int,
    ) -> None:
        """Renew this epoch's lease from now on; epoch 0: none."""
        self._node.hold(
            epoch,
            incarnation,
            renew_ms=renew_ms,
            deadline_ms=deadline_ms,
            evidence_max_ms=evidence_max_ms,
            asked_max_ms=asked_max_ms,
        )

    def pace(self, *, heartbeat_ms: int, election_ms: int) -> None:
        """Send heartbeats so often, and draw time-outs from [t, 2t), from now on."""
        ticks = ticks_of(heartbeat_ms, election_ms, election_ticks=self._election_ticks)
        self._node.pace(*ticks)
        self._election_ms = election_ms
        # The former sign counts in ticks that may be shorter now.
        self._show_life()

    def _show_life(self) -> None:
        """Say that the event loop turns, and again in time."""
        if self._sign is not None:
            self._sign.cancel()
        within_ms = HOST_ELECTIONS * self._election_ms
        self._node.lives(within_ms)
        pause_s = within_ms / SIGNS_OF_LIFE / 1_000
        self._sign = self._loop.call_later(pause_s, self._show_life)

    def status(self) -> RaftStatus:
        """Return what the engine knows now."""
        raw: dict[str, Any] = self._node.status()
        return RaftStatus(
            member_id=raw["member_id"],
            role=raw["role"],
            term=raw["term"],
            leader=raw["leader"],
            committed=raw["committed"],
            applied=raw["applied"],
            last_index=raw["last_index"],
            voters=tuple(raw["voters"]),
            learners=tuple(raw["learners"]),
            configurations=tuple(tuple(c) for c in raw["configurations"]),
            own_entry_applied=raw["own_entry_applied"],
            elected_ns=raw["elected_ns"],
            last_answer_ns=raw["last_answer_ns"],
            pending_change=bool(raw["pending_change"]),
            writing_ms=raw["writing_ms"],
            address=raw["address"],
            peers={
                member_id: PeerStatus(address=peer["address"], matched=peer["matched"])
                for member_id, peer in raw["peers"].items()
            },
        )

    def stop(self) -> None:
        """Stop the engine's threads; what was acknowledged is on disk.

        Commands that are under way end as if nobody had answered.
        """
        self._stopping = True
        if self._sign is not None:
            self._sign.cancel()
        self._node.stop()
        self._thread.join()
        for token in tuple(self._waiting):
            self._settle(token, "stopped", None)


def _ms(seconds: float) -> int:
    return max(round(seconds * 1_000), 1)


def _event(raw: tuple[Any, ...]) -> Event:
    match raw:
        case ("committed", index, term, proposal_id, data):
            return Committed(index=index, term=term, proposal_id=proposal_id, data=data)
        case ("members", index, voters, learners, _):
            return MembersChanged(
                index=index, voters=tuple(voters), learners=tuple(learners)
            )
        case ("base_wanted",):
            return BaseWanted()
        case ("snapshot", index, data):
            return SnapshotTaken(index=index, data=data)
        case ("leader", term, leader):
            return LeaderChanged(term=term, leader=leader)
        case ("request", request_id, member_id, kind, payload):
            return Request(
                request_id=request_id, member_id=member_id, kind=kind, payload=payload
            )
        case ("granted", epoch, expiry_ns):
            return Granted(epoch=epoch, expiry_ns=expiry_ns)
        case ("denied", epoch, reason):
            return Denied(epoch=epoch, reason=reason)
        case ("log", level, event, fields):
            return Logged(level=level, event=event, fields=dict(fields))
        case _:
            raise ConsensusError(f"the engine said {raw[0]!r}, which is not understood")
