"""One trace from the device's `traceparent` over a handler and a day without a cloud to the cloud's answer.

The stages, the spool, the HTTP sink and the OTLP exporter are the real ones; the day passes on a clock of the test.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewayd.config import read_environment
from gatewayd.config.environment import resolve_paths
from gatewayd.daemon import Life, close_parts, run_parts
from gatewayd.telemetry import Telemetry
from gatewayd.wiring import build, lay_ground
from tests.integration.test_tracing import SPAN, TRACE, Cloud, attributes, context_of
from tests.sim.clock import ManualClock
from tests.sim.otlp import Receiver
from tests.sim.source import MemorySource
from tests.sim.stages import config_of

pytestmark = pytest.mark.timeout(120)

DAY_S = 86400.0
DEVICE = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.close()


async def until(condition: Callable[[], object], clock: ManualClock, step_s: float = 0.0) -> None:
    """Wait, in real time, for what other threads do; `step_s` passes on the clock with each look."""
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about"
        await clock.advance(step_s)
        await asyncio.sleep(0.01)


async def test_one_trace_from_the_device_over_a_day_offline_to_the_clouds_answer(
    tmp_path: Path, receiver: Receiver, cloud: Cloud
) -> None:
    config = config_of(
        {"heat": {"options": {"on": "every", "rules": [{"label": "x", "above": 0.0, "field": "t"}]}}},
        sinks={"cloud": {"type": "http", "url": cloud.url, "retry_max_s": 300.0}},
        telemetry={"otlp_endpoint": receiver.url, "join_publisher": True},
    )
    environment = read_environment({"STATE_DIRECTORY": str(tmp_path)})
    telemetry = Telemetry.build(config.telemetry, environment, "gw", "0")
    clock = ManualClock()
    paths = resolve_paths(config, environment, tmp_path / "config.toml")
    parts = await build(
        lay_ground(config, paths, environment, telemetry, clock), source=lambda g: MemorySource(g.clock)
    )
    life = Life.begin()
    cloud.is_away = True
    running = asyncio.get_running_loop().create_task(run_parts(parts, life))
    assert isinstance(parts.source, MemorySource)

    sent_at = clock.now()
    parts.source.offer("t/oven", b'{"t": 20.5}', properties=(("traceparent", DEVICE),))
    await until(lambda: cloud.n_requests, clock)
    await clock.advance(DAY_S)
    cloud.is_away = False
    await until(lambda: cloud.stored, clock, step_s=10.0)
    life.stop.set()
    await asyncio.wait_for(running, 30)
    await close_parts(parts)
    await asyncio.to_thread(telemetry.shutdown)

    [process] = receiver.spans("process heat")
    assert (process.trace_id.hex(), process.parent_span_id.hex()) == (TRACE, SPAN)
    uploads = receiver.spans("upload cloud")
    failed = [span for span in uploads if "error.type" in attributes(span)]
    [confirmed] = [span for span in uploads if "error.type" not in attributes(span)]
    assert failed, "the cloud was away"
    assert {span.trace_id.hex() for span in uploads} == {TRACE}
    assert confirmed.parent_span_id == process.span_id
    [(headers, event)] = cloud.stored
    assert context_of(event["traceparent"]) == (process.trace_id, process.span_id)
    assert context_of(headers["traceparent"]) == (process.trace_id, confirmed.span_id)
    assert clock.now() - sent_at >= DAY_S
