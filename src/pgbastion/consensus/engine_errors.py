"""How what the native engine refuses reaches the rest of the program."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgbastion.consensus import _engine
from pgbastion.errors import ConsensusError


@contextmanager
def as_consensus_error() -> Iterator[None]:
    """Raise what the engine refuses as a `ConsensusError` with its words."""
    try:
        yield
    except _engine.EngineError as exc:
        raise ConsensusError(str(exc)) from exc
