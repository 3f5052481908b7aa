"""The ticks of Raft's clock. Pure.

The library fixes how many ticks an election time-out has when the engine is made. Other
timings change how long a tick is, and how many of them make a heartbeat.
"""


def ticks_of(
    heartbeat_ms: int, election_ms: int, *, election_ticks: int
) -> tuple[int, int]:
    """Return the milliseconds of a tick, and the ticks between two heartbeats.

    Heartbeats come a little more often than asked for, except that there is at most
    one a tick.
    """
    tick_ms = max(election_ms // election_ticks, 1)
    return tick_ms, max(heartbeat_ms // tick_ms, 1)
