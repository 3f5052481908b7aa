"""The table of endpoints: what is read, and what changes something.

The application, the OpenAPI description and the reference are made from it. What an
endpoint is for stands in its function's docstring; what it takes and gives, in the
function's types.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Final

from pgbastion.api import answers, connections, history, patroni, settings
from pgbastion.api.bodies import (
    AddPeer,
    Body,
    Nothing,
    RemovePeer,
    Settings,
    Transfer,
)
from pgbastion.api.dashboard import dashboard_data
from pgbastion.api.debugging import decisions
from pgbastion.api.explaining import explain_as_text, explain_cluster
from pgbastion.api.gossip import gossip_answer
from pgbastion.api.modes import set_profile, set_replication
from pgbastion.api.operations import operations
from pgbastion.api.ordering import ORDERS
from pgbastion.api.ports import Commands, Done, Outcome
from pgbastion.api.problems import bad_request
from pgbastion.api.vip import vip
from pgbastion.model.ids import NodeId
from pgbastion.model.snapshot import NodeSnapshot

# A generator yields the elements of a long list, each in a turn of the loop.
Json = Mapping[str, Any] | Sequence[Any]
Answer = Callable[[NodeSnapshot], Json | Generator[Any, None, None]]
Change = Callable[[Commands, Any], Awaitable[Outcome]]

READS: Final[Mapping[str, Answer]] = {
    "/health": answers.health,
    "/cluster": answers.cluster,
    "/cluster/state": answers.cluster_state,
    "/cluster/replication": answers.replication,
    "/cluster/explain": explain_cluster,
    "/cluster/history": history.cluster_history,
    "/raft/state": answers.raft_state,
    "/raft/peers": answers.raft_peers,
    "/raft/directives": answers.directives,
    "/operations": operations,
    "/connections": connections.connections,
    "/gossip": gossip_answer,
    "/vip": vip,
    "/patroni": patroni.patroni,
    "/history": patroni.history,
    "/config": settings.config,
    "/config/status": settings.config_status,
    "/config/history": settings.config_history,
    "/debug/decisions": decisions,
    "/ui/data": dashboard_data,
}

# As text, for those who accept that and no JSON.
TEXTS: Final[Mapping[str, Callable[[NodeSnapshot], str]]] = {
    "/cluster/explain": explain_as_text,
}


async def add_peer(commands: Commands, body: AddPeer) -> Outcome:
    """Announce a node, so that it is let in when it comes."""
    if body.node is None:
        raise bad_request("id is missing", body.usage())
    host, port = body.address
    return await commands.add_peer(NodeId(body.node), host, port)


async def remove_peer(commands: Commands, body: RemovePeer) -> Outcome:
    """Take a node out of the cluster: its vote, its slot and its access go."""
    if body.node is None:
        raise bad_request("id is missing", body.usage())
    return await commands.remove_peer(NodeId(body.node))


async def transfer(commands: Commands, body: Transfer) -> Outcome:
    """Hand Raft leadership to a voter; the primary role stays where it is."""
    return await commands.transfer(NodeId(body.to))


async def take_snapshot(commands: Commands, body: Nothing) -> Outcome:
    """Put the state of this node in the place of its log up to now."""
    del body
    return await commands.take_snapshot()


async def reload(commands: Commands, body: Nothing) -> Outcome:
    """Read the configuration again and look at everything anew."""
    del body
    return await commands.reload()


async def pause(commands: Commands, body: Nothing) -> Outcome:
    """Switch automatic actions off: whatever runs goes on."""
    del body
    return await commands.set_pause(paused=True)


async def resume(commands: Commands, body: Nothing) -> Outcome:
    """Switch automatic actions on again."""
    del body
    return await commands.set_pause(paused=False)


async def change_settings(commands: Commands, body: Settings) -> Outcome:
    """Change settings of PostgreSQL on all nodes; null takes one out."""
    return await commands.set_parameters(body.chosen, whole=False, base=body.version)


async def replace_settings(commands: Commands, body: Settings) -> Outcome:
    """Set the settings of PostgreSQL of all nodes: these, and no others."""
    return await commands.set_parameters(body.chosen, whole=True, base=body.version)


async def undo_settings(commands: Commands, body: Nothing) -> Outcome:
    """Go back to the settings of PostgreSQL that the version before had."""
    del body
    return await commands.undo_parameters()


# By method and path.
CHANGES: Final[Mapping[tuple[str, str], Change]] = {
    ("POST", "/raft/add-peer"): add_peer,
    ("POST", "/raft/remove-peer"): remove_peer,
    ("POST", "/raft/transfer"): transfer,
    ("POST", "/raft/snapshot"): take_snapshot,
    ("POST", "/reload"): reload,
    **ORDERS,
    ("PATCH", "/config"): change_settings,
    ("PUT", "/config"): replace_settings,
    ("POST", "/config/undo"): undo_settings,
    ("POST", "/cluster/pause"): pause,
    ("POST", "/cluster/resume"): resume,
    ("POST", "/connections/drain"): connections.drain,
    ("POST", "/connections/undrain"): connections.undrain,
    ("POST", "/cluster/replication"): set_replication,
    ("POST", "/cluster/profile"): set_profile,
}


async def carry_out(change: Change, commands: Commands, body: Body) -> Outcome:
    """Do what a request wants; a dry run says what would come of it."""
    if not body.dry_run:
        return await change(commands, body)
    outcome = await change(commands.rehearsal(), body)
    if not isinstance(outcome, Done):
        return outcome
    # There is nothing to follow.
    facts = {k: v for k, v in outcome.facts.items() if v != outcome.follow}
    return Done(facts={**facts, "dry_run": True})
