"""Every endpoint by every kind of client, and what the audit log says of it."""

import logging
from collections.abc import AsyncIterator

import pytest

from pgbastion.api.access import ALWAYS_OPEN
from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import CHANGES, READS
from pgbastion.api.ports import Tokens
from pgbastion.observe.logging import fields_of
from support.api_server import AUTHORISED, WRITE, Api, error, serve

pytestmark = pytest.mark.anyio

READ = "read-token"
CLIENTS = {
    "nobody": {},
    "a wrong token": {"Authorization": "Bearer wrong"},
    "the reading token": {"Authorization": f"Bearer {READ}"},
    "the writing token": AUTHORISED,
}
OTHERS = ("/metrics", "/openapi.json", "/operations/none")


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serve() as made:
        yield made


@pytest.mark.parametrize("who", CLIENTS)
@pytest.mark.parametrize("read_token", [None, READ], ids=["open reading", "read token"])
async def test_reading_is_open_unless_a_token_is_wanted(
    api: Api, who: str, read_token: str | None
) -> None:
    api.tokens = Tokens(write=WRITE, read=read_token)
    known = who in ("the reading token", "the writing token")

    for path in (*CHECKS, *READS, *OTHERS):
        status = (await api.client.get(path, headers=CLIENTS[who])).status_code
        may = known or read_token is None or path in ALWAYS_OPEN
        assert (status != 401) is may, path


@pytest.mark.parametrize("who", CLIENTS)
@pytest.mark.parametrize("read_token", [None, READ], ids=["open reading", "read token"])
async def test_changing_needs_the_writing_token(
    api: Api, who: str, read_token: str | None
) -> None:
    api.tokens = Tokens(write=WRITE, read=read_token)
    wanted = {
        "the writing token": None,
        "the reading token": 403 if read_token else 401,
    }

    for method, path in CHANGES:
        answer = await api.client.request(
            method, path, content=b"not json", headers=CLIENTS[who]
        )
        # Who may goes on to the body, which makes no sense here.
        assert answer.status_code == (wanted.get(who, 401) or 400), path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
async def test_a_page_of_another_origin_changes_nothing(
    api: Api, headers: dict[str, str], status: int
) -> None:
    answer = await api.client.post("/reload", headers={**AUTHORISED, **headers})

    assert answer.status_code == status
    assert api.commands.reloads == (1 if status == 200 else 0)
    if status == 403:
        assert error(answer)["code"] == "foreign_page"


async def test_a_page_of_this_node_may(api: Api) -> None:
    own = str(api.client.base_url).rstrip("/")

    answer = await api.client.post("/reload", headers={**AUTHORISED, "Origin": own})

    assert answer.status_code == 200


async def test_no_answer_lets_a_foreign_page_read_it(api: Api) -> None:
    answer = await api.client.options(
        "/cluster", headers={"Origin": "http://evil.example"}
    )

    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "set-cookie" not in answer.headers


async def test_who_did_what_is_in_the_log(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pgbastion.audit")
    api.tokens = Tokens(write=WRITE, read=READ)

    await api.client.post("/cluster/pause", headers=AUTHORISED)
    await api.client.post("/cluster/pause", headers=CLIENTS["the reading token"])
    await api.client.post("/cluster/pause")
    await api.client.get("/cluster", headers=AUTHORISED)

    said = [fields_of(r) for r in caplog.records if r.message == "audit"]
    assert [(f["by"], f["status"]) for f in said] == [
        ("the writing token", 200),
        ("the reading token", 403),
        ("nobody", 401),
    ]
    assert {f["client"] for f in said} == {"127.0.0.1"}
    assert said[0]["method"] == "POST"
    assert said[0]["path"] == "/cluster/pause"
    assert WRITE not in caplog.text
    assert READ not in caplog.text
