"""``pgbastion top``: what is so stands on the screen, and keys work meanwhile."""

from collections.abc import Iterator

import pytest
from textual.widgets import DataTable, Static

from pgbastion.cli.client import Client, Target
from pgbastion.cli.top import Top
from support.cli import Api, answering

pytestmark = pytest.mark.anyio
TOLD = {"lines": ["healthy: n1 is the primary. Next: nothing to do.", "primary:"]}


@pytest.fixture
def client() -> Iterator[Client]:
    with answering() as url:
        Api.answers = {"/cluster/explain": TOLD}
        yield Client(Target(urls=(url,)))


async def test_the_members_and_the_state_are_shown_and_follow(client: Client) -> None:
    top = Top(client, every_s=3_600)
    async with top.run_test() as pilot:
        await top.workers.wait_for_complete()
        await pilot.pause()
        table = top.query_one(DataTable)
        assert str(table.get_row_at(0)[:2]) == "['n1', 'primary']"
        assert TOLD["lines"][0] in str(top.query_one("#headline", Static).render())

        Api.answers = {"/cluster/explain": {"lines": ["no majority. Next: wait."]}}
        await pilot.press("r")
        await top.workers.wait_for_complete()
        await pilot.pause()
        assert "no majority" in str(top.query_one("#headline", Static).render())


async def test_keys_hide_the_explanation_and_end_the_screen(client: Client) -> None:
    top = Top(client, every_s=3_600)
    async with top.run_test() as pilot:
        assert top.query_one("#details").display
        await pilot.press("e")
        assert not top.query_one("#details").display
        await pilot.press("q")
    assert not top.is_running


async def test_a_silent_cluster_is_shown_as_such() -> None:
    top = Top(Client(Target(urls=("http://127.32.0.9:9",))), every_s=3_600)
    async with top.run_test() as pilot:
        await top.workers.wait_for_complete()
        await pilot.pause()
        assert "does not answer" in str(top.query_one("#headline", Static).render())
