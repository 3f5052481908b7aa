"""Which check passes in which state of a node: the table that people are promised."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

WRITES: Final = frozenset({"/primary", "/read-write", "/leader"})
READS: Final = frozenset({"/replica", "/read-only"})
SYNCHRONOUS: Final = frozenset({"/sync", "/synchronous", "/quorum"})
ASYNCHRONOUS: Final = frozenset({"/async", "/asynchronous"})
ALIVE: Final = frozenset({"/liveness"})
READY: Final = frozenset({"/liveness", "/readiness"})


class State(StrEnum):
    """What a node can be found in."""

    PRIMARY = "primary"
    PRIMARY_PAUSED = "primary, the cluster is paused"
    PRIMARY_OLD_VIEW = "primary, its view of the cluster has expired, its lease not yet"
    PRIMARY_OPENING = "primary, not open for clients yet"
    FENCED = "fenced: a primary whose lease has run out or was revoked"
    SPLIT_BRAIN = "primary, and another node takes writes too"
    SYNC = "standby that commits wait for"
    ASYNC = "standby that no commit waits for"
    STANDBY_PAUSED = "standby that commits wait for, the cluster is paused"
    STANDBY_OLD_VIEW = "standby whose view of the cluster has expired"
    DETACHED = "standby that does not stream"
    UNBALANCED = "standby that is tagged noloadbalance"
    WITNESS = "witness"
    STARTING = "starting: copying, recovering, or stopped"
    HUNG = "the daemon decides nothing any more"


_PRIMARY: Final = WRITES | {"/read-only"} | READY
_SYNC: Final = READS | SYNCHRONOUS | READY
PASSES: Final[Mapping[State, frozenset[str]]] = {
    State.PRIMARY: _PRIMARY,
    State.PRIMARY_PAUSED: _PRIMARY,
    # Its lease is the proof; a view serves those who look for another node.
    State.PRIMARY_OLD_VIEW: _PRIMARY,
    State.PRIMARY_OPENING: READY,
    State.FENCED: ALIVE,
    State.SPLIT_BRAIN: READY,
    State.SYNC: _SYNC,
    State.ASYNC: READS | ASYNCHRONOUS | READY,
    State.STANDBY_PAUSED: _SYNC,
    # It streams, so what it reads is as fresh as before.
    State.STANDBY_OLD_VIEW: _SYNC,
    State.DETACHED: READY,
    State.UNBALANCED: READY,
    State.WITNESS: READY,
    State.STARTING: ALIVE,
    State.HUNG: frozenset(),
}
"""In every other cell of the table stands 503."""
