"""The core of one daemon's engine, driven by the world, as ``ha.ports.RaftEngine``."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgbastion.clock import ms_up
from pgbastion.consensus._engine import Core
from pgbastion.consensus.ticks import ticks_of
from pgbastion.guard import page as words
from pgbastion.ha.ports import PeerStatus, RaftStatus
from pgbastion.model.ids import MemberId
from pgbastion.model.views import AgeAnswer
from pgbastion.testing.sim.loop import SimLoop
from pgbastion.testing.sim.world import NS_PER_MS, ms

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine

_PAGE = {
    "evidence_ns": words.EVIDENCE_NS,
    "asked_ns": words.ASKED_NS,
    "released_epoch": words.RELEASED_EPOCH,
    "ended_epoch": words.ENDED_EPOCH,
    "pause_revision": words.PAUSE_REVISION,
    "paused": words.PAUSED,
    "policy_revision": words.POLICY_REVISION,
}


class SimEngine:
    """One life of a core.

    It has a thread of its own in the daemon's process: it goes on while the Python
    loop is stopped, not while the whole process or machine is.

    Args:
        machine: On which it runs.
        loop: The daemon's loop: takes events and outcomes.
        take: Called on the loop with each event that is no outcome.
        tick_ms: A tick of Raft's clock.
        election_ticks: An election time-out is drawn from [t, 2t) ticks.
    """

    def __init__(
        self,
        machine: "Machine",
        loop: SimLoop,
        take: Callable[[tuple[Any, ...]], None],
        *,
        tick_ms: int,
        election_ticks: int,
    ) -> None:
        self._machine = machine
        self._world = machine.world
        self._loop = loop
        self._take = take
        self._tick_ns = tick_ms * NS_PER_MS
        self._election_ticks = election_ticks
        self._waiting: dict[int, asyncio.Future[tuple[str, Any]]] = {}
        self._early: dict[int, tuple[str, Any]] = {}
        self._requests: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._status: RaftStatus | None = None
        self._disk_free_ns = 0
        self.alive = True
        self.stopped = False
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._page_changes = -1
        self.core = Core(
            member_id=machine.number,
            heartbeat_ticks=1,
            election_ticks=election_ticks,
            tick_ms=tick_ms,
            seed=machine.random.getrandbits(62),
            lock_ns=machine.clock.now_ns(),
            storage=machine.storage,
        )
        self._drain()
        self._next_tick()

    # Its thread

    def do(self, act: Callable[..., object], *args: Any) -> None:
        """Have the thread do something now, or when it goes on."""
        if not self.alive:
            return
        if self.stopped:
            self._held.append((act, args))
            return
        act(*args)
        self._drain()

    def stop_process(self) -> None:
        """Stop the thread."""
        self.stopped = True

    def continue_process(self, delay_ns: int = 0) -> None:
        """Go on: first what the sockets hold, then one tick."""
        self._world.after(delay_ns, self._go_on)

    def _go_on(self) -> None:
        if not self.stopped:
            return
        self.stopped = False
        held, self._held = self._held, []
        ticked = False
        for act, args in held:
            if act is self._tick:
                ticked = True
                continue
            self.do(act, *args)
        if ticked:
            self.do(self._tick)

    def _next_tick(self) -> None:
        clock = self._machine.clock
        if clock.stands:
            clock.on_run.append(self._next_tick)
            return
        due = clock.until_ns(clock.now_ns() + self._tick_ns)
        self._world.after(due, self.do, self._tick)

    def _tick(self) -> None:
        self._read_page()
        self.core.tick(self._now())
        self._next_tick()

    def _now(self) -> int:
        return self._machine.clock.now_ns()

    def _read_page(self) -> None:
        page = self._machine.page
        if page.changes != self._page_changes:
            self._page_changes = page.changes
            self.core.set_page({name: page[index] for name, index in _PAGE.items()})

    def _drain(self) -> None:
        self._status = None
        if not self.alive:
            return
        for output in self.core.outputs():
            self._carry_out(output)

    def _carry_out(self, output: tuple[Any, ...]) -> None:
        match output[0]:
            case "send":
                machine = self._machine
                machine.links.send(
                    machine.number,
                    output[1],
                    machine.receive_frame,
                    output[1],
                    output[2],
                )
            case "persist":
                self._persist(output[1], output[2])
            case "expiry":
                self._machine.write_expiry(output[1], output[2])
            case "done":
                self._loop.call_soon(self._settle, *output[1:])
            case "log":
                self._world.say(self._machine.name, f"{output[2]} {output[3]}")
            case _:
                self._machine.judge.engine_said(self._machine, output)
                self._loop.call_soon(self._take, output)

    def _persist(self, token: int, records: bytes) -> None:
        # One write after the other: a disk does not finish a later one first.
        delay = ms(self._machine.random.uniform(*self._machine.raft_flush_ms))
        at = max(self._world.now_ns + delay, self._disk_free_ns + 1)
        self._disk_free_ns = at
        self._world.after(at - self._world.now_ns, self._persisted, token, records)

    def _persisted(self, token: int, records: bytes) -> None:
        if not self.alive:
            return
        if self._machine.raft_disk_frozen:
            self._machine.on_raft_disk_thaw.append(
                lambda: self._persisted(token, records)
            )
            return
        self._machine.storage.append(records)
        self.do(self._tell_persisted, token)

    def _tell_persisted(self, token: int) -> None:
        self.core.persisted(token, self._now())

    def receive(self, source: int, frame: bytes) -> None:
        """Take a frame from the network."""
        self.do(self._receive, source, frame)

    def _receive(self, source: int, frame: bytes) -> None:
        self._read_page()
        self.core.receive(source, frame, self._now())

    def kill(self) -> None:
        """End with the process."""
        self.alive = False

    # What the loop asks; a call takes effect when the thread comes to it

    def _settle(self, token: int, status: str, payload: Any) -> None:
        future = self._waiting.pop(token, None)
        if future is None:
            self._early[token] = (status, payload)
        elif not future.done():
            future.set_result((status, payload))

    async def _outcome(self, token: int) -> tuple[str, Any]:
        self._drain()
        early = self._early.pop(token, None)
        if early is not None:
            return early
        future: asyncio.Future[tuple[str, Any]] = self._loop.create_future()
        self._waiting[token] = future
        try:
            return await future
        finally:
            self._waiting.pop(token, None)

    def status(self) -> RaftStatus:
        """Return what the engine knows now."""
        if self._status is None:
            raw: dict[str, Any] = self.core.status(self._now())
            self._status = RaftStatus(
                member_id=raw["member_id"],
                role=raw["role"],
                term=raw["term"],
                leader=raw["leader"],
                committed=raw["committed"],
                applied=raw["applied"],
                last_index=raw["last_index"],
                voters=tuple(raw["voters"]),
                learners=tuple(raw["learners"]),
                configurations=tuple(map(tuple, raw["configurations"])),
                own_entry_applied=raw["own_entry_applied"],
                elected_ns=raw["elected_ns"],
                last_answer_ns=raw["last_answer_ns"],
                pending_change=bool(raw["pending_change"]),
                peers={
                    member_id: PeerStatus(
                        address=peer["address"], matched=peer["matched"]
                    )
                    for member_id, peer in raw["peers"].items()
                },
            )
        return self._status

    def applied(self, index: int) -> None:
        """Say that everything up to ``index`` is applied."""
        if self.alive:
            self.core.applied(index, self._now())
            self._drain()

    def lease(self, member_id: int, epoch: int, incarnation: int, lease_ms: int) -> int:
        """Say whose renewals may be answered; return the last answer's instant (ns)."""
        if not self.alive:
            return 0
        return int(
            self.core.lease(member_id, epoch, incarnation, lease_ms, self._now())
        )

    async def propose(self, data: bytes, timeout_s: float) -> int | None:
        """Return the index at which ``data`` was applied here; None: unknown."""
        token = self.core.propose(data, round(timeout_s * 1_000), self._now())
        status, payload = await self._outcome(token)
        return int(payload[0]) if status == "ok" else None

    async def read_index(self, timeout_s: float) -> int | None:
        """Wait until all that was committed is applied; return when it was asked."""
        token = self.core.read_index(round(timeout_s * 1_000), self._now())
        status, payload = await self._outcome(token)
        return int(payload[1]) if status == "ok" else None

    async def change(
        self, change: str, member_id: int, address: str, timeout_s: float
    ) -> str:
        """Change the membership; return ``ok`` or why not."""
        token = self.core.change(
            change, member_id, address, round(timeout_s * 1_000), self._now()
        )
        status, _ = await self._outcome(token)
        return status

    async def transfer(self, member_id: int, timeout_s: float) -> bool:
        """Hand leadership to a member."""
        token = self.core.transfer(member_id, round(timeout_s * 1_000), self._now())
        status, _ = await self._outcome(token)
        return status == "ok"

    async def ages(self, timeout_s: float) -> tuple[AgeAnswer, ...]:
        """Ask all voters how long ago they last confirmed an older leader."""
        token = self.core.ages(round(timeout_s * 1_000), self._now())
        status, answers = await self._outcome(token)
        if status != "ok":
            return ()
        return tuple(
            AgeAnswer(
                member_id=MemberId(member_id),
                term=term,
                age_ms=age_ns // NS_PER_MS,
                receipt_ms=ms_up(receipt_ns),
            )
            for member_id, term, age_ns, receipt_ns in answers
        )

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
        if self.alive:
            self._read_page()
            self.core.hold(
                epoch,
                incarnation,
                renew_ms=renew_ms,
                deadline_ms=deadline_ms,
                evidence_max_ms=evidence_max_ms,
                asked_max_ms=asked_max_ms,
                now_ns=self._now(),
            )
            self._drain()

    def pace(self, *, heartbeat_ms: int, election_ms: int) -> None:
        """Send heartbeats so often, and draw time-outs from [t, 2t), from now on."""
        tick_ms, heartbeat_ticks = ticks_of(
            heartbeat_ms, election_ms, election_ticks=self._election_ticks
        )
        self._tick_ns = tick_ms * NS_PER_MS
        self.core.pace(tick_ms, heartbeat_ticks)

    # Questions between nodes travel beside the core, over the same links

    def compact(self, index: int, data: bytes) -> None:
        """Hand the state over, so that the log before it may go."""
        if self.alive:
            self.core.compact(index, data, self._now())
            self._drain()

    async def request(
        self, member_id: int, kind: int, payload: bytes, timeout_s: float
    ) -> bytes | None:
        """Ask a member; None: no answer in time, or an empty one."""
        self._number += 1
        number = self._number
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._requests[number] = future
        machine = self._machine
        back = (machine.number, number)
        machine.links.send(
            machine.number,
            member_id,
            machine.receive_request,
            member_id,
            back,
            kind,
            payload,
        )
        try:
            async with asyncio.timeout(timeout_s):
                return await future or None
        except TimeoutError:
            return None
        finally:
            del self._requests[number]

    def broadcast(self, kind: int, payload: bytes) -> None:
        """Tell all other members; it may be lost."""
        machine = self._machine
        status = self.status()
        for member_id in (*status.voters, *status.learners):
            if member_id != machine.number:
                machine.links.send(
                    machine.number,
                    member_id,
                    machine.receive_request,
                    member_id,
                    (machine.number, 0),
                    kind,
                    payload,
                )

    def answered(self, number: int, payload: bytes) -> None:
        """Take the answer to a request."""
        future = self._requests.get(number)
        if future is not None and not future.done():
            future.set_result(payload)
