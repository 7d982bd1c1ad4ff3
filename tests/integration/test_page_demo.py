"""The demo's page: its switch really unplugs the demo's cloud, and plugs it in again."""

import re
import signal
from pathlib import Path

import pytest

from tests.integration.test_demo import models, start  # noqa: F401 - a fixture
from tests.integration.test_page import STATE, keep
from tests.sim.browser import browser, find_chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(find_chromium() is None, reason="chromium is not installed: apt install chromium"),
]


async def test_the_switch_on_the_demos_page_unplugs_the_cloud(models: Path, tmp_path: Path) -> None:  # noqa: F811
    demo = start(tmp_path / "demo", "--seconds", "3600")
    try:
        assert demo.stdout is not None
        line = ""
        while "messages in" not in line:
            line = demo.stdout.readline()
            assert line, "the demo ended before it began"
            if found := re.match(r"Look: (http://127\.0\.0\.1:[0-9]+)", line):
                url = found.group(1)
        async with browser(tmp_path / "profile") as page:
            await page.go(url)
            await page.until(f"{STATE} === 'busy'", 60)
            switch = "document.querySelector('[role=switch]')"
            await page.until(f"!!{switch}")
            assert await page.look(f"{switch}.getAttribute('aria-checked')") == "false"

            await page.look(f"{switch}.click()")
            await page.until(f"{STATE} === 'offline'", 60)
            await page.until(f"{switch}.getAttribute('aria-checked') === 'true'")
            words = "document.querySelector('[data-sink=cloud] dl').innerText"
            await page.until(f"parseInt({words}.split('Waiting')[1]) > 200", 60)
            await keep(page, "demo")

            await page.look(f"{switch}.click()")
            await page.until(f"{switch}.getAttribute('aria-checked') === 'false'")
            await page.until(f"{STATE} === 'busy'", 60)
            assert page.told == []
    finally:
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=120)
    assert demo.returncode == 0, err
    assert "Both books balance." in out
