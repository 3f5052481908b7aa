"""What can be said of each session, for those who ask."""

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pgbastion.proxy.routes import Service


class Encryption(StrEnum):
    """Whether a client's bytes are encrypted, and who reads them."""

    NONE = "none"
    PASSTHROUGH = "passthrough"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class About:
    """What a client has said of itself. Thousands are kept: texts are shared."""

    since_s: float
    user: str = ""
    database: str = ""
    application: str = ""
    encryption: Encryption = Encryption.NONE


def about(
    since_s: float, parameters: Mapping[str, str], encryption: Encryption
) -> About:
    """Read the parameters of a StartupMessage; there are none where it is hidden."""
    user = parameters.get("user", "")
    return About(
        since_s=since_s,
        user=sys.intern(user),
        # The server's own rule.
        database=sys.intern(parameters.get("database", user)),
        application=sys.intern(parameters.get("application_name", "")),
        encryption=encryption,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """One client at one instant."""

    service: Service
    client: str
    state: str
    """``opening``, ``waiting`` or ``open``."""
    age_s: float
    node: str = ""
    epoch: int = 0
    path: str = ""
    user: str = ""
    database: str = ""
    application: str = ""
    encryption: str = ""
    bytes_to_server: int = 0
    bytes_to_client: int = 0


def peer_name(connection: socket.socket, address: str) -> str:
    """Return ``ADDRESS:PORT`` of the other end, the address as it is known here."""
    try:
        port = connection.getpeername()[1]
    except OSError:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def describe_client(
    service: Service, client: str, known: About, *, waits: bool, now_s: float
) -> SessionInfo:
    """Tell what there is to be told of a client that has no session yet."""
    return SessionInfo(
        service=service,
        client=client,
        state="waiting" if waits else "opening",
        age_s=now_s - known.since_s,
        user=known.user,
        database=known.database,
        application=known.application,
        encryption=known.encryption.value,
    )
