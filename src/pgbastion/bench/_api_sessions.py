"""Hold many sessions through a proxy until standard input ends.

Run as a program of its own, so that it can live on another host than who starts it.
The password comes from the environment, as for the laboratory's other clients.
"""

import os
import sys
from typing import Final

import psycopg

from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.writers import PASSWORD_VARIABLE

READY: Final = "ready"


def main(arguments: list[str]) -> None:
    """Open as many sessions as asked for; say that they are there; wait."""
    address, port, user, count = arguments
    target = Target(
        address=address,
        port=int(port),
        user=user,
        password=os.environ[PASSWORD_VARIABLE],
    )
    sessions = [psycopg.connect(target.conninfo()) for _ in range(int(count))]
    print(READY, flush=True)
    sys.stdin.read()
    del sessions


if __name__ == "__main__":
    main(sys.argv[1:])
