"""The dashboard, as a person sees and uses it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from pgbastion.api.dashboard import FILES
from pgbastion.api.ports import Refused
from support.api_server import HOST, WRITE, Api, serve
from support.browser import PHONE, browser

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]

SEEN_S = 20
Step = Callable[[Chrome], object]
Do = Callable[[Step], Awaitable[object]]


@asynccontextmanager
async def opened(
    tmp_path: Path, api: Api, size: tuple[int, int] = (1280, 1400)
) -> AsyncIterator[Do]:
    """Open the page; what is done with it runs beside the server's loop."""
    chrome = browser(tmp_path / "profile", size)
    page = await asyncio.to_thread(chrome.__enter__)

    async def do(step: Callable[[Chrome], object]) -> object:
        return await asyncio.to_thread(step, page)

    try:
        await do(lambda it: it.get(f"http://{HOST}:{api.port}/ui"))
        await do(shows("#facts", "4200 ms left"))
        yield do
        said = await do(lambda it: it.get_log("browser"))  # type: ignore[no-untyped-call]
        # The API has no events here, and a refused order is an answer that says so.
        assert isinstance(said, list)
        assert not [
            line
            for line in said
            if "/events" not in line["message"] and "409" not in line["message"]
        ]
    finally:
        await asyncio.to_thread(chrome.__exit__, None, None, None)


def text(page: Chrome, selector: str) -> str:
    return str(page.find_element(By.CSS_SELECTOR, selector).text)


def shows(selector: str, words: str) -> Callable[[Chrome], object]:
    def wait(page: Chrome) -> object:
        return WebDriverWait(page, SEEN_S).until(lambda it: words in text(it, selector))

    return wait


async def test_the_dashboard_shows_who_is_what_and_what_a_failover_would_do(
    tmp_path: Path,
) -> None:
    async with serve() as api, opened(tmp_path, api) as do:
        nodes = str(await do(lambda page: text(page, "#nodes")))
        facts = str(await do(lambda page: text(page, "#facts")))
        history = str(await do(lambda page: text(page, "#history")))
        drawn = await do(
            lambda page: len(page.find_elements(By.CSS_SELECTOR, "#topology rect"))
        )

    assert all(name in nodes for name in ("n1", "n2", "n3"))
    assert "primary" in nodes
    assert "4200 ms left" in facts
    assert "3 open, 1 held" in facts
    assert history.count("\n") >= 3
    assert drawn == 3


async def test_the_dashboard_follows_a_change_by_itself(tmp_path: Path) -> None:
    async with serve() as api, opened(tmp_path, api) as do:
        state = replace(api.snapshot.state, paused=True)
        api.snapshot = replace(api.snapshot, state=state)

        await do(shows("#facts", "automatic actions are off"))
        hidden = await do(
            lambda page: page.find_element(
                By.CSS_SELECTOR, "[data-do=pause]"
            ).is_displayed()
        )
    assert not hidden


async def test_a_switchover_is_asked_for_with_the_keyboard_alone(
    tmp_path: Path,
) -> None:
    def order(page: Chrome) -> None:
        for _ in range(2):  # past the link to the content
            page.switch_to.active_element.send_keys(Keys.TAB)
        page.switch_to.active_element.send_keys(Keys.ENTER)
        chosen = page.find_element(By.ID, "ask-node")
        Select(chosen).select_by_value("n2")
        secret = page.find_element(By.ID, "ask-token")
        secret.send_keys(WRITE, Keys.ENTER)

    async with serve() as api, opened(tmp_path, api) as do:
        await do(order)
        await do(shows("#ask-answer", "under way"))

        assert api.commands.switchovers == [("n2", None)]


async def test_a_refusal_is_shown_with_its_remedy(tmp_path: Path) -> None:
    def order(page: Chrome) -> None:
        page.find_element(By.CSS_SELECTOR, "[data-do=failover]").click()
        page.find_element(By.ID, "ask-token").send_keys(WRITE)
        page.find_element(By.ID, "ask-go").click()

    async with serve() as api, opened(tmp_path, api) as do:
        api.commands.outcome = Refused(
            code="loss", message="n2 lacks 16 MiB", remedy="wait, or force it"
        )
        await do(order)
        await do(shows("#ask-answer", "n2 lacks 16 MiB. wait, or force it"))

        assert api.commands.failovers == [("n2", False)]


async def test_nothing_is_changed_without_the_token(tmp_path: Path) -> None:
    def order(page: Chrome) -> None:
        page.find_element(By.CSS_SELECTOR, "[data-do=pause]").click()
        page.find_element(By.ID, "ask-go").click()

    async with serve() as api, opened(tmp_path, api) as do:
        await do(order)
        focused = await do(
            lambda page: page.switch_to.active_element.get_attribute("id")
        )

        assert focused == "ask-token"
        assert api.commands.pauses == []


async def test_the_dashboard_fits_a_phone_and_paints_soon(tmp_path: Path) -> None:
    async with serve() as api, opened(tmp_path, api, PHONE) as do:
        wide = await do(
            lambda page: page.execute_script(
                "return document.documentElement.scrollWidth"
                " - document.documentElement.clientWidth"
            )
        )
        painted_ms = await do(
            lambda page: page.execute_script(
                "return performance.getEntriesByName('first-paint')[0]?.startTime"
            )
        )
    assert wide == 0
    print(f"first paint after {painted_ms} ms")  # noqa: T201 - shown with -rP


async def test_dark_and_light_follow_the_persons_choice(tmp_path: Path) -> None:
    def ground(page: Chrome) -> str:
        script = "return getComputedStyle(document.body).backgroundColor"
        return str(page.execute_script(script))

    def prefer(scheme: str) -> Callable[[Chrome], object]:
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        return lambda page: page.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)

    async with serve() as api, opened(tmp_path, api) as do:
        await do(prefer("light"))
        light = await do(ground)
        await do(prefer("dark"))
        dark = await do(ground)
    assert light != dark


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    async with serve() as api:
        for path in FILES:
            answer = await api.client.get(path)
            assert answer.status_code == 200
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "http://" not in answer.text.replace(
                "http://www.w3.org/2000/svg", ""
            )
            assert "https://" not in answer.text


async def test_with_a_read_token_the_files_are_open_and_the_data_is_not() -> None:
    async with serve() as api:
        api.tokens = replace(api.tokens, read="read-token")
        assert (await api.client.get("/ui")).status_code == 200
        assert (await api.client.get("/ui/data")).status_code == 401
