"""The demo: start everything for real, cut the cloud, bring it back, stop, and open the books.

The daemon is a process of its own with an ordinary config; what the demo says at the end is what
`gatewayd spool audit` would say.
"""

import asyncio
import importlib.util
import signal
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from gatewayd.cli.cloud import LocalCloud
from gatewayd.cli.demo import config as demo_config
from gatewayd.cli.demo import stage
from gatewayd.cli.demo.bundles import DemoModels, prepare
from gatewayd.cli.demo.bus import run_devices, run_listener
from gatewayd.cli.demo.daemon import CUT, UP
from gatewayd.cli.demo.devices import plant
from gatewayd.cli.demo.scene import LOG_LINES, Scene
from gatewayd.cli.demo.view import draw, line
from gatewayd.cli.models import cache_dir
from gatewayd.cli.output import book_lines, print_json, quiet_logs
from gatewayd.errors import GatewaydError
from gatewayd.spool.books import Books

_DRAIN_S = 15.0
_LOOK_S = 0.25
_LINE_LOOKS = 8  # a line of state every so many looks, where there is no terminal


def run_demo(*, seconds: float, as_json: bool, keep: Path | None, models_dir: Path | None) -> bool:
    """Run it. True when both books balance at the end."""
    quiet_logs()
    if importlib.util.find_spec("amqtt") is None:
        raise GatewaydError("the demo's own broker is missing: pip install 'gatewayd[demo]'")
    if keep is not None and (keep / "state" / "spool.db").exists():
        raise GatewaydError(f"{keep} holds the spool of an earlier demo: name another folder, or remove it")
    console = Console(stderr=as_json, highlight=False)
    console.soft_wrap = not console.is_terminal  # a line of a log or a pipe is one line
    folder = (models_dir or cache_dir() / "demo-models").absolute()
    models = prepare(folder, lambda words: console.print(words, markup=False))
    with tempfile.TemporaryDirectory(prefix="gatewayd-demo-") as temporary:
        place = Path(temporary) if keep is None else keep
        place.mkdir(parents=True, exist_ok=True)
        scene, books = asyncio.run(_run(place, models, seconds, console))
    if as_json:
        print_json(books.totals())
    else:
        show_books(books, scene, models, console)
        if keep is not None:
            console.print(f"Look into it: gatewayd spool audit --config {keep / 'config.toml'}", markup=False)
    return books.balanced


async def _run(folder: Path, models: DemoModels, seconds: float, console: Console) -> tuple[Scene, Books]:
    asyncio.get_running_loop().set_exception_handler(_leave_out_lost_connections)
    ports = demo_config.Ports(*stage.free_ports(3))
    config = demo_config.write(folder, ports, models)
    console.print(f"Config {config}, log {folder / 'gatewayd.log'}")
    console.print(f"Look: http://127.0.0.1:{ports.web} shows it live, and has a switch to unplug the cloud.")
    scene = Scene(seconds)
    cloud = LocalCloud()
    await cloud.start(ports.cloud)
    try:
        async with stage.broker(ports.broker, folder) as broker, stage.daemon(config, ports, folder) as daemon:
            await _play(folder, ports, scene, cloud, console, [broker, daemon])
    finally:
        scene.stored = cloud.unique
        await cloud.stop()
    return scene, await asyncio.to_thread(stage.read_books, folder)


def _leave_out_lost_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A future of the MQTT client that nobody waits for any more: whoever needs the broker was told it is gone."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


async def _play(
    folder: Path,
    ports: demo_config.Ports,
    scene: Scene,
    cloud: LocalCloud,
    console: Console,
    children: list[stage.Child],
) -> None:
    """Devices, listener, view and script, for as long as asked or until Ctrl-C."""
    fast, slow = plant(seed=7)
    stop = _stop_on_signal()
    async with asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(child.watch(), name=f"watch[{child.name}]") for child in children]
        listener = tasks.create_task(run_listener(ports.broker, scene), name="listener")
        devices = tasks.create_task(run_devices(ports.broker, fast, slow, scene), name="devices")
        looking = tasks.create_task(_look(folder, scene, cloud, console, children[-1]), name="view")
        switch = tasks.create_task(_obey(cloud, scene, children[-1]), name="switch")
        await _script(scene, cloud, stop)
        devices.cancel()
        await _drained(scene)
        for task in (looking, listener, switch, *watching):
            task.cancel()


def _stop_on_signal() -> asyncio.Event:
    """Set by the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def caught() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, caught)
    return stop


async def _script(scene: Scene, cloud: LocalCloud, stop: asyncio.Event) -> None:
    """A third of the time with the cloud, a third without, a third with it again."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + scene.seconds
    cut = "The cloud is cut off. Results pile up in the spool; the local bus notices nothing."
    steps: list[tuple[float, str, Callable[[], Coroutine[Any, Any, None]]]] = [
        (end_s - scene.seconds * 2 / 3, cut, cloud.cut),
        (end_s - scene.seconds / 3, "The cloud is back. The spool drains.", cloud.restore),
        (end_s, "The devices stop.", cloud.restore),
    ]
    for at_s, words, act in steps:
        while (left_s := at_s - loop.time()) > 0 and not stop.is_set():
            scene.left_s = end_s - loop.time()
            await asyncio.sleep(min(_LOOK_S, left_s))
        if stop.is_set():
            await cloud.restore()
            scene.left_s = 0.0
            scene.tell("Interrupted: the devices stop, the spool drains. Once more ends it at once.")
            return
        await act()
        scene.tell(words)
    scene.left_s = 0.0


async def _drained(scene: Scene) -> None:
    """Until the cloud has everything, or it takes too long."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            await asyncio.sleep(1.0)
            while scene.pending:
                await asyncio.sleep(0.1)
    except TimeoutError:
        scene.tell("The spool did not drain in time.")
    await asyncio.sleep(_LOOK_S * 2)  # so that the view has shown the end


async def _obey(cloud: LocalCloud, scene: Scene, daemon: stage.Child) -> None:
    """Cut the cloud and bring it back as somebody asks for it on the page."""
    while asked := await daemon.heard():
        await (cloud.cut() if asked == CUT else cloud.restore())
        daemon.tell(CUT if cloud.is_cut else UP)
        scene.tell("Somebody unplugged the cloud on the page." if cloud.is_cut else "Somebody plugged the cloud in.")


async def _look(folder: Path, scene: Scene, cloud: LocalCloud, console: Console, daemon: stage.Child) -> None:
    """Draw, four times a second on a terminal; elsewhere a line every other second, and what happens as it happens."""
    if _can_draw(console):
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                await _observe(folder, scene, cloud, daemon)
                live.update(draw(scene, console.size), refresh=True)
                await asyncio.sleep(_LOOK_S)
    n_told = looks = 0
    while True:
        await _observe(folder, scene, cloud, daemon)
        if looks % _LINE_LOOKS == 0:
            console.print(line(scene), markup=False)
        news = list(scene.events)[-(scene.n_events - n_told) :] if scene.n_events > n_told else []
        for words in news:
            console.print(f"----- {words.strip()}", markup=False)
        n_told = scene.n_events
        looks += 1
        await asyncio.sleep(_LOOK_S)


def _can_draw(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")


async def _observe(folder: Path, scene: Scene, cloud: LocalCloud, daemon: stage.Child) -> None:
    if scene.cloud_is_up == cloud.is_cut:  # the page's switch shows what the script does
        daemon.tell(CUT if cloud.is_cut else UP)
    scene.cloud_is_up = not cloud.is_cut
    scene.stored = cloud.unique
    scene.spool_depth(await asyncio.to_thread(stage.n_pending, folder))


def show_books(books: Books, scene: Scene, models: DemoModels, console: Console) -> None:
    """The end of the show: where everything is."""
    console.print()
    for words in book_lines(books):
        console.print(words)
    n_lines = scene.sent[LOG_LINES]
    both = (
        f" (each of the {n_lines} log lines is on two routes, and stands in the books of both)"
        if models.encoder
        else ""
    )
    console.print(f"Published: {sum(scene.sent.values())} messages{both}. Stored by the cloud: {scene.stored} results.")
    n_open = sum(book["journaled"] for book in books.messages.values())
    if n_open:
        console.print(f"Journaled: {n_open} log lines of a window that is still open; the next start goes on with it.")
    latency = scene.latency_ms()
    if latency is not None:
        console.print(
            f"From publishing to the live result: median {latency[0]:.1f} ms, 95th percentile {latency[1]:.1f} ms, "
            f"over {len(scene.latencies_s)} results, through the demo's own broker."
        )
    verdict = "[green]Both books balance.[/green]" if books.balanced else "[red]The books do not balance.[/red]"
    n_dead = sum(book.get("dead", 0) for book in books.messages.values())
    console.print(verdict + (f" {n_dead} dead letters." if n_dead else ""))
