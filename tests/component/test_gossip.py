"""Gossip on the loopback: nodes find each other, are suspected, and do without it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pgbastion.config.load import load_config
from pgbastion.consensus.gossip import Gossip
from pgbastion.errors import ConsensusError
from pgbastion.model.cluster import ClusterState, Member
from pgbastion.model.gossip import GossipFacts
from pgbastion.node.gossip import GossipWatch
from pgbastion.node.parts import own_member

SECRET = b"a secret of these tests"
SOON_S = 12.0
LOOK_S = 0.02

pytestmark = pytest.mark.anyio

# A node that gossips until it is killed: who is gone without a word has to be missed.
TALKER = """
import sys, time
from pgbastion.consensus.gossip import Gossip
from pgbastion.model.gossip import GossipFacts
host, to = sys.argv[1:]
facts = GossipFacts("talker", "", host + ":8300", "", "1")
gossip = Gossip(bind=host + ":0", address=host + ":0",
                secret=b"a secret of these tests", cluster="main", facts=facts)
gossip.learn([to])
print("gossips", flush=True)
time.sleep(60)
"""


def facts(name: str) -> GossipFacts:
    return GossipFacts(name, "", f"{name}:8300", "", "1")


def watch(
    folder: Path,
    host: str,
    *,
    peers: str = "",
    port: int = 0,
    members: tuple[Member, ...] = (),
    on_suspicion: Callable[[], None] = lambda: None,
) -> GossipWatch:
    name = f"n{host.rpartition('.')[2]}"
    path = folder / f"{name}.yaml"
    path.write_text(
        f"node: {{name: {name}, address: {host}}}\n"
        f"raft: {{data_dir: {folder}/raft}}\n"
        f"cluster: {{peers: [{peers}]}}\n"
        f"memberlist: {{bind_port: {port or free_port(host)}}}\n"
    )
    config = load_config(path, machine=False)
    return GossipWatch(
        config,
        SECRET,
        own=lambda: own_member(config),
        state=lambda: ClusterState(members=members),
        on_suspicion=on_suspicion,
    )


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(*watches: GossipWatch) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.run()) for each in watches]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for each in watches:
            await each.stop()


def config_of(folder: Path) -> Path:
    path = folder / "added.yaml"
    path.write_text(
        f"node: {{name: n99, address: 127.31.6.1}}\nraft: {{data_dir: {folder}/raft}}\n"
    )
    return path


async def until(holds: Callable[[], bool]) -> None:
    """Wait until the gossip's thread has told something."""
    for _ in range(round(SOON_S / LOOK_S)):
        if holds():
            return
        await asyncio.sleep(LOOK_S)
    raise AssertionError("not in time")


async def test_nodes_of_one_list_find_each_other(tmp_path: Path) -> None:
    port = free_port("127.31.6.1")
    peers = "127.31.6.1, 127.31.6.2"
    first = watch(tmp_path, "127.31.6.1", peers=peers, port=port)
    second = watch(tmp_path, "127.31.6.2", peers=peers, port=port)

    async with running(first, second):
        await until(lambda: first.found() == ("127.31.6.2:8300",))
        await until(lambda: second.found() == ("127.31.6.1:8300",))

    assert first.snapshot().running


async def test_a_node_without_peers_is_found_by_those_that_know_of_it(
    tmp_path: Path,
) -> None:
    port = free_port("127.31.6.3")
    member = watch(tmp_path, "127.31.6.3", peers="127.31.6.4", port=port)
    joiner = watch(tmp_path, "127.31.6.4", port=port)

    async with running(member, joiner):
        await until(lambda: joiner.found() == ("127.31.6.3:8300",))


async def test_one_name_twice_is_told(tmp_path: Path) -> None:
    port = free_port("127.31.6.5")
    first = watch(tmp_path, "127.31.6.5", port=port)
    (tmp_path / "other").mkdir()
    double = watch(tmp_path / "other", "127.31.7.5", peers="127.31.6.5", port=port)

    async with running(first, double):
        await until(lambda: bool(first.snapshot().clashes))

    assert first.snapshot().clashes == {"n5": ("127.31.6.5:8300", "127.31.7.5:8300")}


async def test_a_taken_port_costs_the_gossip_and_nothing_else(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.31.6.6", 0))
        without = watch(tmp_path, "127.31.6.6", port=taken.getsockname()[1])
        async with running(without):
            await asyncio.sleep(0.2)

            assert not without.snapshot().running
            assert without.found() == ()


@pytest.mark.slow
async def test_a_node_that_dies_without_a_word_is_suspected_and_then_down(
    tmp_path: Path,
) -> None:
    port = free_port("127.31.6.7")
    suspicions: list[str] = []
    stays = watch(
        tmp_path, "127.31.6.7", port=port, on_suspicion=lambda: suspicions.append("!")
    )
    async with running(stays):
        await until(lambda: stays.snapshot().running)
        # One more, so that there is somebody to ask about the silent one.
        helper = Gossip(
            bind="127.31.6.8:0",
            address="127.31.6.8:0",
            secret=SECRET,
            cluster="main",
            facts=facts("helper"),
        )
        helper.learn([f"127.31.6.7:{port}"])
        dies = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", TALKER, "127.31.6.9", f"127.31.6.7:{port}"],
            stdout=subprocess.PIPE,
        )
        try:
            await until(lambda: "127.31.6.9:8300" in stays.found())
            os.kill(dies.pid, signal.SIGKILL)

            states: set[str] = set()

            def is_down() -> bool:
                node = stays.snapshot().view.node_at("127.31.6.9:8300")
                states.add(node.state if node else "forgotten")
                return "down" in states

            await until(is_down)
            assert "suspect" in states
            assert suspicions
            assert "127.31.6.9:8300" not in stays.found()
        finally:
            dies.kill()
            dies.wait()
            assert dies.stdout is not None
            dies.stdout.close()
            helper.stop()


def test_a_fact_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConsensusError, match="longer than"):
        Gossip(
            bind="127.31.6.8:0",
            address="127.31.6.8:0",
            secret=SECRET,
            cluster="main",
            facts=facts("n" * 200),
        )


def test_members_are_greeted_too(tmp_path: Path) -> None:
    """A node that was added by hand is found without any list of peers."""
    own = own_member(load_config(config_of(tmp_path), machine=False))
    added = replace(own, host="127.31.6.99")

    places = watch(tmp_path, "127.31.6.1", port=7_946, members=(added,)).places()

    assert places == ["127.31.6.99:7946"]
