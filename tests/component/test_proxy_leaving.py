"""Before an address of the node goes, its clients are told."""

import pytest

from pgbastion.proxy.routes import Limits
from support.proxy_lab import PRIMARY_PORT, eventually, proxy_lab, startup

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_session_on_the_address_ends_with_words_and_its_server_is_reset() -> (
    None
):
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()

        await lab.proxy.leave(frozenset({lab.address}))

        error = await client.error()
        assert error["C"] == "57P01"
        assert "moves to another node" in error["D"]
        await eventually(lambda: lab.servers["n1"].endings == ["reset"])
        assert lab.proxy.snapshot().connections == 0


async def test_a_client_that_waits_for_a_primary_is_told_too() -> None:
    async with proxy_lab("n1", limits=Limits(hold_s=10)) as lab:
        lab.proxy.set_routes(lab.routes("n1", park=True))
        client = await lab.connect(PRIMARY_PORT)
        client.send(startup())
        await eventually(lambda: lab.proxy.snapshot().held == 1)

        await lab.proxy.leave(frozenset({lab.address}))

        assert (await client.error())["C"] == "57P01"


async def test_sessions_on_other_addresses_stay() -> None:
    async with proxy_lab("n1") as lab:
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()

        await lab.proxy.leave(frozenset({"10.77.0.50"}))

        assert await client.query("who") == [b"n1"]


async def test_an_ipv4_client_of_an_ipv6_listener_is_known_by_its_ipv4_address() -> (
    None
):
    async with proxy_lab("n1", bind="::", first_port=25_432) as lab:
        lab.address = "127.0.0.1"
        lab.proxy.set_routes(lab.routes("n1"))
        client = await lab.session()

        await lab.proxy.leave(frozenset({"127.0.0.1"}))

        assert (await client.error())["C"] == "57P01"
