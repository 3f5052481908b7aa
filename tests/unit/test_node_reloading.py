"""A reload while the server is not there to take its part."""

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.config.model import Config
from pgbastion.config.secrets import Secrets
from pgbastion.errors import PostgresError
from pgbastion.model.ids import Epoch
from pgbastion.node.reloading import reload_server
from support.configs import understood

pytestmark = pytest.mark.anyio


class FakeNode:
    """A node whose server answers, or does not."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.renewed: list[dict[str, str]] = []
        self.secrets = Secrets(
            cluster=b"0123456789abcdef", write_token="w", read_token=None, passwords={}
        )
        self.host = SimpleNamespace(state=SimpleNamespace(epoch=Epoch(1)))
        self.instance = self

    async def reload_server(self) -> None:
        if not self.answers:
            raise PostgresError("the server starts")

    async def renew_passwords(
        self, passwords: Mapping[str, str], *, on_server: bool
    ) -> tuple[str, ...]:
        assert on_server
        if not self.answers:
            raise PostgresError("the server starts")
        self.renewed.append(dict(passwords))
        return tuple(passwords)


async def reloaded(node: Any, config: Config) -> str:
    return await reload_server(node, config, lambda epoch: epoch == 1)


async def test_a_server_that_does_not_answer_hinders_no_reload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = FakeNode(answers=False)

    told = await reloaded(node, understood(postgresql={}))

    assert "PostgreSQL did not take its part: the server starts" in told
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert said == ["server_not_reloaded"]


async def test_passwords_that_were_not_taken_are_tried_at_the_next_reload() -> None:
    config = understood(postgresql={})
    node = FakeNode(answers=False)

    await reloaded(node, config)
    before = dict(node.secrets.passwords)
    node.answers = True
    told = await reloaded(node, config)
    await reloaded(node, config)

    assert told == ""
    assert before == {}
    # Once: afterwards they are known to be in force.
    assert node.renewed == [dict(node.secrets.passwords)]
    assert node.secrets.passwords
