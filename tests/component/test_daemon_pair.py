"""Whole daemons without PostgreSQL: found by gossip, joined over TLS, or refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

SECRET = "a secret of these daemons"
START_S = 25.0
STOP_S = 10.0
HOSTS = ("127.31.11.1", "127.31.11.2", "127.31.11.3")

pytestmark = pytest.mark.slow


class Daemon:
    """One witness; its files lie in a folder of its own."""

    def __init__(
        self, folder: Path, host: str, *, peers: str = "", secret: str = SECRET,
        raft: str = "",
    ) -> None:  # fmt: skip
        self.host = host
        self.name = f"n{host.rpartition('.')[2]}"
        self.folder = folder / self.name
        self.folder.mkdir()
        (self.folder / "secret").write_text(secret)
        (self.folder / "secret").chmod(0o600)
        own = f"bind_address: {host}"
        self.config = self.folder / "pgbastion.yaml"
        self.config.write_text(
            f"node: {{name: {self.name}, address: {host}}}\n"
            f"cluster: {{peers: [{peers}], secret_file: {self.folder}/secret}}\n"
            f"raft: {{data_dir: {self.folder}/raft{raft}}}\n"
            f"proxy: {{{own}}}\napi: {{{own}}}\nmetrics: {{{own}}}\n"
            "log: {format: json}\n"
        )
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(sys.executable).with_name("pgbastion")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "start", "--config", self.config], stderr=log
            )

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def ask(self, path: str) -> Any:
        try:
            return httpx.get(f"http://{self.host}:8080{path}", timeout=2.0).json()
        except httpx.HTTPError:
            return None

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in told if line["event"] == event]

    def until(self, holds: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + START_S
        while not holds():
            if time.monotonic() > end:
                pytest.fail(f"{self.name}: not in time: {what}\n{self.log.read_text()}")
            time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """A founder that lists the other, and a joiner that lists nobody."""
    folder = tmp_path_factory.mktemp("pair")
    founder = Daemon(folder, HOSTS[0], peers=HOSTS[1], raft=", bootstrap: true")
    joiner = Daemon(folder, HOSTS[1])
    try:
        founder.start()
        joiner.start()
        joiner.until(lambda: joiner.events("member"), "it is a member")
        yield founder, joiner
    finally:
        joiner.stop()
        founder.stop()


def test_a_joiner_without_peers_is_found_by_gossip_and_joins_over_tls(
    pair: tuple[Daemon, Daemon],
) -> None:
    founder, joiner = pair

    def voters() -> list[str]:
        peers = (joiner.ask("/raft/peers") or {}).get("peers", [])
        return sorted(p["id"] for p in peers if p["suffrage"] == "voter")

    joiner.until(lambda: voters() == ["n1", "n2"], "both vote")
    certificate = joiner.ask("/raft/state")["certificate"]
    assert certificate["made_by"] == "node"
    assert joiner.host in certificate["places"]
    refused = founder.events("connection_refused")
    assert not [line for line in refused if line["member"] != "0"]


def test_each_knows_the_others_version_by_gossip(pair: tuple[Daemon, Daemon]) -> None:
    founder, joiner = pair

    def hint() -> dict[str, Any]:
        peers = (founder.ask("/raft/peers") or {}).get("peers", [])
        return next((p["gossip"] or {} for p in peers if p["id"] == "n2"), {})

    founder.until(lambda: hint().get("state") == "alive", "gossip tells of n2")
    assert hint()["api_url"] == f"http://{joiner.host}:8080"
    assert hint()["version"] == founder.ask("/health")["version"]
    nodes = {node["name"]: node for node in founder.ask("/gossip")["nodes"]}
    assert nodes["n2"]["raft_address"] == f"{joiner.host}:8300"


@pytest.mark.parametrize("case", ["secret", "transport"])
def test_who_differs_is_refused_and_told_so_on_both_sides(
    pair: tuple[Daemon, Daemon], tmp_path: Path, case: str
) -> None:
    secret, raft, event, reason = {
        "secret": (
            "quite another secret than theirs",
            "",
            "secret_differs",
            "it refuses this node's certificate",
        ),
        "transport": (
            SECRET,
            ", tls_enabled: false",
            "transport_differs",
            "it does not speak TLS",
        ),
    }[case]
    founder, _ = pair
    stranger = Daemon(tmp_path, HOSTS[2], peers=HOSTS[0], secret=secret, raft=raft)
    try:
        stranger.start()
        stranger.until(lambda: stranger.events(event), "it is told so")
        founder.until(
            lambda: [
                line
                for line in founder.events("connection_refused")
                if line["reason"] == reason
            ],
            "the refusal is told",
        )
        assert not stranger.events("member")
    finally:
        stranger.stop()
    [told] = [
        line
        for line in founder.events("connection_refused")
        if line["reason"] == reason
    ]
    # On the loopback a guest calls from the address of nobody.
    assert told["address"].startswith("127.")
