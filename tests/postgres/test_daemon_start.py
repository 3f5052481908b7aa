"""What keeps a node from starting: a message, an exit code, and nothing changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.disks import LoopDisk
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node, run_directories
from pgbastion.bench.lab.processes import Process
from pgbastion.bench.lab.servers import as_os_user
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.waits import wait_for
from pgbastion.cli.exits import Exit
from pgbastion.guard import page as words
from pgbastion.guard.page import Page
from pgbastion.platform.linux import NICE_FIRST
from support.lab_faults import KEPT_LOGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

END_S = 20.0
READY_S = 60.0
TOGETHER = 5
DISK_BYTES = 512 << 20


# What an administrator's shell may have set: libpq would go by it.
LIBPQ_VARIABLES = {"PGHOSTADDR": "192.0.2.1", "PGTARGETSESSIONATTRS": "read-write"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Give a cluster of n1 and n2; n3 is not started."""
    plan = Plan(
        postgres_nodes=3,
        profile="normal",
        namespaces=False,
        environment=LIBPQ_VARIABLES,
    )
    try:
        with Lab(plan, keep_logs_in=KEPT_LOGS) as one:
            for name in ("n1", "n2"):
                one.node(name).start()
            wait_for("two nodes", lambda: is_whole(one), READY_S)
            yield one
    except CannotRun as why:
        pytest.skip(f"not run: {why}")


def is_whole(lab: Lab) -> bool:
    """Tell whether one of n1 and n2 is the primary and the other streams from it."""
    primary = lab.reported_primary()
    return primary is not None and len(lab.streaming(primary)) == 1


def refusal(node: Node, change: Callable[[str], str] = str) -> str:
    """Start the daemon with a changed file; it has to end, and says why."""
    good = node.config.read_text()
    before = node.log.read_text() if node.log.exists() else ""
    content = tree(node.data_dir)
    node.config.write_text(change(good))
    try:
        node.start()
        wait_for("its end", lambda: node.exit_code() is not None, END_S)
    finally:
        node.config.write_text(good)
    assert node.exit_code() == Exit.CONFIG
    assert tree(node.data_dir) == content
    assert node.guard() is None
    return node.log.read_text().removeprefix(before).splitlines()[-1]


def tree(directory: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in sorted(directory.rglob("*"))}


def test_a_second_node_of_one_name_ends(lab: Lab) -> None:
    said = refusal(lab.node("n3"), lambda text: text.replace("name: n3", "name: n2"))

    assert "a node called n2 is a member" in said


def test_a_node_of_another_cluster_name_ends(lab: Lab) -> None:
    said = refusal(lab.node("n3"), lambda text: text.replace("name: lab", "name: two"))

    assert "belongs to the cluster lab, this node is configured for two" in said


def test_a_founder_with_another_secret_founds_nothing(lab: Lab) -> None:
    """Rule 79: one of the peers may belong to a cluster."""
    other = lab.directory / "other-secret"
    other.touch(mode=0o600)
    other.write_text("another secret of the same length")

    def change(text: str) -> str:
        text = text.replace(str(lab.directory / "secret"), str(other))
        return text.replace("bootstrap: false", "bootstrap: true")

    assert "has another secret" in refusal(lab.node("n3"), change)


def test_a_founder_with_tls_founds_nothing_beside_peers_without(lab: Lab) -> None:
    """Rule 79: one of the peers may belong to a cluster."""

    def change(text: str) -> str:
        text = text.replace("tls_enabled: false", "tls_enabled: true")
        return text.replace("bootstrap: false", "bootstrap: true")

    said = refusal(lab.node("n3"), change)

    assert "raft.tls_enabled has to be the same on every node" in said


def test_a_joiner_with_another_secret_is_told_so_and_waits(lab: Lab) -> None:
    node = lab.node("n3")
    good = node.config.read_text()
    other = lab.directory / "joiners-secret"
    other.touch(mode=0o600)
    other.write_text("another secret of the same length")
    node.config.write_text(good.replace(str(lab.directory / "secret"), str(other)))
    try:
        node.start()
        wait_for("a word", lambda: "secret_differs" in node.log.read_text(), END_S)
        assert node.daemon() is not None
        assert node.stop() == 0
    finally:
        node.config.write_text(good)
    assert not node.data_dir.exists()


def test_what_is_no_postgresql_stays_as_it_is(lab: Lab) -> None:
    node = lab.node("n3")
    node.data_dir.mkdir()
    (node.data_dir / "precious").write_text("mine")
    try:
        refusal(node)
        assert "is neither empty nor a data directory" in node.log.read_text()
    finally:
        shutil.rmtree(node.data_dir)


def test_data_of_another_cluster_is_refused(lab: Lab) -> None:
    node = lab.node("n2")
    assert node.stop() == 0
    mark = node.data_dir / "pgbastion.cluster"
    ours = mark.read_text()
    mark.write_text(json.dumps({**json.loads(ours), "cluster_id": "ab" * 16}))
    try:
        refusal(node)
        assert f"belongs to cluster {'ab' * 16}" in node.log.read_text()
    finally:
        mark.write_text(ours)
    node.start()
    wait_for("both again", lambda: is_whole(lab), READY_S)


@contextmanager
def on_a_disk_of_its_own(node: Node) -> Iterator[LoopDisk]:
    """Have a stopped node's data on a file system that is mounted at its directory."""
    away = node.data_dir.with_name("away")
    node.data_dir.rename(away)
    with ExitStack() as stack:
        stack.callback(away.rename, node.data_dir)
        node.data_dir.mkdir()
        stack.callback(node.data_dir.rmdir)
        disk = LoopDisk(node.directory / "image", node.data_dir, DISK_BYTES)
        stack.callback(disk.remove)
        stack.callback(node.kill)
        # With the owner and mode of the directory, and beside what ext4 has there.
        subprocess.run(["cp", "-aT", away, node.data_dir], check=True)
        yield disk
        assert node.stop() == 0


def test_nothing_is_made_on_a_mount_point_whose_file_system_is_missing(
    lab: Lab,
) -> None:
    """Rule 80: the node had its data there, and has them again once it is mounted."""
    node = lab.node("n2")
    assert node.stop() == 0
    mark = node.data_dir / "pgbastion.cluster"
    identity = json.loads(mark.read_text())["data_id"]
    try:
        with on_a_disk_of_its_own(node) as disk:
            disk.unmount()
            assert "is its file system mounted?" in refusal(node)
            assert list(node.data_dir.iterdir()) == []
            disk.mount()
            node.start()
            wait_for("both again", lambda: is_whole(lab), READY_S)
            assert json.loads(mark.read_text())["data_id"] == identity
    except CannotRun as why:
        pytest.skip(f"not run: {why}")
    finally:
        node.start()
        wait_for("both again", lambda: is_whole(lab), READY_S)


def test_a_second_daemon_of_a_node_names_the_first(lab: Lab) -> None:
    node = lab.node("n1")
    daemon = node.daemon()
    assert daemon is not None
    program = Path(sys.executable).with_name("pgbastion")

    second = subprocess.run(
        [program, "start", "--config", node.config],
        capture_output=True,
        text=True,
        timeout=END_S + 10,
        check=False,
    )

    assert second.returncode == Exit.NO
    assert f"another daemon of this node runs: process {daemon.pid}" in second.stderr
    assert node.daemon() == daemon


def test_the_data_directory_of_another_daemon_is_refused(lab: Lab) -> None:
    used, node = lab.node("n1"), lab.node("n3")
    daemon, server = used.daemon(), used.postmaster()
    assert daemon is not None

    said = refusal(
        node, lambda text: text.replace(str(node.data_dir), str(used.data_dir))
    )

    assert "give each node a data directory of its own" in said
    assert f"process {daemon.pid}, runs PostgreSQL" in node.log.read_text()
    assert used.postmaster() == server


def test_a_daemon_that_is_replaced_leaves_postgresql_running(lab: Lab) -> None:
    """PROCESS.md, "Stopping the daemon": SIGUSR2."""
    node = lab.node("n2")
    before, daemon = node.postmaster(), node.daemon()
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGUSR2)
    wait_for("its end", lambda: node.exit_code() is not None, END_S)
    assert node.exit_code() == 0
    assert node.postmaster() == before
    [run_dir] = run_directories(node.name, node.directory / "raft")
    with closing(Page(str(run_dir / "page"))) as page:
        # A successor that comes before the end waits for it.
        assert page[words.LEAVING] == page[words.GENERATION]

    node.start()
    wait_for("n2 to answer", lambda: node.get("/health"), END_S)
    wait_for("both again", lambda: is_whole(lab), READY_S)

    assert node.postmaster() == before


def stopped_while_it_starts(node: Node) -> None:
    """Replace the daemon by one that is told to reload and to stop at once."""
    daemon = node.daemon()
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGUSR2)
    wait_for("its end", lambda: node.exit_code() is not None, END_S)
    said = node.log.stat().st_size
    node.start()
    daemon = node.daemon()
    assert daemon is not None
    wait_for("its first handler", lambda: catches(daemon.pid, signal.SIGHUP), END_S)
    os.kill(daemon.pid, signal.SIGHUP)
    # It still reads its modules.
    assert node.log.stat().st_size == said
    assert node.stop() == 0


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal; proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    [caught] = [line for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_daemon_that_is_stopped_while_it_starts_stops_postgresql(lab: Lab) -> None:
    """PROCESS.md, "Stopping the daemon": whichever daemon started the server."""
    node = lab.node("n2")

    stopped_while_it_starts(node)

    assert node.postgres() == []
    node.start()
    wait_for("both again", lambda: is_whole(lab), READY_S)


def test_under_pause_it_leaves_postgresql_running(lab: Lab) -> None:
    """Before it has read in its log that there is a pause."""
    node = lab.node("n2")
    before = node.postmaster()
    order(lab.node("n1"), "pause")

    stopped_while_it_starts(node)

    assert node.postmaster() == before is not None
    node.start()
    wait_for("n2 to answer", lambda: node.get("/health"), END_S)
    order(lab.node("n1"), "resume")
    wait_for("both again", lambda: is_whole(lab), READY_S)
    assert node.postmaster() == before


def order(node: Node, command: str) -> None:
    """Have an operator's command carried out."""
    program = Path(sys.executable).with_name("pgbastion")
    subprocess.run([program, command, "--config", node.config], check=True, timeout=30)


def test_a_killed_server_starts_although_its_pid_is_another_s(lab: Lab) -> None:
    """Rule 40: a pid alone says nothing; in a container it is soon used again."""
    node = lab.node("n2")
    [run_dir] = run_directories(node.name, node.directory / "raft")
    node.kill()
    with subprocess.Popen([*as_os_user(), "sleep", "600"]) as stranger:
        for lock in (node.data_dir / "postmaster.pid", *run_dir.glob(".s.*.lock")):
            lines = lock.read_text().split("\n")
            lock.write_text("\n".join([str(stranger.pid), *lines[1:]]))
        try:
            node.start()
            wait_for("both again", lambda: is_whole(lab), READY_S)
        finally:
            stranger.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: it takes a privilege")
def test_who_minds_the_lease_has_its_turn_before_postgresql(lab: Lab) -> None:
    """A thousand sessions that end at once would keep both waiting."""
    node = lab.node("n2")
    daemon, guard = node.daemon(), node.guard()
    assert daemon is not None
    assert guard is not None
    threads = {
        (thread / "comm").read_text().strip(): nice_of(int(thread.name))
        for thread in Path(f"/proc/{daemon.pid}/task").iterdir()
    }

    assert [nice_of(daemon.pid), threads["raft"], nice_of(guard.pid)] == 3 * [
        NICE_FIRST
    ]
    assert set(nices_of_those_left(node.postgres())) == {0}


def nice_of(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def nices_of_those_left(listed: Iterable[Process]) -> Iterator[int]:
    """Yield the nice values; a session of the server may have ended since."""
    for process in listed:
        with suppress(ProcessLookupError):
            yield nice_of(process.pid)


def test_founders_that_start_at_once_found_one_cluster() -> None:
    """Rule 79, five times with real processes; a witness is the quickest node."""
    plan = Plan(
        postgres_nodes=0,
        witnesses=3,
        profile="fast",
        namespaces=False,
        bootstrap=frozenset({"n1", "n2", "n3"}),
    )
    for _ in range(TOGETHER):
        with Lab(plan, keep_logs_in=KEPT_LOGS) as lab:
            for node in lab.nodes.values():
                node.start()

            def peers(lab: Lab = lab) -> bool:
                answers = [node.get("/raft/peers") for node in lab.nodes.values()]
                return all(a is not None and len(a["peers"]) == 3 for a in answers)

            wait_for("all to be members", peers, END_S)
            founded = [n for n in lab.nodes.values() if "founded" in n.log.read_text()]
            assert len(founded) == 1
