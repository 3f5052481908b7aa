"""The one table of time-outs of the laboratory, and the loop that waits.

The bounds of the daemon's behaviour come from the figures that the project has set
itself; each has room for a machine of two cores that does other work as well. They end
a wait that would not end, they do not measure: measured gaps are printed.
"""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from pgbastion.bench.lab.errors import LabError

T = TypeVar("T")

POLL_S: Final = 0.1

CLUSTER_READY_S: Final = 90.0  # initdb, two copies, the first synchronous set
API_ANSWER_S: Final = 2.0  # one question to one node
PROCESS_GONE_S: Final = 10.0  # from SIGKILL to the end of a process
SERVER_QUITS_S: Final = 2.0  # from SIGQUIT to the end of a server that is well
DAEMON_STOP_S: Final = 20.0  # from SIGTERM to the end of daemon, guard, PostgreSQL
REJOINED_S: Final = 30.0  # the old primary streams again after the fault's end
REPLAYED_S: Final = 20.0  # a standby has replayed what the primary had written
STEADY_S: Final = 30.0  # all standbys stream, the synchronous set is complete
FIRST_ACKNOWLEDGED_S: Final = 15.0  # a workload that was just started
LINK_UP_S: Final = 10.0  # a link that was plugged in forwards packets
CLIENT_END_S: Final = 10.0  # a client process that was told to end

# After the fault until writes are accepted again: three times the figure to reach. The
# comparison is only kept from waiting for ever.
WRITES_AGAIN_S: Final[dict[str, float]] = {
    "fast": 9.0,
    "normal": 18.0,
    "wide": 120.0,
    "patroni-defaults": 180.0,
    "patroni-tuned": 180.0,
}
LEASE_S: Final[dict[str, float]] = {
    "fast": 2.0,
    "normal": 5.0,
    "wide": 30.0,
    "patroni-defaults": 30.0,
    "patroni-tuned": 20.0,
}


def wait_for(
    what: str,
    question: Callable[[], T | None],
    within_s: float,
    every_s: float = POLL_S,
) -> T:
    """Ask until the answer counts as true, and return it.

    Raises:
        LabError: ``within_s`` seconds have passed; the message names ``what``.
    """
    deadline = time.monotonic() + within_s
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise LabError(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)
