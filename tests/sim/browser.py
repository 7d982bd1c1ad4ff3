"""A headless Chromium, driven over the DevTools protocol: a page as a person has it, without another dependency.

Source of the protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

_START_S = 60.0
PHONE = (390, 844)
DESKTOP = (1180, 900)


def find_chromium() -> str | None:
    """Path of the browser, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._n = 0
        self.told: list[str] = []  # what the console said: errors and refusals of the policy

    async def call(self, method: str, **params: Any) -> Any:
        """One command and its answer."""
        self._n += 1
        await self._socket.send_json({"id": self._n, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("method") == "Log.entryAdded":
                self.told.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.told.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == self._n:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    async def look(self, script: str) -> Any:
        """What a script comes to."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, script: str, seconds: float = 30.0) -> Any:
        """Look until it comes to something true, which is returned."""
        deadline_s = time.monotonic() + seconds
        while not (found := await self.look(script)):
            if time.monotonic() > deadline_s:
                body = await self.look("document.body.dataset.state + ': ' + document.body.innerText.slice(0, 3000)")
                raise AssertionError(f"{script} did not come about; the page says: {body}; the console {self.told}")
            await asyncio.sleep(0.1)
        return found

    async def go(self, url: str) -> None:
        """Open a page."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def be(self, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        """A screen of that size in points, dark or light."""
        width, height = size
        mobile = size == PHONE
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )

    async def press(self, key: str, code: int) -> None:
        """One key of the keyboard."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def shoot(self, path: Path, *, whole: bool = False) -> None:
        """A picture of the screen, or of the whole page."""
        clip: dict[str, Any] = {}
        if whole:
            box = await self.look("({width: innerWidth, height: document.documentElement.scrollHeight})")
            clip = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "scale": 1, **box}}
        shot = await self.call("Page.captureScreenshot", format="png", **clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """A browser with an empty profile and one tab; gone at the end."""
    binary = find_chromium()
    assert binary is not None
    process = await asyncio.create_subprocess_exec(
        binary,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                await page.be()
                yield page
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _port(file: Path) -> int:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        await asyncio.sleep(0.05)
    raise AssertionError("chromium did not start")
