"""Keys of the ports and of what is told, changed one by one while a daemon runs."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from ruamel.yaml import YAML

HOST: Final = "127.38.9.1"
OTHER: Final = "127.38.9.2"
START_S: Final = 40.0
SOON_S: Final = 30.0
STOP_S: Final = 10.0
ANSWER_S: Final = 5.0
QUIET_S: Final = 0.2
MANY: Final = 100_000
NEW_TOKEN: Final = "another-token-than-before"
TOO_MANY: Final = b"C53300"
NOT_ALLOWED: Final = b"C28000"
STARTUP: Final = struct.pack("!II", 21, 3 << 16) + b"user\0someone\0"[:13]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    # Each key waits for what it does to a daemon: too long for every run.
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
]


class Daemon:
    """A witness that founds a cluster of its own.

    Args:
        folder: For its files.
        hook: Where a webhook's receiver listens.
    """

    def __init__(self, folder: Path, hook: socket.socket) -> None:
        self.folder = folder
        self.hook = hook
        self.config = folder / "pgbastion.yaml"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        bound = {"bind_address": HOST}
        self.base: dict[str, dict[str, Any]] = {
            "node": {"name": "n1", "address": HOST},
            "cluster": {"secret_file": str(folder / "secret")},
            "raft": {"data_dir": str(folder / "raft"), "bootstrap": True},
            "proxy": dict(bound),
            # Cases guess at the token again and again, which costs much of it.
            "api": {**bound, "requests_per_second": MANY},
            "metrics": dict(bound),
            "log": {"format": "json"},
        }
        self.write({})

    def write(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        merged = {
            name: {**self.base.get(name, {}), **changes.get(name, {})}
            for name in {**self.base, **changes}
        }
        with self.config.open("w") as file:
            YAML().dump(merged, file)

    def order(self, path: str, token: str | None = None) -> httpx.Response:
        held = (self.folder / "raft/api-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token or held}"}
        url = f"http://{HOST}:8080{path}"
        return httpx.post(url, headers=headers, timeout=ANSWER_S)

    def read(self, path: str, port: int = 8080) -> httpx.Response:
        return httpx.get(f"http://{HOST}:{port}{path}", timeout=ANSWER_S)

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def reload(self) -> None:
        """Have it read its file; what it says depends on its log's level."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGHUP)


def until(holds: Callable[[], object], what: str, within_s: float = SOON_S) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def listens(host: str, port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection((host, port), ANSWER_S)):
        return True
    return False


def refusal() -> bytes:
    """Return what a new client is told."""
    with closing(socket.create_connection((HOST, 5432), ANSWER_S)) as client:
        # A witness alone knows no primary: everybody is refused, each with a reason.
        client.sendall(STARTUP)
        return client.recv(500)


def second_is_refused() -> bool:
    with closing(socket.create_connection((HOST, 5432), ANSWER_S)):
        return TOO_MANY in refusal()


def says_more(daemon: Daemon) -> list[str]:
    """Return what the log says of a request that is refused."""
    before = len(daemon.lines())
    daemon.order("/cluster/pause", token="wrong")
    return daemon.lines()[before:]


def hears(daemon: Daemon) -> bool:
    """Tell whether an event comes to the webhook's address."""
    daemon.order("/cluster/pause")
    daemon.order("/cluster/resume")
    with suppress(OSError):
        daemon.hook.accept()[0].close()
        return True
    return False


@dataclass(frozen=True)
class Case:
    """A key, its new value and how it shows."""

    key: str
    value: Any
    shows: Callable[[Daemon], bool]


def too_often(daemon: Daemon) -> bool:
    """Tell whether a guess at the token has used up what this address may ask."""
    daemon.order("/cluster/pause", token="wrong")
    return daemon.read("/cluster").status_code == 429


def drained_ms(daemon: Daemon) -> int:
    found = daemon.order("/connections/drain").json()
    daemon.order("/connections/undrain")
    return int(found["timeout_ms"])


CASES: Final = (
    Case("log.level", "error", lambda d: not says_more(d)),
    Case("log.format", "text", lambda d: any(x[:1] != "{" for x in says_more(d))),
    Case("api.requests_per_second", 1, too_often),
    Case(
        "api.auth_token_file",
        "FOLDER/token",
        lambda d: d.order("/cluster/resume", NEW_TOKEN).status_code == 200,
    ),
    Case(
        "api.read_token_file",
        "FOLDER/token",
        lambda d: d.read("/cluster").status_code == 401,
    ),
    Case(
        "metrics.patroni_names",
        value=True,
        shows=lambda d: "patroni_" in d.read("/metrics", 9090).text,
    ),
    Case("events.webhooks", [{"url": "HOOK"}], hears),
    Case("proxy.primary_port", 5532, lambda _: listens(HOST, 5532)),
    Case("proxy.replica_port", 5533, lambda _: listens(HOST, 5533)),
    Case("proxy.any_port", 5534, lambda _: listens(HOST, 5534)),
    Case("proxy.bind_address", OTHER, lambda _: listens(OTHER, 5432)),
    Case("proxy.max_connections", 1, lambda _: second_is_refused()),
    Case("proxy.max_connections_per_address", 1, lambda _: second_is_refused()),
    Case("proxy.allow", ["10.9.9.0/24"], lambda _: NOT_ALLOWED in refusal()),
    Case("proxy.drain_timeout", "7s", lambda d: drained_ms(d) == 7_000),
    Case(
        "tracing.enabled",
        value=True,
        shows=lambda d: any('"tracing"' in line for line in d.lines()),
    ),
)


@pytest.fixture(scope="module")
def hook() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(QUIET_S)
        yield listener


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, hook: socket.socket
) -> Iterator[Daemon]:
    made = Daemon(tmp_path_factory.mktemp("reloaded"), hook)
    (made.folder / "token").write_text(NEW_TOKEN)
    (made.folder / "token").chmod(0o600)
    program = Path(sys.executable).with_name("pgbastion")
    with made.log.open("wb") as log:
        process = subprocess.Popen(
            [program, "start", "--config", made.config], stderr=log
        )
    made.process = process
    try:
        until(
            lambda: any('"event": "member"' in line for line in made.lines()),
            "the cluster is founded",
            START_S,
        )
        yield made
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_a_key_takes_effect_without_a_restart(daemon: Daemon, case: Case) -> None:
    section, _, key = case.key.partition(".")
    text = json.dumps(case.value).replace("FOLDER", str(daemon.folder))
    text = text.replace("HOOK", f"http://{HOST}:{daemon.hook.getsockname()[1]}/x")
    assert not case.shows(daemon), "it shows before the change"

    daemon.write({section: {key: json.loads(text)}})
    daemon.reload()
    try:
        until(lambda: case.shows(daemon), f"{case.key} takes effect")
    finally:
        daemon.write({})
        daemon.reload()
    if case.key != "tracing.enabled":  # that it was on stays in the log
        until(lambda: not case.shows(daemon), f"{case.key} is undone")
