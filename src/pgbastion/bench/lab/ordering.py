"""Order a change of the primary in the laboratory, and open sessions meanwhile."""

import http.client
import json
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.network import CLIENT, WATCH
from pgbastion.bench.lab.settings import API_PORT, PRIMARY_PORT
from pgbastion.bench.lab.workload import USER

ORDER_S: Final = 60.0
"""From an order to its outcome."""
SESSION_EVERY_S: Final = 0.03
SESSION_S: Final = 20
"""How long a client waits for a session; a held one waits for the new primary."""


def give(lab: Lab, node: str, path: str, body: Mapping[str, object]) -> dict[str, Any]:
    """Send an order to a node's API and return the answer, also a refusal.

    Raises:
        LabError: The node does not answer.
    """
    token = (lab.directory / "token").read_text().strip()
    connection = http.client.HTTPConnection(
        lab.node(node).address, API_PORT, timeout=waits.API_ANSWER_S
    )
    headers = {"Authorization": f"Bearer {token}"}
    with closing(connection):
        try:
            with lab.network.inside(WATCH):
                connection.connect()
            connection.request("POST", path, json.dumps(body), headers)
            with connection.getresponse() as response:
                answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LabError(f"{node} does not answer {path}: {error}") from error
    return dict(answer)


def wait_settled(lab: Lab, order_id: str, within_s: float = ORDER_S) -> dict[str, Any]:
    """Wait until an order has an outcome, and return the order.

    Raises:
        LabError: It has none in time.
    """

    def outcome() -> dict[str, Any] | None:
        for node in lab.nodes.values():
            answer = node.get("/raft/directives")
            for order in (answer or {}).get("directives", []):
                if order["id"] == order_id and order["outcome"]:
                    return dict(order)
        return None

    return waits.wait_for("the outcome of the order", outcome, within_s)


class Newcomers:
    """Opens sessions through every proxy in turn and notes who was refused."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.refused: list[str] = []
        self.served = 0
        self.longest_s = 0.0

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, after the session that is being opened."""
        self._ends.set()
        self._thread.join(SESSION_S + waits.CLIENT_END_S)

    def _run(self) -> None:
        addresses = [node.address for node in self._lab.nodes.values()]
        with self._lab.network.inside(CLIENT):
            turn = 0
            while not self._ends.wait(SESSION_EVERY_S):
                turn += 1
                self._open(addresses[turn % len(addresses)])

    def _open(self, address: str) -> None:
        target = Target(
            address=address,
            port=PRIMARY_PORT,
            user=USER,
            password=self._lab.password,
        )
        since_s = time.monotonic()
        try:
            psycopg.connect(target.conninfo(), connect_timeout=SESSION_S).close()
        except psycopg.Error as error:
            self.refused.append(str(error).strip())
            return
        self.served += 1
        self.longest_s = max(self.longest_s, time.monotonic() - since_s)
