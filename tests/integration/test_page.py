"""The page in a real browser, of a real daemon beside a real Mosquitto: states, numbers, a click that requeues."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.test_main_job import ROUTES, publish, readings
from tests.sim.browser import DESKTOP, PHONE, Page, browser, find_chromium
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="chromium is not installed: apt install chromium"),
]
PICTURES = Path(__file__).parents[2] / "docs" / "guides" / "pictures"
MODEL = """
[routes.text]
topics = ["logs/#"]
handler = "classify_text"
payload = { format = "text" }
[routes.text.options]
model = "minilm-int8"
[routes.text.options.labels.trouble]
examples = ["motor stopped"]
[routes.text.options.labels.routine]
examples = ["heartbeat ok"]
"""
STATE = "document.body.dataset.state"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess) -> Iterator[Gateway]:
    text = f"[source]\nport = {mosquitto.port}\nclient_id = '{tmp_path.name}'\n" + ROUTES.format(cloud=cloud.url)
    gateway = Gateway(tmp_path / "gateway", text, name="cellar")
    yield gateway
    gateway.end()


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with browser(tmp_path / "profile") as page:
        yield page
        assert page.told == []


async def keep(page: Page, name: str) -> None:
    """Pictures for the guide, where $GATEWAYD_PICTURES asks for them."""
    if not os.environ.get("GATEWAYD_PICTURES"):
        return
    for size, device in ((DESKTOP, "desktop"), (PHONE, "phone")):
        for scheme in ("light", "dark"):
            if (device == "phone") == (scheme == "dark") or name == "busy":
                await page.be(size, scheme)
                await page.look("new Promise((done) => setTimeout(done, 1300))")
                await page.shoot(PICTURES / f"page-{name}-{device}-{scheme}.png", whole=name == "busy")
    await page.be()


async def open_page(page: Page, gateway: Gateway) -> None:
    await page.go(f"http://127.0.0.1:{gateway.web_port}/")


async def test_it_shows_a_gateway_that_waits_works_loses_its_cloud_and_gets_it_back(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess, page: Page
) -> None:
    gateway.start()
    await open_page(page, gateway)
    await page.until(f"{STATE} === 'empty'")
    assert "mosquitto_pub" in await page.look("document.getElementById('subline').textContent")
    assert str(mosquitto.port) in await page.look("document.getElementById('subline').textContent")
    await keep(page, "empty")

    for _ in range(12):
        publish(mosquitto, "plant/oven/temperature", *readings(25))
        await page.look("new Promise((done) => setTimeout(done, 500))")
    await page.until(f"{STATE} === 'busy'")
    publish(mosquitto, "plant/oven/temperature", *readings(40))
    await keep(page, "busy")
    n = gateway.get("/flow")["routes"]["heat"]["book"]["received"]
    assert n == 340
    await page.until(f"document.querySelector('[data-route=heat]').innerText.includes('Handled\\n{n}')")
    await page.until("document.querySelector('[data-route=heat] svg').getAttribute('aria-label').includes('seen 340')")
    await page.until(f"document.querySelector('[data-sink=cloud]').innerText.includes('Delivered\\n{n}')")
    await page.until("document.getElementById('log').innerText.includes('connected to the broker')")
    await page.until(f"{STATE} === 'drained'")
    await keep(page, "drained")

    cloud.stop()
    publish(mosquitto, "plant/oven/temperature", *readings(7))
    await page.until(f"{STATE} === 'offline'")
    await page.until("document.getElementById('headline').textContent.includes('7 results')")
    await keep(page, "offline")
    cloud.start()
    await page.until(f"{STATE} === 'drained'")


async def test_a_click_requeues_a_dead_letter_and_another_purges_it(
    gateway: Gateway, mosquitto: Mosquitto, page: Page
) -> None:
    gateway.start()
    publish(mosquitto, "plant/oven/temperature", "{not json", "21 degrees")
    await open_page(page, gateway)
    await page.until("document.querySelectorAll('#dead tbody tr').length === 2")
    assert "not json" not in await page.look("document.body.innerText")

    await page.look("document.querySelector('[aria-label=\"Read d:2\"]').click()")
    await page.until("document.getElementById('dialog').open")
    assert "include_input" in await page.look("document.getElementById('dialog').innerText")
    await page.press("Escape", 27)
    await page.until("!document.getElementById('dialog').open")
    await page.look("document.querySelector('[aria-label=\"Requeue d:2\"]').click()")
    await page.until("document.getElementById('dead-said').textContent.includes('1 dead letter requeued')")

    # It fails again, for it is still no JSON: a new dead letter.
    await page.until("!!document.querySelector('[data-id=\"d:3\"]')")
    await page.look("document.querySelector('[aria-label=\"Purge d:1\"]').click()")
    await page.until("document.getElementById('dialog').open")
    await page.look("document.getElementById('dialog-do').click()")
    await page.until("document.getElementById('dead-said').textContent.includes('1 dead letter purged')")
    wait_until(lambda: gateway.get("/flow")["spool"]["dead_letters"] == 1, 30, gateway.describe)
    assert gateway.books().balanced
    log = (gateway.folder / "gatewayd.log").read_text()
    assert log.count("dead letters changed over the page") == 2


async def test_it_says_that_the_daemon_is_gone_and_comes_back_by_itself(gateway: Gateway, page: Page) -> None:
    gateway.start()
    await open_page(page, gateway)
    await page.until(f"{STATE} === 'empty'")

    gateway.kill()
    await page.until(f"{STATE} === 'gone'")
    assert "does not answer" in await page.look("document.getElementById('headline').textContent")
    await keep(page, "gone")
    page.told.clear()  # the browser tells of each connection that was refused
    gateway.start()
    await page.until(f"{STATE} === 'empty'", 60)
    page.told.clear()


async def test_a_damaged_model_is_named_with_what_to_do(gateway: Gateway, mosquitto: Mosquitto, page: Page) -> None:
    folder = gateway.folder / "models" / "minilm-int8"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text("this was cut of")
    gateway.config.write_text(gateway.config.read_text() + MODEL)
    gateway.start()
    publish(mosquitto, "logs/plc", "motor stopped")
    await open_page(page, gateway)

    await page.until(f"{STATE} === 'error'")

    assert "Route text waits for its model" in await page.look("document.getElementById('headline').textContent")
    assert "journal" in await page.look("document.getElementById('subline').textContent")
    await keep(page, "damaged-model")


async def test_a_person_with_a_keyboard_or_a_screen_reader_finds_everything(gateway: Gateway, page: Page) -> None:
    gateway.start()
    await open_page(page, gateway)
    await page.until(f"{STATE} === 'empty'")

    await page.press("Tab", 9)
    assert await page.look("document.activeElement.className") == "skip"
    tree = await page.call("Accessibility.getFullAXTree")
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree["nodes"] if "role" in node]
    roles = {role for role, _ in found}
    assert {"main", "banner", "contentinfo", "status", "log", "heading"} <= roles
    assert [name for role, name in found if role == "image" and not name] == []
    assert [name for role, name in found if role in ("button", "combobox", "link", "progressbar") and not name] == []
    assert [name for role, name in found if role == "image" and "messages a second in" in name]


@pytest.mark.parametrize("size", [PHONE, DESKTOP, (320, 640)])
async def test_nothing_has_to_be_scrolled_sideways(gateway: Gateway, page: Page, size: tuple[int, int]) -> None:
    gateway.start()
    await page.be(size)
    await open_page(page, gateway)
    await page.until(f"{STATE} === 'empty'")

    assert await page.look("document.documentElement.scrollWidth") <= size[0]


async def test_the_login_lets_in_who_knows_the_token(gateway: Gateway, page: Page) -> None:
    (gateway.folder / "page-token").write_text("a token of some length\n")
    (gateway.folder / "page-token").chmod(0o600)
    text = gateway.config.read_text().replace("[web]\n", '[web]\ntoken = { file = "page-token" }\n')
    gateway.config.write_text(text)
    gateway.start(ready=False)
    wait_until(lambda: gateway.get("/healthz"), 60, gateway.describe)
    await open_page(page, gateway)
    assert await page.look("location.pathname") == "/login"

    await page.look("document.getElementById('token').value = 'a token of some length'")
    await page.look("document.querySelector('form').requestSubmit()")

    await page.until(f"location.pathname === '/' && {STATE} === 'empty'")
    await page.until("!document.getElementById('logout').hidden")
    assert await page.look("document.cookie") == ""
    log = (gateway.folder / "gatewayd.log").read_text()
    assert "a token of some length" not in log
