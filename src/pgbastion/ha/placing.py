"""Carries out where the addresses for replicas are: as the leader, and as a node."""

from pgbastion.control.placing import (
    PlacingView,
    decide_placing,
    decide_replica_holdings,
)
from pgbastion.control.routing import Routing
from pgbastion.ha.host import Host
from pgbastion.ha.ports import Addresses
from pgbastion.ha.runner import Runner
from pgbastion.model.actions import Propose
from pgbastion.model.ids import MemberId
from pgbastion.model.views import ClusterView


class Placer:
    """Decides about the addresses for replicas, and tells this node which are its own.

    Args:
        host: The replicated state.
        addresses: This node's; None: it never has any.
        runner: Proposes what is decided.
        margin_ms: How long before its placement's lease ends an address is to be gone.
    """

    def __init__(
        self,
        host: Host,
        addresses: Addresses | None,
        runner: Runner,
        *,
        margin_ms: int,
    ) -> None:
        self._host = host
        self._addresses = addresses
        self._runner = runner
        self.margin_ms = margin_ms

    def keep(self, member_id: MemberId, confirmed_ns: int) -> None:
        """Have here what the log places here, up to the lease's end from the asking."""
        if self._addresses is None:
            return
        state = self._host.state
        holdings = decide_replica_holdings(
            state, member_id, confirmed_ns=confirmed_ns, margin_ms=self.margin_ms
        )
        seen = {placed.address: placed.serial for placed in state.placements}
        self._addresses.want_replicas(holdings, seen)

    def lead(self, view: ClusterView, routing: Routing | None) -> None:
        """Propose what has to change; only the Raft leader may."""
        if routing is None or not (view.raft.is_leader and view.raft.own_entry_applied):
            return
        changes = decide_placing(
            PlacingView(
                now_ms=view.now_ms,
                state=view.state,
                reports=view.reports,
                report_ms=view.report_ms,
                elected_ms=view.raft.elected_ms,
                opened_ms=self._host.opened_ms,
                readers=tuple(member.name for member in routing.replicas),
                writer=routing.primary.name if routing.primary else None,
                seen_ms=self._host.placements_seen_ms,
            )
        )
        self._runner.offer(tuple(Propose(command=change) for change in changes))
