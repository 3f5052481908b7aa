"""Strangers at the door: refused, told of once with their address, survived."""

import contextlib
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbastion.bench._engine_lab import SECRET, Engine, Lab, lab, until
from pgbastion.bench._engine_worker import credentials_of
from pgbastion.consensus import _engine

SUBNET = "127.31.12"
STRANGER = "127.31.12.200"
SHUT_OUT_S = 20.0
SILENT = 1_000
TIMES = 3

Knock = Callable[[str], None]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path, SUBNET) as made:
        made.form(2)
        yield made


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection(
        (host, int(port)), timeout=SHUT_OUT_S, source_address=(STRANGER, 0)
    )


def says(data: bytes) -> Knock:
    def knock(address: str) -> None:
        with connected(address) as stream, contextlib.suppress(ConnectionError):
            stream.sendall(data)
            while stream.recv(4_096):
                pass

    return knock


def asks(secret: bytes, of: bytes | None) -> Knock:
    """Ask as a guest with this secret and a certificate that follows from another."""

    def knock(address: str) -> None:
        credentials = None if of is None else credentials_of(of, "127.0.0.1")
        with pytest.raises(_engine.EngineError):
            _engine.guest_request(
                address, secret, 4, b"hello", 2_000, credentials=credentials
            )

    return knock


GARBAGE = random.Random(4).randbytes(5_000)
STRANGERS: dict[str, Knock] = {
    "it does not speak TLS": says(b"GET / HTTP/1.1\r\n\r\n" + GARBAGE),
    "it says nothing, or not enough": says(b""),
    "secret": asks(b"not the secret of it", SECRET),
    "it refuses this node's certificate": asks(SECRET, b"not the secret of it"),
}


def refusals(engine: Engine) -> Counter[tuple[str, str]]:
    return Counter(
        (fields["address"], fields["reason"])
        for event, fields in engine.ask("lines")
        if event == "connection_refused"
    )


@pytest.mark.parametrize("reason", STRANGERS)
def test_who_is_refused_is_told_of_once_with_its_address(
    cluster: Lab, reason: str
) -> None:
    engine = cluster.engines[1]
    for _ in range(TIMES):
        STRANGERS[reason](engine.address)

    until(lambda: len(refusals(engine)) > 0, "the refusal is told", within_s=SHUT_OUT_S)
    [((address, told), count)] = refusals(engine).items()
    assert (told, count) == (reason, 1)
    assert address in {STRANGER, "127.0.0.1"}
    assert cluster.engines[2].ask("propose", data="still there")[0] == "ok"


@pytest.mark.slow
def test_a_crowd_that_says_nothing_is_told_of_once(cluster: Lab) -> None:
    engine = cluster.engines[1]
    term = engine.status()["term"]
    with contextlib.ExitStack() as crowd:
        for _ in range(SILENT):
            crowd.enter_context(connected(engine.address))
        assert cluster.engines[2].ask("propose", data="meanwhile")[0] == "ok"
        until(
            lambda: len(refusals(engine)) > 0, "they are told of", within_s=SHUT_OUT_S
        )

    assert set(refusals(engine).values()) == {1}
    assert {address for address, _ in refusals(engine)} == {STRANGER}
    assert engine.status()["term"] == term
