"""Carries actions out. It judges permits only: what must still hold at that moment.

An action that cannot be undone is checked once more against lease and survey in
the moment in which it is done.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pgbastion.clock import boottime_ms
from pgbastion.control.apply import Outcome
from pgbastion.errors import InvariantError, PgBastionError, TimelineTaken
from pgbastion.ha.host import Host
from pgbastion.ha.job import Job
from pgbastion.ha.observer import Observer
from pgbastion.ha.ports import (
    Addresses,
    Database,
    Guard,
    HandOver,
    RaftEngine,
    Upstream,
)
from pgbastion.model import actions as act
from pgbastion.model.actions import Action
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.observe.logging import get_logger

PROPOSE_TIMEOUT_S: Final = 1.0
SQL_TIMEOUT_S: Final = 5.0
CHANGE_TIMEOUT_S: Final = 2.0
CHECKPOINT_AGAIN_S: Final = 0.1
"""How long after a failed checkpoint the next one is begun."""

TIMELINE_TAKEN_MAX_MS: Final = 10_000
"""How long a promotion that a former daemon asked for may go on."""

log = get_logger("actions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a node with a PostgreSQL acts on."""

    database: Database
    guard: Guard
    observer: Observer
    hand_over: HandOver | None = None
    """None: nothing is ever handed over cleanly."""


class Executor:
    """Performs the actions of a node's and of the cluster's decisions.

    Args:
        host: The replicated state.
        engine: The consensus engine.
        server: This node's PostgreSQL; None: a witness.
        job: Where long steps run.
        stop_ms: The stop budget of the profile.
        latch_release: Writes the latch of a release into the shared page.
        lease_held: The permit: whether this epoch's lease lasts long enough now.
        hold: Has the engine renew an epoch's lease; 0: none.
        addresses: The virtual addresses; None: there are none.
    """

    def __init__(
        self,
        *,
        host: Host,
        engine: RaftEngine,
        server: Server | None,
        job: Job,
        stop_ms: int,
        latch_release: Callable[[Epoch], None],
        lease_held: Callable[[Epoch], bool],
        hold: Callable[[Epoch], None],
        addresses: Addresses | None = None,
    ) -> None:
        self._host = host
        self._engine = engine
        self._server = server
        self.stop_ms = stop_ms
        self._latch_release = latch_release
        self._lease_held = lease_held
        self._hold = hold
        self._addresses = addresses
        self._background: set[asyncio.Task[None]] = set()
        self.checkpointing = False
        self.prepared = ""
        self._answer_seen_ms = 0
        self._timeline_taken = Epoch(0), 0
        self.sync_unsettled = False
        self.job = job

    @property
    def _database(self) -> Database:
        return self._own().database

    @property
    def _guard(self) -> Guard:
        return self._own().guard

    @property
    def _observer(self) -> Observer:
        return self._own().observer

    def _own(self) -> Server:
        if self._server is None:
            raise InvariantError("a witness has no PostgreSQL to act on")
        return self._server

    async def perform(self, action: Action) -> bool:
        """Perform one action; False: the rest of its decision must not follow."""
        log.debug("action", action=repr(action))
        match action:
            case act.Propose():
                return await self._propose(action)
            case act.CloseLease(epoch=epoch):
                return self._close_lease(epoch)
            case (
                act.AskAges() | act.Survey() | act.CatchUp() | act.ChangeMember()
                | act.MoveLeadership() | act.CallFence()
            ):  # fmt: skip
                return await self._act_as_leader(action)
            case (
                act.HoldLease() | act.LatchRelease() | act.Arm() | act.EndEpoch()
                | act.DropAddresses()
            ):  # fmt: skip
                return await self._act_on_lease(action)
            case act.NotePrimary(epoch=epoch):
                await self._database.note_primary(epoch)
                self._observer.note_mark(promoted_epoch=epoch, epoch=epoch)
                return True
            case act.StopPostgres():
                return await self._stop(action)
            case act.StartStandby() | act.StartPrimary():
                return await self._start(action)
            case (
                act.Promote()
                | act.Follow()
                | act.ApplySyncSet()
                | act.KeepSlots()
                | act.ReadySlots()
            ):
                async with asyncio.timeout(SQL_TIMEOUT_S):
                    return await self._act_on_server(action)
            case act.Checkpoint() | act.PrepareHandOver():
                return self._in_background(action)
            case _:
                return self._start_job(action)

    # The log and the leader's questions

    async def _propose(self, action: act.Propose) -> bool:
        is_set = action.command.kind == "set"
        if is_set:
            self.sync_unsettled = True
        outcome = await self._host.propose(action.command, timeout_s=PROPOSE_TIMEOUT_S)
        if is_set and outcome is not None:
            self.sync_unsettled = False
        if outcome is None:
            log.info("proposal_unknown", command=action.command.kind)
        return outcome in (Outcome.OK, Outcome.NO_CHANGE)

    def expect_answer(self, last_answer_ms: int) -> None:
        """Remember the newest answer that the decision to close a lease knew of."""
        self._answer_seen_ms = last_answer_ms

    def _close_lease(self, epoch: Epoch) -> bool:
        if self._host.close_lease(epoch) <= self._answer_seen_ms:
            return True
        # A renewal was answered since the decision: the holder is alive after all.
        self._host.reopen_lease()
        return False

    async def _act_as_leader(
        self,
        action: act.AskAges
        | act.Survey
        | act.CatchUp
        | act.ChangeMember
        | act.MoveLeadership
        | act.CallFence,
    ) -> bool:
        match action:
            case act.CallFence():
                if self._host.fencer is not None:
                    self._host.fencer.call(action)
            case act.AskAges():
                await self._host.ask_ages(timeout_s=PROPOSE_TIMEOUT_S)
            case act.Survey(epoch=epoch, nodes=nodes):
                self._host.survey.start(epoch, nodes)
            case act.CatchUp():
                self._host.survey.start_catch_up(action)
            case act.ChangeMember(change=change, member_id=member, address=address):
                answer = await self._engine.change(
                    change, member, address, CHANGE_TIMEOUT_S
                )
                log.info("member_change", change=change, member=member, answer=answer)
                return answer == "ok"
            case act.MoveLeadership(member_id=member):
                moved = await self._engine.transfer(member, CHANGE_TIMEOUT_S)
                log.info("leadership_move", member=member, moved=moved)
                return moved
        return True

    # The lease and the guard

    async def _act_on_lease(
        self,
        action: act.HoldLease
        | act.LatchRelease
        | act.Arm
        | act.EndEpoch
        | act.DropAddresses,
    ) -> bool:
        match action:
            case act.DropAddresses():
                if self._addresses is not None:
                    await self._addresses.drop()
            case act.HoldLease(epoch=epoch):
                self._hold(epoch)
            case act.LatchRelease(epoch=epoch):
                self._latch_release(epoch)
                self._hold(Epoch(0))
            case act.Arm(epoch=epoch):
                await self._guard.arm(epoch)
            case act.EndEpoch(epoch=epoch):
                await self._guard.end_epoch(epoch)
        return True

    # The server's life

    async def _stop(self, action: act.StopPostgres) -> bool:
        log.info("stopping", mode=action.mode, reason=action.reason)
        budget_ms = action.budget_ms or self.stop_ms
        fast_ms = budget_ms if action.mode is act.StopMode.FAST else 0
        started_ms = boottime_ms()
        await self._guard.stop(fast_ms=fast_ms)
        log.info("stopped", ms=boottime_ms() - started_ms)
        hand_over = self._own().hand_over
        if action.reason is Reason.HANDING_OVER and hand_over is not None:
            # Clients wait, and what else is in the directory was known before.
            await self._note_end(hand_over)
        else:
            await self._observer.inspect()
        return True

    async def _note_end(self, hand_over: HandOver) -> None:
        try:
            self._observer.ended_at = await hand_over.ended_at()
        except (PgBastionError, TimeoutError, OSError) as exc:
            # Without it the survey finds out who has everything.
            log.warning("end_unknown", error=str(exc))

    async def _start(self, action: act.StartStandby | act.StartPrimary) -> bool:
        self._observer.ended_at = None
        if isinstance(action, act.StartPrimary):
            return await self._start_primary(action.epoch)
        upstream = None
        if action.primary is not None:
            upstream = self._upstream(action.primary, action.epoch)
        if self._guard.facts().armed_epoch:
            await self._guard.disarm()
        await self._database.prepare_standby(upstream, self._host.state.servers)
        await self._guard.start(
            self._database.command(), primary=False, epoch=action.epoch
        )
        if upstream is not None:
            self._observer.following = (upstream.node, upstream.epoch)
            self._observer.note_mark(epoch=upstream.epoch)
        self._observer.look_soon()
        return True

    async def _start_primary(self, epoch: Epoch) -> bool:
        opened = self._host.state.opened
        sync = opened.sync if opened is not None and opened.epoch == epoch else None
        if self.sync_unsettled:
            # A promise on its way may say more than the one that is known.
            sync = None
        await self._database.prepare_primary(sync)
        if not self._lease_held(epoch):
            return False
        await self._guard.start(self._database.command(), primary=True, epoch=epoch)
        self._observer.look_soon()
        return True

    # The running server

    async def _act_on_server(
        self,
        action: act.Promote
        | act.Follow
        | act.ApplySyncSet
        | act.KeepSlots
        | act.ReadySlots,
    ) -> bool:
        match action:
            case act.Promote():
                return await self._promote(action)
            case act.Follow(primary=primary, epoch=epoch):
                upstream = self._upstream(primary, epoch)
                await self._database.follow(upstream)
                self._observer.following = (primary, epoch)
                self._observer.note_mark(epoch=epoch)
            case act.ApplySyncSet(sync=sync, first=first):
                drifts = self._observer.drifts
                self._observer.on_sync_changing()
                confirmed = await self._database.apply_sync(sync, first=first)
                if drifts == self._observer.drifts:
                    # Else somebody has changed it meanwhile: the next look tells.
                    self._observer.on_sync_applied(sync, confirmed=confirmed)
            case act.KeepSlots(nodes=nodes):
                await self._database.refresh_access(self._host.state.servers)
                await self._database.keep_slots(nodes)
                self._observer.look_soon()
            case act.ReadySlots(nodes=nodes, order_id=order_id):
                await self._database.refresh_access(self._host.state.servers)
                if nodes:
                    await self._database.keep_slots(nodes)
                self.prepared = order_id
        return True

    async def _promote(self, action: act.Promote) -> bool:
        if action.surveyed is not None:
            end = await self._database.wal_end()
            if end != action.surveyed:
                log.warning(
                    "surveyed_data_changed", now=str(end), then=str(action.surveyed)
                )
                self._observer.data_changed_epoch = action.epoch
                return False
        await self._guard.ask(action.epoch)
        if not self._lease_held(action.epoch):
            return False
        pid = self._guard.facts().pid
        self._observer.note_mark(promoted_epoch=action.epoch, epoch=action.epoch)
        try:
            await self._database.promote(action.epoch, action.timeline)
        except TimelineTaken:
            self._give_up_taken(action.epoch)
            raise
        self._observer.promote_asked_pid = pid
        log.info("promotion_asked", epoch=action.epoch, timeline=action.timeline)
        self._observer.look_soon()
        return True

    def _give_up_taken(self, epoch: Epoch) -> None:
        """Give an epoch up whose timeline stays taken: asking again changes nothing.

        A crash has cut its promotion short when the id was in the files already. One
        that a former daemon asked for, and that goes on, ends sooner.
        """
        now_ms = boottime_ms()
        if self._timeline_taken[0] != epoch:
            self._timeline_taken = epoch, now_ms
        elif now_ms - self._timeline_taken[1] >= TIMELINE_TAKEN_MAX_MS:
            log.warning("timeline_stays_taken", epoch=epoch)
            self._observer.data_changed_epoch = epoch

    def _upstream(self, node: NodeId, epoch: Epoch) -> Upstream:
        member = self._host.state.named(node)
        if member is None or member.postgres_port is None:
            raise PgBastionError(f"{node} is no longer a member with PostgreSQL")
        return Upstream(
            node=node, host=member.host, port=member.postgres_port, epoch=epoch
        )

    def _in_background(self, action: act.Checkpoint | act.PrepareHandOver) -> bool:
        """Have a checkpoint beside the passes, one at a time."""
        if not self.checkpointing:
            self.checkpointing = True
            task = asyncio.create_task(self._run_in_background(action))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        return True

    async def _run_in_background(
        self, action: act.Checkpoint | act.PrepareHandOver
    ) -> None:
        try:
            await self._database.checkpoint()
            log.info("checkpoint_done")
            if isinstance(action, act.PrepareHandOver):
                await self._prepare(action)
        except (PgBastionError, TimeoutError, OSError) as exc:
            log.warning("checkpoint_failed", error=str(exc))
            # It is asked for anew at once, and a server that is gone refuses at once.
            await asyncio.sleep(CHECKPOINT_AGAIN_S)
        finally:
            self.checkpointing = False
            self._observer.look_soon()

    async def _prepare(self, action: act.PrepareHandOver) -> None:
        hand_over = self._own().hand_over
        if hand_over is not None and action.drain_ms:
            await hand_over.drain(action.drain_ms)
        # What the first one has written, this one and the one of the stop need not.
        await self._database.checkpoint()
        self.prepared = action.order_id
        log.info("hand_over_prepared", order=action.order_id)

    # Long steps

    def _start_job(self, action: Action) -> bool:
        if self.job.name is not None:
            return False
        match action:
            case act.InitDb():
                cluster_id = self._host.state.cluster_id
                self.job.start(
                    "initdb", self._database.initialise(cluster_id), self._after_job
                )
            case act.TakeOver():
                self.job.start("take over", self._take_over(), self._after_job)
            case act.Examine(primary=primary, epoch=epoch):
                upstream = self._upstream(primary, epoch)
                self.job.start("examine", self._examine(upstream), self._after_job)
            case act.Copy(primary=primary, epoch=epoch):
                upstream = self._upstream(primary, epoch)
                self._observer.rejoin = None
                copying = self._database.copy(upstream, self._host.state.cluster_id)
                self.job.start("copy", copying, self._after_job)
            case act.Rewind(primary=primary, epoch=epoch):
                upstream = self._upstream(primary, epoch)
                self._observer.rejoin = None
                self.job.start(
                    "rewind", self._database.rewind(upstream), self._after_job
                )
            case act.RecoverCrash():
                self._observer.rejoin = None
                self.job.start("recover", self._database.recover(), self._after_job)
            case _:
                raise TypeError(f"no such action: {action!r}")
        return True

    async def _take_over(self) -> None:
        # Under guard first, marked last: at whatever point this is cut short, it is
        # decided again, and a server with our mark is always under guard.
        running = await self._database.check_takeover()
        if running is not None and not self._guard.facts().running:
            await self._guard.adopt(running)
        state = self._host.state
        await self._database.take_over(state.cluster_id, state.servers)

    async def _examine(self, upstream: Upstream) -> None:
        self._observer.rejoin = await self._database.examine(upstream)

    async def _after_job(self) -> None:
        await self._observer.inspect()

    async def stop(self) -> None:
        """Interrupt long steps and background work."""
        await self.job.stop()
        for task in tuple(self._background):
            task.cancel()
            await asyncio.wait([task])
