"""`gatewayd replay`: a recording through the real parts; golden samples of handlers are run the same way."""

import asyncio
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import typer

from gatewayd import __version__
from gatewayd.checked import load_checked
from gatewayd.cli.samples import run_samples_file
from gatewayd.config.environment import Environment, Paths, gateway_id, read_environment, resolve_paths
from gatewayd.config.schema import Config, FileSink
from gatewayd.daemon import Life, close_parts, run_parts
from gatewayd.events import event_json
from gatewayd.logs import set_up
from gatewayd.ports import StoredResult
from gatewayd.replay import Recorded, RecordedClock, RecordedSource, read_recording
from gatewayd.spool.books import Books
from gatewayd.telemetry import Telemetry
from gatewayd.wiring import Ground, build, enabled_routes, lay_ground

SINK = "replay"


class PrintingSink:
    """Writes each result as a CloudEvent, one a line."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    async def send(self, results: Sequence[StoredResult]) -> Mapping[str, str]:
        """Print them; standard output takes everything."""
        for result in results:
            sys.stdout.buffer.write(event_json(result, self._gateway) + b"\n")
        sys.stdout.buffer.flush()
        return {}

    async def close(self) -> None:
        """Nothing to let go of."""


async def replay_file(recording: Path, config_path: Path, *, update: bool) -> bool:
    """Replay a recording or a samples file. True when the books balance, or when the samples hold."""
    if recording.name.endswith(".samples.toml"):
        return await asyncio.to_thread(run_samples_file, recording, config_path, update=update)
    config = load_checked(config_path)
    environment = read_environment()
    set_up(config.log, environment)
    with tempfile.TemporaryDirectory(prefix="gatewayd-replay-") as folder:
        paths = msgspec.structs.replace(
            resolve_paths(config, environment, config_path), state_dir=Path(folder), spool=Path(folder) / "spool.db"
        )
        books = await replay(config, paths, environment, read_recording(recording))
    totals = books.totals()
    typer.echo(f"messages {totals['messages']}, results {totals['results']}", err=True)
    return books.balanced


async def replay(config: Config, paths: Paths, environment: Environment, recording: Iterable[Recorded]) -> Books:
    """Run the real parts over a recording, print the results, close every window, and give the books."""
    telemetry = Telemetry.build(config.telemetry, environment, gateway=gateway_id(config), version=__version__)
    clock = RecordedClock()
    ground = lay_ground(to_the_printer(config), paths, environment, telemetry, clock)

    def source(ground: Ground) -> RecordedSource:
        return RecordedSource(recording, ground.keys, clock)

    parts = await build(ground, source=source, sinks={SINK: PrintingSink(ground.gateway)})
    assert isinstance(parts.source, RecordedSource)
    life = Life.begin()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_stop_at_the_end(parts.source, life), name="end of recording")
            await run_parts(parts, life, flush=True)
        return await parts.spool.books()
    finally:
        await close_parts(parts)
        await asyncio.to_thread(telemetry.shutdown)


async def _stop_at_the_end(source: RecordedSource, life: Life) -> None:
    await source.finished.wait()
    life.stop.set()


def to_the_printer(config: Config) -> Config:
    """The config with every route's results going to standard output, and nowhere else."""
    routes = {
        name: msgspec.structs.replace(route, sinks=[SINK], live=False) for name, route in enabled_routes(config).items()
    }
    gateway = msgspec.structs.replace(config.gateway, drain_s=600.0)
    return msgspec.structs.replace(config, routes=routes, sinks={SINK: FileSink(path="-")}, gateway=gateway)
