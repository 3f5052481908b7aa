"""Puts schedules and fences into the log, and moves of addresses for replicas."""

import secrets as random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from pgbastion.api.ports import Done, Outcome, Refused, When
from pgbastion.clock import wall_text, wall_time
from pgbastion.control.address_moves import NotMoved, decide_move
from pgbastion.control.schedules_and_fences import why_not_fence
from pgbastion.model.cluster import OrderOutcome, Schedule
from pgbastion.model.commands import (
    Command,
    ScheduleOrder,
    SetFence,
    SettleOrder,
    Unschedule,
)
from pgbastion.model.ids import NodeId
from pgbastion.model.views import Reports
from pgbastion.node.proposing import CAUSE, Log, OperatorCommand, happened, submit
from pgbastion.observe.logging import get_logger

LOOK: Final = "look at /raft/directives and /cluster, then repeat"

log = get_logger("orders")


class SchedulesAndFences:
    """Takes schedules and fences on behalf of people.

    Args:
        host: The replicated state and the reports.
        reports: Tells what the nodes last said, and how much of it is fresh.
        drain_ms: How long older transactions get where nobody says.
    """

    def __init__(
        self, host: Log, *, reports: Callable[[], Reports], drain_ms: Callable[[], int]
    ) -> None:
        self._host = host
        self._reports = reports
        self._drain_ms = drain_ms

    async def schedule(
        self, to: NodeId | None, drain_ms: int | None, when: When
    ) -> Outcome:
        """Have a switchover ordered later, within a window of time."""
        now = wall_time()
        if when.due <= now:
            return Refused(
                code="in_the_past",
                message=f"{_text(when.due)} is over, it is {_text(now)}",
                remedy="choose a later time, or leave it out for at once",
            )
        schedule = Schedule(
            order_id=random.token_hex(8),
            target=to,
            drain_ms=self._drain_ms() if drain_ms is None else drain_ms,
            cause=CAUSE,
            at=_text(now),
            due_at=_text(when.due),
            expires_at=_text(when.due + timedelta(milliseconds=when.valid_ms)),
        )
        facts: dict[str, object] = {
            "id": schedule.order_id,
            "to": to,
            "due_at": schedule.due_at,
            "expires_at": schedule.expires_at,
        }
        outcome = await self._submit(
            ScheduleOrder(schedule=schedule), "the switchover was scheduled", facts
        )
        if isinstance(outcome, Done):
            return replace(outcome, follow=schedule.order_id)
        return outcome

    async def cancel(self, order_id: str | None) -> Outcome:
        """Drop what is scheduled, or an order that was not begun; None: all of it."""
        state = self._host.state
        ids = [s.order_id for s in state.scheduled]
        if state.order is not None and (state.order.is_work or not state.order.begun):
            ids.append(state.order.order_id)
        chosen = [each for each in ids if order_id in (None, each)]
        if not chosen:
            return Refused(
                code="nothing_to_cancel",
                message="no switchover is scheduled or waits to begin"
                if order_id is None
                else f"{order_id} is not scheduled, and does not wait to begin",
                remedy="look at /raft/directives",
            )
        for each in chosen:
            outcome = await self._cancel(each)
            if not isinstance(outcome, Done):
                return outcome
        return Done(facts={"cancelled": chosen})

    async def _cancel(self, order_id: str) -> Outcome:
        order = self._host.state.order
        is_open = order is not None and order.order_id == order_id
        kind = SettleOrder if is_open else Unschedule
        # What was begun on one server may have been done in part.
        begun = is_open and order is not None and order.begun
        command = kind(
            order_id=order_id,
            outcome=OrderOutcome.FAILED if begun else OrderOutcome.CANCELLED,
            detail=f"cancelled by {CAUSE}",
            at=wall_text(),
        )
        return await self._submit(command, f"{order_id} was cancelled", {})

    async def fence(
        self, node: NodeId, *, force: bool, drain_ms: int | None
    ) -> Outcome:
        """Keep a node from the primary role; a primary hands it over, or stops."""
        why = why_not_fence(self._host.state, self._reports(), node)
        if why is not None and not force:
            return Refused(
                code="would_stop_writes",
                message=f"{node} was not fenced: {why}",
                remedy="wait for a standby, or accept that writes stop with force",
            )
        drain = self._drain_ms() if drain_ms is None else drain_ms
        return await self._set_fence(node, fenced=True, force=force, drain_ms=drain)

    async def unfence(self, node: NodeId) -> Outcome:
        """Let a fenced node take part again."""
        return await self._set_fence(node, fenced=False, force=False, drain_ms=0)

    async def move_address(self, address: str, to: NodeId | None) -> Outcome:
        """Have an address for replicas at another node; None: at the best."""
        living = self._reports().living()
        reports = {node: received.report for node, received in living.items()}
        move = decide_move(self._host.state, reports, address, to)
        if isinstance(move, NotMoved):
            return Refused(
                code=move.code,
                message=f"{address} was not moved: {move.why}",
                remedy="look at /vip for the addresses and where they are",
            )
        facts: dict[str, object] = {"address": address, "to": move.to}
        return await self._submit(move, f"{address} is to be at {move.to}", facts)

    async def _set_fence(
        self, node: NodeId, *, fenced: bool, force: bool, drain_ms: int
    ) -> Outcome:
        member = self._host.state.named(node)
        if member is not None and member.is_witness:
            return Refused(
                code="unfit",
                message=f"{node} is not a member with PostgreSQL",
                remedy="look at /cluster for those that there are",
            )
        command = SetFence(
            node=node,
            fenced=fenced,
            force=force,
            drain_ms=drain_ms,
            cause=CAUSE,
            at=wall_text(),
        )
        word = "fenced" if fenced else "unfenced"
        facts: dict[str, object] = {"node": node, "fenced": fenced}
        return await self._submit(command, f"{node} was {word}", facts)

    async def _submit(
        self, command: Command, done: str, facts: dict[str, object]
    ) -> Outcome:
        asked = OperatorCommand(
            command=command,
            done=done,
            refused="not done",
            look=LOOK,
            facts=lambda changed: {**facts, "changed": changed},
        )
        answer = await submit(self._host, asked)
        if happened(answer, self._host):
            log.info("operator_command", command=command.kind, what=done)
        return answer


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds")
