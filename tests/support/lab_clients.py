"""Clients of a laboratory: orders to the API, sessions through the proxies."""

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.network import CLIENT, WATCH
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.servers import SUPERUSER
from pgbastion.bench.lab.settings import API_PORT, PRIMARY_PORT

ANSWER_S = 10.0


def post(lab: Lab, node: Node, path: str, body: dict[str, Any] | None = None) -> Any:
    """Order something; return the parsed answer, also that of a refusal."""
    return order(lab, node, "POST", path, body)


def order(
    lab: Lab, node: Node, method: str, path: str, body: dict[str, Any] | None = None
) -> Any:
    """Order something by another method; return the parsed answer."""
    token = (lab.directory / "token").read_text(encoding="utf-8").strip()
    connection = http.client.HTTPConnection(node.address, API_PORT, timeout=ANSWER_S)
    with contextlib.closing(connection):
        with lab.network.inside(WATCH):
            connection.connect()
        connection.request(
            method,
            path,
            body=json.dumps(body or {}),
            headers={"Authorization": f"Bearer {token}"},
        )
        with connection.getresponse() as response:
            return json.loads(response.read())


def text_of(lab: Lab, node: Node, path: str) -> str:
    """Return the body of a GET that asks for text."""
    connection = http.client.HTTPConnection(node.address, API_PORT, timeout=ANSWER_S)
    with contextlib.closing(connection):
        with lab.network.inside(WATCH):
            connection.connect()
        connection.request("GET", path, headers={"Accept": "text/plain"})
        with connection.getresponse() as response:
            return response.read().decode()


def connect(lab: Lab, node: Node, port: int = PRIMARY_PORT) -> psycopg.Connection[Any]:
    """Open a session through a node's proxy."""
    target = Target(
        address=node.address, port=port, user=SUPERUSER, password=lab.password
    )
    with lab.network.inside(WATCH):
        return psycopg.connect(target.conninfo(), autocommit=True, connect_timeout=5)


def recovers(lab: Lab, address: str, port: int) -> bool:
    """Ask, as a client on the segment, whether the server there is in recovery."""
    target = Target(address=address, port=port, user=SUPERUSER, password=lab.password)
    with (
        lab.network.inside(CLIENT),
        psycopg.connect(target.conninfo(), connect_timeout=10) as session,
    ):
        row = session.execute("SELECT pg_is_in_recovery()").fetchone()
    assert row is not None
    return bool(row[0])


def pgbastion(lab: Lab, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command on a node, with the node's own configuration."""
    program = str(Path(sys.executable).with_name("pgbastion"))
    config = str(lab.node(name).config)
    return subprocess.run(
        [*lab.network.command(name), program, *words, "--config", config],
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(lab: Lab, node: Node) -> str:
    """Return why the primary port of a node takes nobody; empty: it does."""
    try:
        connect(lab, node).close()
    except psycopg.Error as error:
        return str(error)
    return ""


@contextlib.contextmanager
def sessions(lab: Lab) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    """Hold one session with the primary through every node's proxy."""
    with contextlib.ExitStack() as stack:
        held = {}
        for name, node in lab.nodes.items():
            held[name] = connect(lab, node)
            stack.callback(held[name].close)
        yield held


def ended(session: psycopg.Connection[Any]) -> bool:
    """Tell whether the session is over."""
    try:
        session.execute("SELECT 1")
    except psycopg.Error:
        return True
    return False
