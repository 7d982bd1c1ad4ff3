"""What every sink keeps. A new sink adds a far side here and inherits the suite."""

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from gatewayd.config import schema
from gatewayd.errors import SinkUnavailable
from gatewayd.ports import Sink
from gatewayd.sinks.file import FileSink
from gatewayd.sinks.http import HttpSink
from tests.sim.cloud import FaultyCloud
from tests.sim.spool import results


class FarSide(Protocol):
    """A sink under test, and what its far side knows."""

    sink: Sink

    def ids(self) -> list[str]:
        """Ids stored, in order; a side that cannot drop duplicates may name one twice."""

    async def cut(self) -> None:
        """Nothing can be stored from now on."""

    async def restore(self) -> None:
        """It can again."""


class Http:
    """A cloud on loopback."""

    def __init__(self, cloud: FaultyCloud) -> None:
        self._cloud = cloud
        self.sink: Sink = HttpSink(schema.HttpSink(url=cloud.url), gateway="gw", token="a-token")

    def ids(self) -> list[str]:
        return self._cloud.stored

    async def cut(self) -> None:
        await self._cloud.cut()

    async def restore(self) -> None:
        await self._cloud.restore()


class File:
    """A folder; where it should be, there may be a file in the way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "out"
        self.sink: Sink = FileSink(schema.FileSink(path="out/results.ndjson"), gateway="gw", beside=folder)

    def ids(self) -> list[str]:
        files = [*sorted(self._folder.glob("results.ndjson.*"), reverse=True), self._folder / "results.ndjson"]
        return [json.loads(line)["id"] for file in files for line in file.read_bytes().splitlines()]

    async def cut(self) -> None:
        if self._folder.exists():
            self._folder.rename(self._folder.with_name("kept"))
        self._folder.write_text("in the way")

    async def restore(self) -> None:
        self._folder.unlink()
        kept = self._folder.with_name("kept")
        if kept.exists():
            kept.rename(self._folder)


@asynccontextmanager
async def _http(folder: Path) -> AsyncIterator[FarSide]:
    cloud = FaultyCloud()
    await cloud.start()
    far_side = Http(cloud)
    yield far_side
    await far_side.sink.close()
    await cloud.stop()


@asynccontextmanager
async def _file(folder: Path) -> AsyncIterator[FarSide]:
    far_side = File(folder)
    yield far_side
    await far_side.sink.close()


FAR_SIDES: dict[str, Callable[[Path], AbstractAsyncContextManager[FarSide]]] = {"http": _http, "file": _file}


@pytest.fixture(params=FAR_SIDES)
async def far_side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FarSide]:
    async with FAR_SIDES[request.param](tmp_path) as opened:
        yield opened


async def test_what_was_sent_is_stored_in_order_when_send_returns(far_side: FarSide) -> None:
    batch = results("pumps", 20)

    refused = await far_side.sink.send(batch)

    assert refused == {}
    assert far_side.ids() == [result.key for result in batch]


async def test_many_batches_after_another_are_all_stored(far_side: FarSide) -> None:
    for n in range(5):
        await far_side.sink.send(results("pumps", 10, first=10 * n))

    assert far_side.ids() == [f"pumps-{n}" for n in range(50)]


async def test_a_large_result_is_stored_whole(far_side: FarSide) -> None:
    await far_side.sink.send(results("logs", 1, data=b'{"summary":"' + b"x" * 300_000 + b'"}'))

    assert far_side.ids() == ["logs-0"]


async def test_a_far_side_that_is_away_is_a_sink_unavailable(far_side: FarSide) -> None:
    await far_side.cut()

    with pytest.raises(SinkUnavailable):
        await far_side.sink.send(results("pumps", 1))


async def test_the_same_sink_goes_on_when_the_far_side_is_back(far_side: FarSide) -> None:
    await far_side.sink.send(results("pumps", 1))
    await far_side.cut()
    with pytest.raises(SinkUnavailable):
        await far_side.sink.send(results("pumps", 1, first=1))

    await far_side.restore()
    await far_side.sink.send(results("pumps", 1, first=1))

    assert far_side.ids() == ["pumps-0", "pumps-1"]


async def test_closing_twice_or_without_use_is_harmless(far_side: FarSide) -> None:
    await far_side.sink.close()
    await far_side.sink.close()


async def test_a_closed_sink_can_be_used_again(far_side: FarSide) -> None:
    await far_side.sink.send(results("pumps", 1))
    await far_side.sink.close()

    await far_side.sink.send(results("pumps", 1, first=1))

    assert far_side.ids() == ["pumps-0", "pumps-1"]


async def test_what_goes_out_is_counted(far_side: FarSide) -> None:
    noise = os.urandom(60_000).hex().encode()  # a compressor halves it, and no more

    await far_side.sink.send(results("pumps", 1, data=b'"' + noise + b'"'))

    assert len(noise) / 2 < far_side.sink.sent_bytes < 1.1 * len(noise)


async def test_each_batch_is_counted(far_side: FarSide) -> None:
    await far_side.sink.send(results("pumps", 20))
    first = far_side.sink.sent_bytes

    await far_side.sink.send(results("pumps", 20, first=20))

    assert first < far_side.sink.sent_bytes < 2.1 * first


async def test_a_failed_attempt_takes_nothing_off_the_count(far_side: FarSide) -> None:
    await far_side.sink.send(results("pumps", 1))
    before = far_side.sink.sent_bytes
    await far_side.cut()

    with pytest.raises(SinkUnavailable):
        await far_side.sink.send(results("pumps", 1, first=1))

    assert far_side.sink.sent_bytes >= before
