"""Scripts about the addresses for replicas."""

from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.stage import Stage

MOVED_WITHIN_MS = 20_000


def address_holder_is_cut_off(stage: Stage) -> None:
    """The standby that has an address hears nothing more, and goes on."""
    (name,) = stage.cluster.judge.addresses
    holder = _at(stage, name)
    stage.isolate(holder)
    _moved(stage, name, holder)
    stage.mend()


def address_holder_hears_it_late(stage: Stage) -> None:
    """An address comes to a node whose last word is from before that.

    Nobody may take "I do not have it" for an answer that was said before the node
    knew that it has it.
    """
    (name,) = stage.cluster.judge.addresses
    first = _at(stage, name)
    (second,) = [m for m in _standbys(stage) if m is not first]
    first.kill_daemon()
    judge = stage.cluster.judge
    stage.until(lambda: _placed_at(stage, name) == second.number, limit_ms=20_000)
    first.start_daemon()
    # It hears all, and nobody hears it.
    for other in stage.n:
        if other != second.number:
            stage.cluster.links.cut(second.number, other)
    stage.until(
        lambda: second.has_address(name) or judge.state.placement(name) is None,
        limit_ms=MOVED_WITHIN_MS,
    )
    _moved(stage, name, second)
    stage.mend()


def _at(stage: Stage, name: str) -> Machine:
    (holder,) = [m for m in stage.n.values() if m.has_address(name)]
    return holder


def _standbys(stage: Stage) -> list[Machine]:
    primary = stage.holder
    return [m for m in stage.n.values() if not m.witness and m is not primary]


def _placed_at(stage: Stage, name: str) -> int:
    placed = stage.cluster.judge.state.placement(name)
    return 0 if placed is None or placed.ended else placed.member_id


def _moved(stage: Stage, name: str, holder: Machine) -> None:
    """Wait until the address is at another machine."""
    others = [m for m in stage.n.values() if m is not holder]
    stage.until(
        lambda: any(m.has_address(name) for m in others), limit_ms=MOVED_WITHIN_MS
    )
