"""Hosts for tests of the laboratory itself."""

import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.network import Namespaces

# Answers each datagram that it gets with the same bytes.
_ECHO = """
import socket, sys
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    data, sender = server.recvfrom(100)
    print(data.decode(), flush=True)
    server.sendto(data, sender)
"""


@contextmanager
def namespaces(hosts: Sequence[str]) -> Iterator[Namespaces]:
    """Build hosts and remove them; skip where this user may not."""
    try:
        network = Namespaces(hosts, tag=f"t{secrets.token_hex(3)}")
    except CannotRun as why:
        pytest.skip(f"not run: {why}")
    try:
        yield network
    finally:
        network.close()


@contextmanager
def echo(network: Namespaces, host: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program on ``host`` that answers datagrams and prints what it got."""
    process = subprocess.Popen(
        [*network.command(host), sys.executable, "-c", _ECHO, network.addresses[host]],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(network: Namespaces, asker: str, host: str, text: str) -> bool:
    """Send a datagram from ``asker`` to ``host``; tell whether the answer came."""
    with network.inside(asker):
        client = socket.socket(type=socket.SOCK_DGRAM)
    with client:
        client.settimeout(0.3)
        try:
            client.sendto(text.encode(), (network.addresses[host], 7000))
            return client.recv(100) == text.encode()
        except OSError:
            return False
