"""Before a planned change of the primary: new clients wait, the others go on."""

import pytest

from pgbastion.testing.stand_in_server import Behaviour
from support.proxy_lab import eventually, proxy_lab, startup

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_new_clients_wait_while_sessions_go_on() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        session = await lab.session()

        lab.proxy.set_routes(lab.routes("n1", park=True))
        newcomer = await lab.connect()
        newcomer.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        assert await session.query("who") == [b"n1"]
        lab.proxy.set_routes(lab.routes("n2", epoch=2))
        await newcomer.until_ready()
        assert await newcomer.query("who") == [b"n2"]


async def test_clients_go_on_where_the_change_does_not_happen() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1", park=True))
        newcomer = await lab.connect()
        newcomer.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        lab.proxy.set_routes(lab.routes("n1"))

        await newcomer.until_ready()
        assert await newcomer.query("who") == [b"n1"]


async def test_whom_a_server_turns_away_that_ends_waits_for_the_next() -> None:
    async with proxy_lab("n1", "n2") as lab:
        lab.servers["n1"].behaviour = Behaviour.SILENT
        lab.proxy.set_routes(lab.routes("n1"))
        newcomer = await lab.connect()
        newcomer.send(startup())
        await eventually(lambda: lab.servers["n1"].connections == 1)
        lab.proxy.set_routes(lab.routes("n1", park=True))

        lab.servers["n1"].turn_away()

        await eventually(lambda: lab.proxy.snapshot().held == 1)
        lab.proxy.set_routes(lab.routes("n2", epoch=2))
        await newcomer.until_ready()
        assert await newcomer.query("who") == [b"n2"]


async def test_at_any_other_time_a_client_is_told_what_the_server_said() -> None:
    async with proxy_lab("n1") as lab:
        lab.servers["n1"].behaviour = Behaviour.STARTING_UP
        lab.proxy.set_routes(lab.routes("n1"))
        newcomer = await lab.connect()
        newcomer.send(startup())

        assert (await newcomer.error())["C"] == "57P03"
