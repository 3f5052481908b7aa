"""The shapes of the answers about the proxy's clients."""

# Pydantic wants this one before Python 3.12.
from typing_extensions import TypedDict


class BackendTrafficFacts(TypedDict):
    """What one port carries to one server."""

    port: str
    node: str
    sessions: int
    sessions_total: int
    bytes_to_server: int
    bytes_to_client: int
    failures_total: int


class SessionAnswer(TypedDict):
    """One client of the proxy."""

    port: str
    client: str
    state: str
    age_s: float
    node: str
    epoch: int
    path: str
    user: str
    database: str
    application: str
    encryption: str
    bytes_to_server: int
    bytes_to_client: int


class ConnectionsAnswer(TypedDict):
    """What a node's proxy carries."""

    node: str
    connections: int
    opening: int
    held: int
    draining: bool
    drain_left_s: float
    data_path: str
    data_path_reason: str
    in_kernel: int
    accepted_total: int
    refused_total: dict[str, int]
    backends: list[BackendTrafficFacts]
    sessions: list[SessionAnswer]
    sessions_left_out: int
