"""For every alert that is shipped, a real fault in which it has to fire."""

import contextlib
import itertools
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import psycopg

from pgbastion.bench.lab import injections, processes
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.network import CLIENT
from pgbastion.bench.lab.node import Node
from pgbastion.cli import certificates
from pgbastion.vip import packets
from support.lab_clients import connect, order, post
from support.lab_faults import a_standby, started_by_hand
from support.vip_lab import hardware, run

Labels = dict[str, str]
Expected = Mapping[str, Labels]
"""Alerts by name, each with labels that it has to have among others."""
Fault = Callable[[Lab], contextlib.AbstractContextManager[Expected]]

ADDRESS: Final = "10.77.0.50"
SPARE: Final = "spare0"
ON_SPARE: Final = "10.78.0.50"
ADDRESSES: Final = {
    "address": f"{ADDRESS}/24",
    "interface": "eth0",
    "addresses": [{"address": f"{ON_SPARE}/24", "interface": SPARE}],
}
SEGMENTS_LAGGING: Final = 6  # above the 64 MiB of PgbastionStandbyLagging
SEGMENTS_RETAINED: Final = 12  # above what support.prometheus lets a slot keep
DISK_FILLED: Final = 0.95
# So long a daemon is stopped, and so long it then runs: its next measurement is due
# while it is stopped again.
STARVED_S: Final = 1.2
FED_S: Final = 0.2
KNOCK_EVERY_S: Final = 0.2
EXPIRES_SOON_DAYS: Final = 6
RENEWED_DAYS: Final = 365


@contextlib.contextmanager
def primary_cut_off(lab: Lab) -> Iterator[Expected]:
    """Cut the primary off from the other nodes; they choose another."""
    name = lab.primary()
    there = _instance(lab.node(name))
    with injections.cut_from_nodes(lab, name):
        yield {
            "PgbastionNoRaftLeader": there,
            "PgbastionViewExpired": there,
            "PgbastionFailover": {"cause": "lease_ran_out"},
        }


@contextlib.contextmanager
def standby_lost(lab: Lab) -> Iterator[Expected]:
    """Take the power from a standby's node."""
    node = a_standby(lab)
    with injections.node_lost(lab, node.name):
        yield {
            "PgbastionNodeDown": _instance(node),
            "PgbastionMemberSilent": {"node": node.name},
        }


@contextlib.contextmanager
def majority_lost(lab: Lab) -> Iterator[Expected]:
    """Take the power from all nodes but the primary's."""
    name = lab.primary()
    with injections.majority_lost(lab, name):
        yield {
            "PgbastionNoPrimary": {},
            "PgbastionNoRaftLeader": _instance(lab.node(name)),
            "PgbastionAddressNowhere": {"address": ADDRESS},
        }


@contextlib.contextmanager
def address_claimed(lab: Lab) -> Iterator[Expected]:
    """Give the virtual address to a host beside the cluster, which says so."""
    theirs = hardware(lab.network, CLIENT)
    claim = packets.gratuitous_reply(theirs, IPv4Address(ADDRESS))
    with lab.network.inside(CLIENT):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind(("eth0", 0))
    with wire, _with_address(lab, CLIENT, f"{ADDRESS}/24"):
        wire.send(claim)
        yield {"PgbastionAddressConflict": _instance(lab.node(lab.primary()))}


@contextlib.contextmanager
def interface_down(lab: Lab) -> Iterator[Expected]:
    """Take the interface of one of the virtual addresses down on a standby."""
    node = a_standby(lab)
    run(lab.network, node.name, "ip", "link", "set", SPARE, "down")
    try:
        there = {**_instance(node), "address": ON_SPARE}
        yield {"PgbastionAddressUnusable": there}
    finally:
        run(lab.network, node.name, "ip", "link", "set", SPARE, "up")


@contextlib.contextmanager
def _with_address(lab: Lab, host: str, address: str) -> Iterator[None]:
    run(lab.network, host, "ip", "address", "add", address, "dev", "eth0")
    try:
        yield
    finally:
        run(lab.network, host, "ip", "address", "del", address, "dev", "eth0")


@contextlib.contextmanager
def second_primary(lab: Lab) -> Iterator[Expected]:
    """Start a standby's server as a primary, by hand and without a daemon."""
    node = a_standby(lab)
    with started_by_hand(lab, node):
        yield {"PgbastionSplitBrain": {}}
    node.start()


@contextlib.contextmanager
def primary_fenced(lab: Lab) -> Iterator[Expected]:
    """Have an operator fence the primary."""
    node = lab.node(lab.primary())
    _ordered(lab, node, "/cluster/fence", {"node": node.name})
    try:
        yield {
            "PgbastionFenced": _instance(node),
            "PgbastionFailover": {"cause": "holder_released"},
        }
    finally:
        _ordered(lab, a_standby(lab), "/cluster/unfence", {"node": node.name})


@contextlib.contextmanager
def replication_locked(lab: Lab) -> Iterator[Expected]:
    """Forbid the role of replication to log in, and end its sessions."""
    primary, standby = lab.node(lab.primary()), a_standby(lab)
    primary.query("ALTER ROLE replicator NOLOGIN")
    primary.query("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    try:
        yield {
            "PgbastionStandbyNotStreaming": {"node": standby.name},
            "PgbastionDegraded": {},
        }
    finally:
        primary.query("ALTER ROLE replicator LOGIN")


@contextlib.contextmanager
def replay_paused(lab: Lab) -> Iterator[Expected]:
    """Pause replay on a standby while the primary writes."""
    node = a_standby(lab)
    node.query("SELECT pg_wal_replay_pause()")
    _switch_wal(lab, SEGMENTS_LAGGING)
    try:
        yield {"PgbastionStandbyLagging": {"node": node.name}}
    finally:
        node.query("SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def slot_forgotten(lab: Lab) -> Iterator[Expected]:
    """Make a slot that nobody reads from while the primary writes."""
    primary = lab.node(lab.primary())
    primary.query("SELECT pg_create_physical_replication_slot('forgotten', true)")
    _switch_wal(lab, SEGMENTS_RETAINED)
    try:
        yield {"PgbastionWalRetained": {"slot": "forgotten"}}
    finally:
        primary.query("SELECT pg_drop_replication_slot('forgotten')")


@contextlib.contextmanager
def paused(lab: Lab) -> Iterator[Expected]:
    """Switch automatic actions off."""
    node = lab.node(lab.primary())
    _ordered(lab, node, "/cluster/pause", {})
    try:
        yield {"PgbastionPaused": {}}
    finally:
        _ordered(lab, node, "/cluster/resume", {})


@contextlib.contextmanager
def setting_waits(lab: Lab) -> Iterator[Expected]:
    """Agree on a setting that waits for a restart."""
    node = lab.node(lab.primary())
    body = {"parameters": {"max_files_per_process": "2000"}}
    _refuse_error(order(lab, node, "PATCH", "/config", body))
    try:
        yield {"PgbastionRestartPending": {"node": node.name}}
    finally:
        _ordered(lab, node, "/config/undo", {})


@contextlib.contextmanager
def disk_nearly_full(lab: Lab) -> Iterator[Expected]:
    """Fill the disk of a standby, but for a twentieth."""
    node = a_standby(lab)
    disk = lab.disks[node.name]
    disk.fill_to(DISK_FILLED)
    try:
        yield {"PgbastionDiskFilling": {"node": node.name, "holds": "data"}}
    finally:
        disk.empty()


@contextlib.contextmanager
def disk_hangs(lab: Lab) -> Iterator[Expected]:
    """Let every write to the disk of a standby block."""
    node = a_standby(lab)
    with injections.disk_frozen(lab, node.name):
        yield {"PgbastionProbeSlow": {"node": node.name}}


@contextlib.contextmanager
def drained_and_knocked_at(lab: Lab) -> Iterator[Expected]:
    """Drain a node's proxy while clients go on connecting to it."""
    node = a_standby(lab)
    _ordered(lab, node, "/connections/drain", {})
    try:
        with _again_and_again(lambda: _knock(lab, node), KNOCK_EVERY_S):
            yield {"PgbastionClientsRefused": {"reason": "draining"}}
    finally:
        _ordered(lab, node, "/connections/undrain", {})


@contextlib.contextmanager
def daemon_starved(lab: Lab) -> Iterator[Expected]:
    """Give the daemon of a standby too little processor time."""
    node = a_standby(lab)
    daemon = node.daemon()
    if daemon is None:
        raise LabError(f"{node.name} has no daemon")

    def starve() -> None:
        processes.send(daemon, signal.SIGSTOP)
        over.wait(STARVED_S)
        processes.send(daemon, signal.SIGCONT)

    over = threading.Event()
    try:
        with _again_and_again(starve, FED_S):
            yield {"PgbastionLoopLate": _instance(node)}
    finally:
        over.set()
        processes.send(daemon, signal.SIGCONT)


@contextlib.contextmanager
def certificate_expires(lab: Lab) -> Iterator[Expected]:
    """Let the primary's certificate be near its end; replace it by a new one."""
    node = lab.node(lab.primary())
    _issue(lab, node, EXPIRES_SOON_DAYS)
    try:
        yield {
            "PgbastionCertificateExpires": {**_instance(node), "of": "node"},
        }
    finally:
        _issue(lab, node, RENEWED_DAYS)


FAULTS: Final[Mapping[Fault, Collection[str]]] = {
    paused: ("PgbastionPaused",),
    setting_waits: ("PgbastionRestartPending",),
    primary_cut_off: (
        "PgbastionNoRaftLeader",
        "PgbastionViewExpired",
        "PgbastionFailover",
    ),
    standby_lost: ("PgbastionNodeDown", "PgbastionMemberSilent"),
    majority_lost: (
        "PgbastionNoPrimary",
        "PgbastionNoRaftLeader",
        "PgbastionAddressNowhere",
    ),
    address_claimed: ("PgbastionAddressConflict",),
    interface_down: ("PgbastionAddressUnusable",),
    second_primary: ("PgbastionSplitBrain",),
    primary_fenced: ("PgbastionFenced", "PgbastionFailover"),
    replication_locked: ("PgbastionStandbyNotStreaming", "PgbastionDegraded"),
    replay_paused: ("PgbastionStandbyLagging",),
    slot_forgotten: ("PgbastionWalRetained",),
    disk_nearly_full: ("PgbastionDiskFilling",),
    disk_hangs: ("PgbastionProbeSlow",),
    drained_and_knocked_at: ("PgbastionClientsRefused",),
    daemon_starved: ("PgbastionLoopLate",),
    certificate_expires: ("PgbastionCertificateExpires",),
}


# Which golden explanation a cluster in that fault tells.
EXPLAINED: Final[Mapping[Fault, str]] = {
    setting_waits: "pending_restart",
    disk_nearly_full: "disk_filling",
    certificate_expires: "certificate_expiring",
}


def plug_spare_interfaces(lab: Lab) -> None:
    """Give every node the interface of the second of `ADDRESSES`."""
    for name in lab.nodes:
        ends = (SPARE, "type", "veth", "peer", "name", f"{SPARE}-end")
        run(lab.network, name, "ip", "link", "add", *ends)
        for end in (SPARE, f"{SPARE}-end"):
            run(lab.network, name, "ip", "link", "set", end, "up")


def use_certificates(lab: Lab) -> None:
    """Give every node of a laboratory that has not been started its certificate."""
    certificates.init(_authority(lab), "lab", RENEWED_DAYS)
    for node in lab.nodes.values():
        _issue(lab, node, RENEWED_DAYS)
        files = "".join(
            f"  tls_{kind}: {_authority(lab)}/{name}\n"
            for kind, name in (
                ("cert", f"{node.name}.crt"),
                ("key", f"{node.name}.key"),
                ("ca", "ca.crt"),
            )
        )
        text = node.config.read_text(encoding="utf-8")
        plain = "  tls_enabled: false\n"
        assert plain in text
        node.config.write_text(text.replace(plain, files), encoding="utf-8")


def _authority(lab: Lab) -> Path:
    return lab.directory / "tls"


def _issue(lab: Lab, node: Node, days: int) -> None:
    certificates.issue(_authority(lab), node.name, [node.address], days)


def _instance(node: Node) -> Labels:
    return {"instance": f"{node.address}:9090"}


def _ordered(lab: Lab, node: Node, path: str, body: dict[str, object]) -> None:
    _refuse_error(post(lab, node, path, body))


def _refuse_error(answer: dict[str, object]) -> None:
    if "error" in answer:
        raise LabError(f"refused: {answer['error']}")


def _switch_wal(lab: Lab, times: int) -> None:
    primary = lab.node(lab.primary())
    for _ in range(times):
        primary.query("SELECT pg_logical_emit_message(false, 'test', 'x')")
        primary.query("SELECT pg_switch_wal()")


def _knock(lab: Lab, node: Node) -> None:
    with contextlib.suppress(psycopg.Error):
        connect(lab, node).close()


@contextlib.contextmanager
def _again_and_again(do: Callable[[], None], pause_s: float) -> Iterator[None]:
    """Do something in a thread, with a pause after each time, until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        for _ in itertools.takewhile(
            lambda _: not over.wait(pause_s), itertools.count()
        ):
            do()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
