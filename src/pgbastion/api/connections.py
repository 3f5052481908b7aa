"""What the proxy carries, session by session, and taking it out of service."""

from itertools import islice
from typing import Final

from pgbastion.api.bodies import Drain, Nothing
from pgbastion.api.connection_shapes import ConnectionsAnswer
from pgbastion.api.ports import Commands, Outcome
from pgbastion.model.snapshot import NodeSnapshot

SESSIONS_MAX: Final = 1_000


def connections(snapshot: NodeSnapshot) -> ConnectionsAnswer:
    """Tell what this node's proxy carries; at most 1000 sessions are described."""
    counts = snapshot.proxy
    sessions = list(islice(counts.sessions(), SESSIONS_MAX))
    return {
        "node": snapshot.node,
        "connections": counts.connections,
        "opening": counts.opening,
        "held": counts.held,
        "draining": counts.draining,
        "drain_left_s": round(counts.drain_left_s, 1),
        "data_path": counts.data_path,
        "data_path_reason": counts.data_path_reason,
        "in_kernel": counts.in_kernel,
        "accepted_total": counts.accepted_total,
        "refused_total": dict(counts.refused_total),
        "backends": [
            {
                "port": traffic.service,
                "node": traffic.node,
                "sessions": traffic.sessions,
                "sessions_total": traffic.sessions_total,
                "bytes_to_server": traffic.bytes_to_server,
                "bytes_to_client": traffic.bytes_to_client,
                "failures_total": traffic.failures_total,
            }
            for traffic in counts.traffic
        ],
        "sessions": [
            {
                "port": session.port,
                "client": session.client,
                "state": session.state,
                "age_s": session.age_s,
                "node": session.node,
                "epoch": session.epoch,
                "path": session.path,
                "user": session.user,
                "database": session.database,
                "application": session.application,
                "encryption": session.encryption,
                "bytes_to_server": session.bytes_to_server,
                "bytes_to_client": session.bytes_to_client,
            }
            for session in sessions
        ],
        "sessions_left_out": max(counts.connections - len(sessions), 0),
    }


async def drain(commands: Commands, body: Drain) -> Outcome:
    """Take this node's proxy, and its standby, out of service for clients."""
    return commands.drain(body.timeout)


async def undrain(commands: Commands, body: Nothing) -> Outcome:
    """Let clients in again."""
    del body
    return commands.undrain()
