"""What happened: the bounded list, and what two states of the cluster differ in."""

import asyncio
from dataclasses import replace

import pytest

from pgbastion.model.cluster import ClusterState, Order, OrderKind, OrderOutcome
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.settings import SettingsVersion
from pgbastion.observe.events import KEPT_MAX, EventKind, Events, Happening
from pgbastion.observe.state_changes import happenings
from pgbastion.testing.views import cluster_state, member
from support.snapshots import change

WARNING = Happening(kind=EventKind.WARNING, what="x")
BEFORE = cluster_state()
ORDER = Order(
    order_id="o1",
    order=OrderKind.SWITCHOVER,
    target=NodeId("n2"),
    epoch=Epoch(3),
    drain_ms=0,
    force=False,
    cause="a test",
    at="",
    expires_at="",
)


def events(number: int = 0) -> Events:
    made = Events("n1", now=lambda: "now", first=100)
    made.note([WARNING] * number)
    return made


def test_events_are_numbered_and_read_again_from_a_number() -> None:
    made = events(5)

    after, lost = made.after(102)

    assert ([e.seq for e in after], lost) == ([103, 104], False)
    assert after[0].key == "n1-103"


def test_a_follower_is_told_when_something_is_gone() -> None:
    made = events(KEPT_MAX + 10)

    kept, lost = made.after(100)

    assert (len(kept), lost) == (KEPT_MAX, True)
    assert made.after(109)[1] is False


def test_a_number_of_another_node_gets_all_there_is() -> None:
    kept, lost = events(3).after(10**9)

    assert (len(kept), lost) == (3, True)


@pytest.mark.anyio
async def test_a_follower_is_woken_by_the_next_event() -> None:
    made = events(1)
    waiting = asyncio.create_task(made.wait(made.newest, 60))
    await asyncio.sleep(0)

    made.note([WARNING])

    await asyncio.wait_for(waiting, 1)


def what(after: ClusterState) -> list[tuple[str, str]]:
    return [(h.kind.value, h.what) for h in happenings(BEFORE, after)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"index": 7}, []),
        ({"history": (change(4, "n2"),)}, [("role", "assigned")]),
        ({"orders": (ORDER,)}, [("order", "given")]),
        ({"orders": (replace(ORDER, begun=True),)}, [("order", "begun")]),
        (
            {"orders": (replace(ORDER, outcome=OrderOutcome.DONE),)},
            [("order", "done")],
        ),
        ({"paused": True, "pause_revision": 1}, [("pause", "paused")]),
        (
            {"members": (*BEFORE.members, member(4, joined=True))},
            [("membership", "announced"), ("membership", "joined")],
        ),
        ({"members": BEFORE.members[:2]}, [("membership", "left")]),
        (
            {
                "settings_versions": (
                    SettingsVersion(version=1, parameters=(), by="x", at="y"),
                )
            },
            [("settings", "agreed")],
        ),
    ],
)
def test_what_a_command_changed_is_told(
    changes: dict[str, object], told: list[tuple[str, str]]
) -> None:
    assert what(replace(BEFORE, **changes)) == told  # type: ignore[arg-type]


def test_what_the_cluster_decided_has_the_same_key_on_every_node() -> None:
    after = replace(BEFORE, history=(change(4, "n2"),))
    keys = []
    for node in ("n1", "n2"):
        made = Events(node, now=lambda: "now", first=1)
        made.note(happenings(BEFORE, after))
        keys.append([e.key for e in made.after(0)[0]])

    assert keys[0] == keys[1] == ["role-40-assigned"]
