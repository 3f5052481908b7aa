"""What a demonstration does to its cluster; each fault ends when its block is left."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.processes import Process
from pgbastion.demo.stage import Stage

Injection = Callable[[Stage, str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault by name, and what it needs and leads to."""

    inject: Injection
    hits_primary: bool = True
    """False: it hits a synchronous standby, and the primary stays."""
    needs_namespaces: bool = False


@contextmanager
def postmaster_killed(stage: Stage, name: str) -> Iterator[None]:
    """Kill the postmaster alone; its backends live on until somebody ends them."""
    processes.kill([_present(stage.nodes[name].postmaster(), f"{name}'s postmaster")])
    yield


@contextmanager
def postgres_frozen(stage: Stage, name: str) -> Iterator[None]:
    """Stop every process of PostgreSQL, and wake those that are left at the end."""
    frozen = processes.freeze(stage.nodes[name].postgres)
    try:
        yield
    finally:
        processes.resume(frozen)


@contextmanager
def daemon_killed(stage: Stage, name: str) -> Iterator[None]:
    """Kill the daemon; PostgreSQL lives, and the daemon is started at the end only."""
    node = stage.nodes[name]
    processes.kill([_present(node.daemon(), f"{name}'s daemon")])
    yield
    node.start()


@contextmanager
def node_killed(stage: Stage, name: str) -> Iterator[None]:
    """Kill every process of the node, and start its daemon at the end."""
    node = stage.nodes[name]
    node.kill()
    yield
    node.start()


@contextmanager
def node_cut_off(stage: Stage, name: str) -> Iterator[None]:
    """Cut the node off from the other nodes and from the clients."""
    stage.cut_off(name)
    yield
    stage.heal(name)


FAULTS: Final = {
    "postmaster": Fault(inject=postmaster_killed),
    "freeze": Fault(inject=postgres_frozen),
    "daemon": Fault(inject=daemon_killed),
    "cut": Fault(inject=node_cut_off, needs_namespaces=True),
    "node": Fault(inject=node_killed),
    "standby": Fault(inject=node_killed, hits_primary=False),
}


def _present(process: Process | None, what: str) -> Process:
    if process is None:
        raise LabError(f"{what} does not run")
    return process
