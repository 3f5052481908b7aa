"""The laboratory's hosts: what is cut is cut in one direction, and nothing stays."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.network import CLIENT, WATCH, Namespaces
from pgbastion.bench.lab.waits import LINK_UP_S, wait_for
from support.lab_namespaces import ask, echo, namespaces

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def network() -> Iterator[Namespaces]:
    with namespaces(["n1", "n2"]) as built:
        yield built


def test_a_one_way_cut_loses_the_question_or_only_the_answer(
    network: Namespaces,
) -> None:
    with echo(network, "n2") as server:
        assert server.stdout is not None
        assert ask(network, "n1", "n2", "before")

        network.cut("n1", "n2")
        assert not ask(network, "n1", "n2", "lost on the way there")
        network.heal("n1", "n2")

        network.cut("n2", "n1")
        assert not ask(network, "n1", "n2", "lost on the way back")
        network.heal("n2", "n1")

        assert ask(network, "n1", "n2", "after")
        heard = [server.stdout.readline().strip() for _ in range(3)]
    assert heard == ["before", "lost on the way back", "after"]


def test_a_cut_between_nodes_leaves_the_clients_a_way(network: Namespaces) -> None:
    with echo(network, "n2"):
        network.cut("n1", "n2")
        network.cut("n2", "n1")
        try:
            assert ask(network, CLIENT, "n2", "client")
            assert ask(network, WATCH, "n2", "watch")
            assert not ask(network, "n1", "n2", "node")
        finally:
            network.heal("n1", "n2")
            network.heal("n2", "n1")


def test_a_cut_holds_for_connections_that_exist(network: Namespaces) -> None:
    with network.inside("n2"):
        listener = socket.create_server((network.addresses["n2"], 7001))
    with network.inside("n1"):
        client = socket.create_connection((network.addresses["n2"], 7001))
    with listener, client:
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(0.3)
            client.sendall(b"one")
            assert accepted.recv(10) == b"one"
            network.cut("n1", "n2")
            try:
                client.sendall(b"two")
                with pytest.raises(TimeoutError):
                    accepted.recv(10)
            finally:
                network.heal("n1", "n2")
            accepted.settimeout(5)
            assert accepted.recv(10) == b"two"


def test_a_link_that_is_down_reaches_nobody(network: Namespaces) -> None:
    with echo(network, "n2"):
        network.set_link("n2", up=False)
        try:
            assert not ask(network, "n1", "n2", "down")
        finally:
            network.set_link("n2", up=True)
        # The neighbour that did not answer while the link was down is asked anew
        # within a second or so.
        wait_for("an answer", lambda: ask(network, "n1", "n2", "up"), LINK_UP_S)


def test_the_processes_of_a_host_are_those_in_its_namespace(
    network: Namespaces,
) -> None:
    with echo(network, "n1") as server:
        assert [process.pid for process in network.processes("n1")] == [server.pid]
        assert network.processes("n2") == []


def test_only_the_calling_thread_enters_a_host(network: Namespaces) -> None:
    own = Path("/proc/thread-self/ns/net")
    before = own.readlink()
    elsewhere: list[Path] = []
    with network.inside("n1"):
        assert own.readlink() != before
        thread = threading.Thread(target=lambda: elsewhere.append(own.readlink()))
        thread.start()
        thread.join()
    assert own.readlink() == before
    # A new thread starts where its parent is; the parent alone came back.
    assert elsewhere != [before]


def test_closing_kills_what_runs_and_removes_every_namespace() -> None:
    with namespaces(["n1"]) as network, echo(network, "n1") as server:
        process = processes.find(server.pid)
        assert process is not None
        name = network.command("n1")[-1]
        assert Path("/run/netns", name).exists()

        network.close()

        assert not processes.is_alive(process)
        tag = name.removesuffix("n1")
        assert list(Path("/run/netns").glob(f"{tag}*")) == []
