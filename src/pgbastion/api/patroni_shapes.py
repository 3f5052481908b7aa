"""The form of the answers that only Patroni's tools read."""

from typing import Any

# Pydantic wants this one before Python 3.12.
from typing_extensions import TypedDict

from pgbastion.api.shapes import StandingFacts


class PatroniFacts(TypedDict):
    """What serves; ``version`` is the release of Patroni whose words are spoken."""

    version: str
    scope: str
    name: str


class XlogFacts(TypedDict, total=False):
    """Positions, as numbers of bytes."""

    location: int
    received_location: int
    replayed_location: int | None
    paused: bool


class ServerFacts(TypedDict, total=False):
    """What is known of the server."""

    database_system_identifier: str
    timeline: int
    xlog: XlogFacts
    server_version: int
    replication_state: str
    pending_restart: bool


class PatroniAnswer(StandingFacts, ServerFacts):
    """One node, in Patroni's words."""

    state: str
    role: str
    patroni: PatroniFacts
    pause: bool


HistoryLine = list[Any]
"""Timeline, position where it was left, cause, when, new primary."""
