"""What a cluster carries while a fault is tried on it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.network import CLIENT
from pgbastion.bench.lab.settings import PRIMARY_PORT
from pgbastion.bench.lab.workload import USER

_CONNECT_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many clients; ``writers`` None: as many as the workload has by itself.

    ``lead_s``: they write so long before the fault and after the last event, so that
    neither end hides a gap. Throughput is compared over a second.
    """

    writers: int | None = None
    idle_sessions: int = 0
    lead_s: float = 1.0


@contextmanager
def idle_sessions(lab: Lab, count: int, via: Sequence[str]) -> Iterator[None]:
    """Hold sessions with the primary that ask nothing, through these nodes' proxies.

    Raises:
        LabError: One of them was refused.
    """
    with ExitStack() as held:
        for number in range(count):
            address = lab.node(via[number % len(via)]).address
            target = Target(
                address=address, port=PRIMARY_PORT, user=USER, password=lab.password
            )
            try:
                with lab.network.inside(CLIENT):
                    session = psycopg.connect(
                        target.conninfo(), connect_timeout=_CONNECT_S
                    )
            except psycopg.Error as error:
                raise LabError(f"idle session {number} was refused: {error}") from error
            held.callback(session.close)
        yield
