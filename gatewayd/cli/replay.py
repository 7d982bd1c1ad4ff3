"""`gatewayd replay`: a recording through the real parts; golden samples of handlers are run the same way."""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from gatewayd import __version__
from gatewayd.checked import load_checked
from gatewayd.cli.output import book_lines
from gatewayd.cli.samples import run_samples_file
from gatewayd.config.environment import Environment, Paths, gateway_id, read_environment, resolve_paths
from gatewayd.config.schema import Config, FileSink
from gatewayd.daemon import Life, close_parts, run_parts
from gatewayd.events import event_json
from gatewayd.logs import set_up
from gatewayd.ports import RawMessage, StoredResult
from gatewayd.replay import Recorded, RecordedClock, RecordedSource, RecordingError, read_recording
from gatewayd.spool.books import Books
from gatewayd.telemetry import Telemetry
from gatewayd.wiring import Ground, build, enabled_routes, lay_ground

SINK = "replay"


class PrintingSink:
    """Writes each result as a CloudEvent, one a line."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self.sent_bytes = 0

    async def send(self, results: Sequence[StoredResult]) -> Mapping[str, str]:
        """Print them; standard output takes everything."""
        for result in results:
            line = event_json(result, self._gateway) + b"\n"
            self.sent_bytes += len(line)
            sys.stdout.buffer.write(line)
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
        left_out: Counter[str] = Counter()
        with _bar(recording) as progress:
            lines = read_recording(recording, progress, lambda why: left_out.update([why]))
            replayed = await replay(config, paths, environment, lines)
    _summarize(replayed.books, left_out)
    if replayed.failure is not None:
        raise replayed.failure
    return replayed.books.balanced


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a recording."""

    books: Books
    failure: RecordingError | None  # the line that ended it before its end


def _summarize(books: Books, left_out: Counter[str]) -> None:
    """Both books on standard error: standard output is for results alone."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for why, n in left_out.items():
        console.print(f"Not replayed: {n} x {why}.")
    for line in book_lines(books):
        console.print(line)
    for place, reasons in books.reasons.items():
        console.print(f"  {place}: " + ", ".join(f"{reason} {n}" for reason, n in reasons.items()))
    console.print("Both books balance." if books.balanced else "THE BOOKS DO NOT BALANCE.")


@contextmanager
def _bar(recording: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where that is a terminal and nobody reads the results on it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal or sys.stdout.isatty()) as progress:
        task = progress.add_task(recording.name, total=max(1, recording.stat().st_size))
        yield lambda n_bytes: progress.update(task, completed=n_bytes)


async def replay(
    config: Config, paths: Paths, environment: Environment, recording: Iterable[Recorded | RawMessage]
) -> Replayed:
    """Run the real parts over a recording, print the results, close every window, and give the books."""
    telemetry = Telemetry.build(config.telemetry, environment, gateway=gateway_id(config), version=__version__)
    clock = RecordedClock()
    ground = lay_ground(to_the_printer(config), paths, environment, telemetry, clock)

    def source(ground: Ground) -> RecordedSource:
        return RecordedSource(recording, ground.keys, clock)

    # No clients: a recording on a laptop asks nobody outside of it.
    parts = await build(ground, source=source, sinks={SINK: PrintingSink(ground.gateway)}, clients={})
    assert isinstance(parts.source, RecordedSource)
    life = Life.begin()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_stop_at_the_end(parts.source, life), name="end of recording")
            await run_parts(parts, life, flush=True)
        return Replayed(await parts.spool.books(), parts.source.failure)
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
