"""A stand-in for the replicated state into which people's wishes are put."""

from pgbastion.clock import boottime_ms
from pgbastion.control.apply import Outcome
from pgbastion.model.cluster import ClusterState, Order
from pgbastion.model.commands import Command, GiveOrder
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.report import NodeReport
from pgbastion.model.views import RaftView, Received
from pgbastion.testing.views import cluster_state, raft_view, received


class FakeHost:
    """Notes what is proposed, and answers what a test wants."""

    def __init__(self, *reports: NodeReport) -> None:
        self.state: ClusterState = cluster_state()
        self.reports: dict[NodeId, Received] = received(*reports, at_ms=boottime_ms())
        self.outcome: Outcome | None = Outcome.OK
        self.proposed: list[Command] = []
        self.leader = 1

    def raft(self) -> RaftView:
        return raft_view(leader=MemberId(self.leader))

    async def propose(self, command: Command, *, timeout_s: float) -> Outcome | None:
        del timeout_s
        self.proposed.append(command)
        return self.outcome

    @property
    def order(self) -> Order:
        [command] = self.proposed
        assert isinstance(command, GiveOrder)
        return command.order
