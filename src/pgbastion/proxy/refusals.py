"""Every reason for which a client gets no session, and what it is told."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pgbastion.proxy.wire import SqlState, error_response


class Refusal(StrEnum):
    """Why a client got no session; the value is the label in the metrics."""

    NO_PRIMARY = "no_primary"
    VIEW_EXPIRED = "view_expired"
    HOLD_TIMED_OUT = "hold_timed_out"
    HOLD_FULL = "hold_full"
    NO_STANDBY = "no_standby"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    TOO_MANY = "too_many"
    TOO_MANY_FROM_ADDRESS = "too_many_from_address"
    SUPERSEDED = "superseded"
    STOPPING = "stopping"
    DRAINING = "draining"
    NOT_ALLOWED = "not_allowed"
    NOT_ENCRYPTED = "not_encrypted"
    LATE = "late"
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Sentence:
    """What a client is told: a condition, a sentence and perhaps a way out."""

    sqlstate: SqlState
    message: str
    hint: str = ""


_RETRY: Final = "Connect again in a moment."
_LOOK: Final = 'Run "pgbastion status" on a node of the cluster.'

SENTENCES: Final = {
    Refusal.NO_PRIMARY: Sentence(
        SqlState.CANNOT_CONNECT_NOW, "the cluster has no primary now", _LOOK
    ),
    Refusal.VIEW_EXPIRED: Sentence(
        SqlState.CANNOT_CONNECT_NOW,
        "this node has lost contact with the cluster and cannot tell who is primary",
        "Connect through another node.",
    ),
    Refusal.HOLD_TIMED_OUT: Sentence(
        SqlState.CANNOT_CONNECT_NOW, "no server became ready in time", _RETRY
    ),
    Refusal.HOLD_FULL: Sentence(
        SqlState.TOO_MANY_CONNECTIONS,
        "too many clients wait for a server already",
        _RETRY,
    ),
    Refusal.NO_STANDBY: Sentence(
        SqlState.CANNOT_CONNECT_NOW,
        "no standby can serve reads now",
        "The primary is behind the other port.",
    ),
    Refusal.UNREACHABLE: Sentence(
        SqlState.CANNOT_CONNECT_NOW, "the server cannot be reached", _RETRY
    ),
    Refusal.SILENT: Sentence(
        SqlState.CONNECTION_FAILURE,
        "the server took the connection but does not answer",
        _RETRY,
    ),
    Refusal.TOO_MANY: Sentence(
        SqlState.TOO_MANY_CONNECTIONS,
        "the proxy has reached its limit of connections",
        "The limit is proxy.max_connections, or what the daemon's open files allow.",
    ),
    Refusal.TOO_MANY_FROM_ADDRESS: Sentence(
        SqlState.TOO_MANY_CONNECTIONS,
        "the proxy has reached its limit of connections from one address",
        "The limit is proxy.max_connections_per_address.",
    ),
    Refusal.SUPERSEDED: Sentence(
        SqlState.ADMIN_SHUTDOWN,
        "terminating connection: its server may no longer be the primary",
        _RETRY,
    ),
    Refusal.STOPPING: Sentence(
        SqlState.ADMIN_SHUTDOWN,
        "terminating connection because the proxy is stopping",
        "Connect through another node.",
    ),
    Refusal.DRAINING: Sentence(
        SqlState.ADMIN_SHUTDOWN,
        "terminating connection: this node is being taken out for maintenance",
        "Connect through another node.",
    ),
    Refusal.NOT_ALLOWED: Sentence(
        SqlState.INVALID_AUTHORIZATION,
        "connections from this address are not allowed",
        "The networks that are allowed stand in proxy.allow.",
    ),
    Refusal.NOT_ENCRYPTED: Sentence(
        SqlState.INVALID_AUTHORIZATION,
        "connections without TLS are not allowed",
        "Connect with sslmode=require.",
    ),
    Refusal.LATE: Sentence(
        SqlState.PROTOCOL_VIOLATION, "the first packet did not arrive in time"
    ),
    Refusal.MALFORMED: Sentence(
        SqlState.PROTOCOL_VIOLATION, "this is not PostgreSQL's protocol"
    ),
    Refusal.UNSUPPORTED: Sentence(
        SqlState.FEATURE_NOT_SUPPORTED, "this version of the protocol is not supported"
    ),
}


def render_refusal(refusal: Refusal, detail: str = "") -> bytes:
    """Build the ErrorResponse for ``refusal``; ``detail`` says why in this case."""
    sentence = SENTENCES[refusal]
    return error_response(
        sentence.sqlstate, sentence.message, detail=detail, hint=sentence.hint
    )


class ClientGoneError(Exception):
    """The client has closed, or does not take what it is sent."""


class RefusedError(Exception):
    """The client gets no session; ``detail`` says why in this case."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(refusal, detail)
        self.refusal = refusal
        self.detail = detail
