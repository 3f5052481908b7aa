"""Operations that go on after their answer, followed by their ids."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from pgbastion.api.operations import LONG
from pgbastion.api.ports import Done
from pgbastion.cli.exits import Exit
from pgbastion.model.cluster import OrderKind, OrderOutcome, Schedule
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.testing.views import cluster_state, primary_report, received, report
from support.api_server import AUTHORISED, Api, error, serve
from support.cli import Api as FakeNode
from support.cli import answering, run
from support.ordering import AT, LATER, N2, N3, order
from support.snapshots import primary_snapshot, standby_snapshot

pytestmark = pytest.mark.anyio

REINIT = order(order=OrderKind.REINIT, begun=True)
SCHEDULE = Schedule(
    order_id="s1",
    target=N3,
    drain_ms=0,
    cause="",
    at=AT,
    due_at=LATER,
    expires_at=LATER,
)
COPYING = received(
    primary_report(), report(2, state=PostgresState.COPYING, progress="copy: 40%")
)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serve() as made:
        yield made


async def told(api: Api, operation_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.client.get(f"/operations/{operation_id}")).json()
    return found


@pytest.mark.parametrize("path", sorted(LONG))
async def test_what_goes_on_is_answered_with_its_place(api: Api, path: str) -> None:
    api.commands.outcome = Done(facts={"id": "o1", "to": "n2"}, follow="o1")
    answer = await api.client.post(path, json={"to": "n2"}, headers=AUTHORISED)

    assert answer.status_code == 202
    assert answer.headers["location"] == "/operations/o1"
    assert answer.json() == {
        "ok": True,
        "id": "o1",
        "to": "n2",
        "operation": "/operations/o1",
    }


async def test_what_is_done_is_answered_with_200(api: Api) -> None:
    body = {"to": "n2", "dry_run": True}
    answer = await api.client.post("/cluster/switchover", json=body, headers=AUTHORISED)

    assert answer.status_code == 200
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "waiting"),
        ({"begun": True}, "running"),
        *(({"begun": True, "outcome": each}, str(each)) for each in OrderOutcome),
    ],
)
async def test_an_operation_tells_how_far_it_has_come(
    api: Api, changes: dict[str, Any], state: str
) -> None:
    # Any node: this one is a standby.
    orders = (order(2, **changes),)
    api.snapshot = standby_snapshot(state=cluster_state(orders=orders))

    found = await told(api, "o1")

    assert (found["state"], found["id"], found["to"]) == (state, "o1", N2)
    assert found["place"] == "/operations/o1"
    assert (await api.client.get("/operations")).json() == {"operations": [found]}


async def test_what_is_scheduled_is_followed_under_the_id_of_its_order(
    api: Api,
) -> None:
    api.snapshot = primary_snapshot(state=cluster_state(scheduled=(SCHEDULE,)))

    found = await told(api, "s1")

    assert (found["state"], found["due_at"]) == ("scheduled", LATER)


async def test_a_copy_that_fails_tells_why(api: Api) -> None:
    """It is tried again for a day: who waits for it would not know."""
    failed = report(
        2,
        state=PostgresState.STOPPED,
        reason=Reason.REJOIN_FAILED,
        detail="no route to n1",
    )
    reports = received(primary_report(), failed)
    api.snapshot = primary_snapshot(
        state=cluster_state(orders=(REINIT,)), reports=reports
    )

    assert "no route to n1" in (await told(api, "o1"))["progress"]


async def test_a_copy_tells_its_progress_while_it_runs(api: Api) -> None:
    state = cluster_state(orders=(REINIT,))
    ended = cluster_state(orders=(replace(REINIT, outcome=OrderOutcome.DONE),))
    waits = cluster_state(orders=(replace(REINIT, begun=False),))

    seen = []
    for known in (state, ended, waits):
        api.snapshot = primary_snapshot(state=known, reports=COPYING)
        seen.append((await told(api, "o1"))["progress"])

    assert seen == ["copy: 40%", None, None]


async def test_an_id_that_nobody_gave_is_unknown(api: Api) -> None:
    answer = await api.client.get("/operations/o2")

    assert answer.status_code == 404
    assert error(answer)["code"] == "unknown_operation"


# The command

TOLD = {
    "id": "o1",
    "order": "reinit",
    "to": "n2",
    "state": "running",
    "at": AT,
    "settled_at": None,
    "begun": True,
    "outcome": None,
    "progress": "copy: 40%",
    "detail": "",
}
DONE = {**TOLD, "state": "done", "outcome": "done", "progress": None, "settled_at": AT}


def test_operations_are_listed() -> None:
    with answering() as url:
        FakeNode.answers = {"/operations": {"operations": [TOLD]}}
        done = run("operations", "--url", url)

    assert done.returncode == Exit.OK
    assert done.stdout.splitlines()[1].split()[:4] == ["o1", "reinit", "n2", "running"]
    assert "copy: 40%" in done.stdout


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (DONE, Exit.OK),
        ({**DONE, "outcome": "failed"}, Exit.NO),
        (TOLD, Exit.UNFINISHED),
    ],
)
def test_one_is_followed_to_its_outcome(last: dict[str, Any], code: Exit) -> None:
    with answering() as url:
        FakeNode.answers = {"/operations/o1": last}
        done = run("operations", "o1", "--wait", "0.3", "--url", url)

    assert done.returncode == code


def test_an_unknown_one_is_not_waited_for() -> None:
    refusal = {"error": {"code": "unknown_operation", "message": "no", "remedy": "x"}}
    with answering() as url:
        FakeNode.answers = {"/operations/o1": (404, refusal)}
        done = run("operations", "o1", "--url", url)

    assert (done.returncode, done.stderr) == (Exit.NO, "pgbastion: no; x\n")
