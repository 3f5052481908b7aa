"""What a running node lets its API change."""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from pgbastion.api.bodies import Settings
from pgbastion.api.ports import Done, Outcome, Refused, When
from pgbastion.clock import wall_text
from pgbastion.errors import ConfigError
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.cluster import Member, ReplicationMode
from pgbastion.model.commands import Pause
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.node.forwarding import forward
from pgbastion.node.members import MemberOrders
from pgbastion.node.ordering import Ordering
from pgbastion.node.profile import change_profile
from pgbastion.node.proposing import (
    CAUSE,
    Log,
    OperatorCommand,
    Rehearsal,
    happened,
    submit,
)
from pgbastion.node.proxying import Maintenance
from pgbastion.node.replication import change_replication
from pgbastion.node.settings_change import NO_SERVER, SettingsChange
from pgbastion.observe.logging import get_logger

log = get_logger("api")


class NodeCommands:
    """What the API may change on this node; fulfils ``api.ports.Commands``.

    Args:
        host: The replicated state.
        own: This node.
        engine: Passes on what another node has to do; None: that is refused, since
            it was passed on already.
        members: Adds and removes nodes.
        ordering: Gives orders.
        settings_change: Changes settings.
        reload: Reads the configuration again; returns what came of it, in words.
        dry_run: Say what would come of it, and change nothing.
    """

    def __init__(
        self,
        *,
        host: Log,
        members: MemberOrders,
        own: Member,
        engine: RaftEngine | None,
        ordering: Ordering,
        settings_change: SettingsChange,
        maintenance: Maintenance,
        reload: Callable[[bool], Awaitable[str]],
        dry_run: bool = False,
    ) -> None:
        self._host = host
        self._dry_run = dry_run
        self._members = members
        self._ordering = ordering
        self._schedules_and_fences = ordering.schedules_and_fences
        self._engine = engine
        self._settings_change = settings_change
        self._own = own
        self._maintenance = maintenance
        self._reload = reload

    def rehearsal(self) -> "NodeCommands":
        """Return commands that check all that these do, and change nothing."""
        host = Rehearsal(self._host)
        return NodeCommands(
            host=host,
            members=self._members.on(host),
            own=self._own,
            engine=self._engine,
            ordering=self._ordering.on(host),
            settings_change=self._settings_change.on(host),
            maintenance=self._maintenance,
            reload=self._reload,
            dry_run=True,
        )

    async def add_peer(self, name: NodeId, host: str, raft_port: int) -> Outcome:
        """Announce a node, so that it is let in when it comes."""
        return await self._members.add(name, host, raft_port)

    async def remove_peer(self, name: NodeId) -> Outcome:
        """Take a node out of the cluster."""
        return await self._members.remove(name)

    async def transfer(self, to: NodeId) -> Outcome:
        """Hand Raft leadership to a voter."""
        return await self._members.transfer(to)

    async def take_snapshot(self) -> Outcome:
        """Let this node's log up to now go: the state stands for it."""
        return await self._members.snapshot()

    async def set_pause(self, *, paused: bool) -> Outcome:
        """Switch automatic actions off, or on again."""
        state = self._host.state
        word = "paused" if paused else "resumed"
        if state.paused == paused:
            return Done(facts={"paused": paused, "changed": False})
        command = Pause(
            pause_revision=state.pause_revision + 1, paused=paused, at=wall_text()
        )
        asked = OperatorCommand(
            command=command,
            done=f"the cluster is {word}",
            refused=f"the cluster was not {word}",
            look="look at /health, then repeat",
            facts=lambda changed: {"paused": paused, "changed": changed},
        )
        answer = await submit(self._host, asked)
        if happened(answer, self._host):
            log.info("pause_set", paused=paused)
        return answer

    async def set_replication(
        self,
        *,
        mode: ReplicationMode | None,
        sync_count: int | Literal["auto"] | None,
        strict: bool | None,
    ) -> Outcome:
        """Change who confirms commits."""
        return await change_replication(
            self._host, mode=mode, sync_count=sync_count, strict=strict, at=wall_text()
        )

    async def set_profile(self, profile: Profile) -> Outcome:
        """Change the profile that all nodes go by."""
        return await change_profile(self._host, profile, at=wall_text())

    def not_primary(self, meant: NodeId | None) -> Refused | None:
        """Refuse what is meant for another primary than there is."""
        return self._ordering.not_primary(meant)

    async def switch_over(self, to: NodeId | None, drain_ms: int | None) -> Outcome:
        """Order a planned change of the primary."""
        return await self._ordering.switch_over(to, drain_ms, cause=CAUSE)

    async def fail_over(
        self, to: NodeId, *, force: bool, drain_ms: int | None = None
    ) -> Outcome:
        """Order a change of the primary that needs no living one."""
        return await self._ordering.fail_over(
            to, force=force, drain_ms=drain_ms, cause=CAUSE
        )

    async def schedule(
        self, to: NodeId | None, drain_ms: int | None, when: When
    ) -> Outcome:
        """Have a switchover ordered later."""
        return await self._schedules_and_fences.schedule(to, drain_ms, when)

    async def cancel(self, order_id: str | None) -> Outcome:
        """Drop what is scheduled, or an order that was not begun."""
        return await self._schedules_and_fences.cancel(order_id)

    async def fence(
        self, node: NodeId, *, force: bool, drain_ms: int | None
    ) -> Outcome:
        """Keep a node from the primary role."""
        return await self._schedules_and_fences.fence(
            node, force=force, drain_ms=drain_ms
        )

    async def restart(
        self, node: NodeId, *, pending: bool, drain_ms: int | None
    ) -> Outcome:
        """Have PostgreSQL of a node restarted in the role that it has."""
        return await self._ordering.restart_and_copy.restart(
            node, pending=pending, drain_ms=drain_ms
        )

    async def reinit(self, node: NodeId) -> Outcome:
        """Have a standby's data directory replaced by a copy of the primary's."""
        return await self._ordering.restart_and_copy.reinit(node)

    async def unfence(self, node: NodeId) -> Outcome:
        """Let a fenced node take part again."""
        return await self._schedules_and_fences.unfence(node)

    async def move_address(self, address: str, to: NodeId | None) -> Outcome:
        """Have an address for replicas at another node."""
        return await self._schedules_and_fences.move_address(address, to)

    async def set_parameters(
        self, parameters: Mapping[str, str | None], *, whole: bool, base: int | None
    ) -> Outcome:
        """Agree on settings of PostgreSQL for all nodes."""
        outcome = await self._settings_change.set_parameters(
            parameters, whole=whole, base=base
        )
        if isinstance(outcome, Refused) and outcome.code == NO_SERVER:
            return await self._ask_primary(
                "PUT" if whole else "PATCH",
                Settings(
                    parameters=dict(parameters), version=base, dry_run=self._dry_run
                ),
                outcome,
            )
        return outcome

    async def _ask_primary(
        self, method: str, body: Settings, otherwise: Outcome
    ) -> Outcome:
        """Have the primary's node do what needs a running server."""
        held = self._host.state.assignment
        if held is None or held.node == self._own.name or self._engine is None:
            return otherwise
        return await forward(self._engine, held.member_id, method, "/config", body)

    async def undo_parameters(self) -> Outcome:
        """Agree on the settings that the version before had."""
        return await self._settings_change.undo()

    def drain(self, timeout_ms: int | None) -> Outcome:
        """Take this node out of service for clients."""
        return self._maintenance.drain(timeout_ms, dry_run=self._dry_run)

    def undrain(self) -> Outcome:
        """Let clients in again."""
        return self._maintenance.undrain(dry_run=self._dry_run)

    async def reload(self) -> Outcome:
        """Read the configuration again and look at everything anew."""
        try:
            result = await self._reload(self._dry_run)
        except ConfigError as exc:
            return Refused(
                code="configuration_refused",
                message=f"the configuration cannot be used, nothing has changed: {exc}",
                remedy="run pgbastion check on this node",
            )
        return Done(facts={"applied": result, "pid": os.getpid()})
