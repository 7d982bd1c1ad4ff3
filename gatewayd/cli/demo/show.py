"""The demo: start everything for real, cut the cloud, bring it back, stop, and open the books.

The daemon is a process of its own with an ordinary config; what the demo says at the end is what
`gatewayd spool audit` would say.
"""

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from gatewayd.cli.cloud import LocalCloud
from gatewayd.cli.demo import config as demo_config
from gatewayd.cli.demo.bundles import prepare
from gatewayd.cli.demo.bus import run_devices, run_listener
from gatewayd.cli.demo.devices import plant
from gatewayd.cli.demo.scene import Scene
from gatewayd.cli.demo.view import draw, line
from gatewayd.cli.models import cache_dir
from gatewayd.cli.output import print_json
from gatewayd.errors import GatewaydError
from gatewayd.spool.books import Books
from gatewayd.spool.reader import SpoolReader

_START_S = 60.0
_STOP_S = 40.0
_DRAIN_S = 15.0
_LOOK_S = 0.25


async def run_demo(*, seconds: float, as_json: bool, keep: Path | None, models_dir: Path | None) -> bool:
    """Run it. True when both books balance at the end and nothing waits that the cloud should have."""
    console = Console(stderr=as_json)
    models = await asyncio.to_thread(prepare, (models_dir or cache_dir() / "demo-models").absolute(), console.print)
    with tempfile.TemporaryDirectory(prefix="gatewayd-demo-") as temporary:
        folder = Path(temporary) if keep is None else keep
        folder.mkdir(parents=True, exist_ok=True)
        ports = demo_config.Ports(*free_ports(3))
        config = demo_config.write(folder, ports, models)
        scene = Scene()
        console.print(
            f"Config: {config}   log: {folder / 'gatewayd.log'}   metrics: http://127.0.0.1:{ports.web}/metrics"
        )
        await play(folder, ports, config, scene, seconds, console)
        books = read_books(folder)
        n_dead = sum(book.get("dead", 0) for book in books.messages.values())
    show_books(books, scene, n_dead, as_json=as_json, console=console)
    return books.balanced


async def play(
    folder: Path, ports: demo_config.Ports, config: Path, scene: Scene, seconds: float, console: Console
) -> None:
    """Broker, daemon, cloud and devices, for as long as asked; everything is stopped when this returns."""
    cloud = LocalCloud()
    await cloud.start(ports.cloud)
    command = [sys.executable, "-m", "gatewayd"]
    try:
        async with (
            child(
                [sys.executable, "-m", "gatewayd.cli.demo.broker", str(ports.broker)], folder / "broker.log"
            ) as broker,
            child([*command, "run", "--config", str(config)], folder / "gatewayd.log") as daemon,
        ):
            await asyncio.wait_for(_ready(broker, daemon, ports, folder), _START_S)
            await _act(folder, ports, scene, cloud, seconds, console)
            daemon.terminate()
            await asyncio.wait_for(daemon.wait(), _STOP_S)
    finally:
        scene.stored = cloud.unique
        await cloud.stop()


async def _ready(
    broker: asyncio.subprocess.Process, daemon: asyncio.subprocess.Process, ports: demo_config.Ports, folder: Path
) -> None:
    assert broker.stdout is not None
    await broker.stdout.readline()
    while not await answers(ports.web):
        if daemon.returncode is not None:
            log = (folder / "gatewayd.log").read_text(errors="replace")[-2000:]
            raise GatewaydError(f"the daemon ended with status {daemon.returncode}:\n{log}")
        await asyncio.sleep(0.05)


async def answers(port: int) -> bool:
    """Whether the daemon is ready and connected to the broker."""
    import aiohttp

    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/status") as response:
            return bool((await response.json())["broker"]["connected"])
    except aiohttp.ClientError:
        return False


async def _act(
    folder: Path, ports: demo_config.Ports, scene: Scene, cloud: LocalCloud, seconds: float, console: Console
) -> None:
    fast, slow = plant(seed=7)
    async with asyncio.TaskGroup() as tasks:
        listener = tasks.create_task(run_listener(ports.broker, scene), name="listener")
        devices = tasks.create_task(run_devices(ports.broker, fast, slow, scene), name="devices")
        looking = tasks.create_task(_look(folder, scene, cloud, console), name="view")
        await _script(scene, cloud, seconds)
        devices.cancel()
        await _drained(scene)
        looking.cancel()
        listener.cancel()


async def _script(scene: Scene, cloud: LocalCloud, seconds: float) -> None:
    """A third of the time with the cloud, a third without, a third with it again."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    steps: list[tuple[float, str, Callable[[], object]]] = [
        (
            end - seconds * 2 / 3,
            "The cloud is cut off. Results pile up in the spool; the local bus notices nothing.",
            cloud.cut,
        ),
        (end - seconds / 3, "The cloud is back. The spool drains.", cloud.restore),
        (end, "The devices stop.", _nothing),
    ]
    for at, words, act in steps:
        while loop.time() < at:
            scene.left_s = end - loop.time()
            await asyncio.sleep(min(0.25, max(0.0, at - loop.time())))
        await act()  # type: ignore[misc]
        scene.events.append(words)


async def _nothing() -> None:
    return None


async def _drained(scene: Scene) -> None:
    """Until the cloud has everything, or it takes too long."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            await asyncio.sleep(1.0)
            while scene.pending:
                await asyncio.sleep(0.1)
    except TimeoutError:
        scene.events.append("The spool did not drain in time.")


async def _look(folder: Path, scene: Scene, cloud: LocalCloud, console: Console) -> None:
    """Draw, four times a second on a terminal, every other second elsewhere."""
    if console.is_terminal:
        with Live(draw(scene), console=console, refresh_per_second=4, transient=False) as live:
            while True:
                await _observe(folder, scene, cloud)
                live.update(draw(scene))
                await asyncio.sleep(_LOOK_S)
    n_told = 0
    looks = 0
    while True:
        await _observe(folder, scene, cloud)
        if looks % 8 == 0:
            console.print(line(scene), soft_wrap=True, highlight=False)
        for words in list(scene.events)[n_told:]:
            console.print(f"--- {words}", highlight=False)
            n_told += 1
        looks += 1
        await asyncio.sleep(_LOOK_S)


async def _observe(folder: Path, scene: Scene, cloud: LocalCloud) -> None:
    scene.spool_depth(await asyncio.to_thread(_pending, folder))
    scene.stored = cloud.unique
    scene.cloud_is_up = not cloud.is_cut


def _pending(folder: Path) -> int:
    with SpoolReader.open(folder / "state" / "spool.db") as reader:
        return sum(book["pending"] for sinks in reader.books().results.values() for book in sinks.values())


def read_books(folder: Path) -> Books:
    """The books as they are on disk."""
    with SpoolReader.open(folder / "state" / "spool.db") as reader:
        return reader.books()


def show_books(books: Books, scene: Scene, n_dead: int, *, as_json: bool, console: Console) -> None:
    """The end of the show: where everything is."""
    totals = books.totals()
    if as_json:
        print_json(totals)
        return
    console.print()
    for name, equation in (("messages", "received"), ("results", "produced")):
        book: Any = totals[name]
        rest = "  ".join(f"{line} {n}" for line, n in book.items() if line != equation)
        console.print(f"[bold]{name}[/bold]: {equation} {book[equation]} = {rest}", highlight=False)
    console.print(f"published and acknowledged by the broker: {scene.acked}; stored by the cloud: {scene.stored}")
    verdict = "[green]Both books balance.[/green]" if books.balanced else "[red]The books do not balance.[/red]"
    console.print(verdict + (f" {n_dead} dead letters." if n_dead else ""))


def free_ports(n: int) -> list[int]:
    """`n` ports on loopback that were free a moment ago."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@asynccontextmanager
async def child(command: list[str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that does not outlive us: its standard input closes when we end, and it is killed on the way out."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
