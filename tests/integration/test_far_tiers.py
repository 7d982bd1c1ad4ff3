"""Tiers outside of the box in the daemon's stages: from the bus, redacted, over HTTP, to a correction in the spool."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gatewayd.cascade.shown import observe_clients, post_status
from gatewayd.config import read_environment
from gatewayd.config.environment import resolve_paths
from gatewayd.errors import ConfigError
from gatewayd.spool.reader import SpoolReader
from gatewayd.telemetry import Telemetry
from gatewayd.wiring import build, lay_ground
from tests.sim.clock import ManualClock
from tests.sim.source import MemorySource
from tests.sim.stages import until
from tests.sim.tier_servers import HttpTierServer, Scripted
from tests.sim.tiers import STUDENT, CascadeRig, config_of

UNSURE = {"student": ["a", 0.6], "by": "alice@example.org", "from": "10.0.0.1", "t": 71.5}


@pytest.fixture
async def server() -> AsyncIterator[HttpTierServer]:
    server = HttpTierServer()
    server.say = lambda event: {"label": "b", "confidence": 0.97, "model": "expert"}
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def daemon(folder: Path, far: Mapping[str, Any], clock: ManualClock | None = None) -> AsyncIterator[CascadeRig]:
    """The stages with a student and one tier that is asked over HTTP."""
    escalation = {"privacy": "cloud", "redact": ["email", "ip"]}
    tiers = {"student": STUDENT, "far": {"type": "http", **far}}
    config = config_of(folder, {"live": False, "escalation": escalation}, tiers)
    environment = read_environment({"STATE_DIRECTORY": str(folder / "state"), "FAR_TOKEN": "s3cret"})
    paths = resolve_paths(config, environment, folder / "config.toml")
    telemetry = Telemetry.build(config.telemetry, environment, "gw", "0")
    ground = lay_ground(config, paths, environment, telemetry, clock or ManualClock())
    parts = await build(ground, source=lambda ground: MemorySource(ground.clock), sinks={})
    rig = CascadeRig(parts, ground.clock, telemetry)  # type: ignore[arg-type]
    rig.start()
    try:
        yield rig
    finally:
        await rig.crash()
        telemetry.shutdown()
    with SpoolReader.open(paths.spool) as reader:
        assert reader.books().balanced


async def test_what_is_not_sure_is_asked_redacted_and_corrected(server: HttpTierServer, tmp_path: Path) -> None:
    async with daemon(tmp_path, {"url": server.url, "token": {"env": "FAR_TOKEN"}}) as rig:
        (key,) = rig.send(UNSURE)
        await rig.settled(received=1, handled=1)

        data = (await rig.results())[f"{key}.final"]
        assert (data["label"], data["tier"], data["model"], data["changed"]) == ("b", "far", "expert", True)

    [[event]] = server.requests
    assert event["data"]["value"] == {**UNSURE, "by": "[email]", "from": "[ip]"}
    assert event["source"] == "/gateways/gw/tiers/far"
    assert "alice" not in json.dumps(server.requests)
    assert server.headers[0]["Authorization"] == "Bearer s3cret"


async def test_status_and_metrics_show_circuit_and_budget(server: HttpTierServer, tmp_path: Path) -> None:
    server.script.append(Scripted(503, headers={"Retry-After": "30"}))
    async with daemon(tmp_path, {"url": server.url, "max_calls_per_day": 50, "place": "site"}) as rig:
        post = rig.parts.cascades.posts["far"]
        observe_clients(rig.telemetry.observe, rig.parts.cascades.posts)
        rig.send(UNSURE)
        await until(lambda: post_status(post)["circuit"] == "down")

        shown = post_status(post)
        text = rig.telemetry.prometheus().decode()

        assert (shown["place"], shown["reason"], shown["max_per_day"]) == ("site", "unavailable", {"calls": 50})
        assert (shown["today"]["calls"], shown["today"]["bytes"] > 300) == (0, True)
        assert 'gatewayd_tier_state{state="down",tier="far"} 1.0' in text
        assert 'gatewayd_tier_budget{kind="calls",tier="far"} 50.0' in text
        assert "gatewayd_tier_wire_bytes_total" in text
        await rig.counted("gatewayd.tier.outages", "far", "unavailable", n=1)
        await rig.clock.advance(30.0)
        await rig.settled(received=1, handled=1)
        assert post_status(post)["circuit"] == "up"


async def test_a_pause_and_a_budget_are_kept_over_a_crash(server: HttpTierServer, tmp_path: Path) -> None:
    far = {"url": server.url, "max_calls_per_day": 1}
    clock = ManualClock()
    server.script.append(Scripted(503, headers={"Retry-After": "3600"}))
    async with daemon(tmp_path, far, clock) as rig:
        rig.send(UNSURE)
        await until(lambda: post_status(rig.parts.cascades.posts["far"])["circuit"] == "down")

    async with daemon(tmp_path, far, clock) as rig:
        assert post_status(rig.parts.cascades.posts["far"])["circuit"] == "down"
        await rig.clock.advance(3600.0)
        await rig.settled(received=1, handled=1)
        rig.send(UNSURE)
        await rig.settled(received=2, handled=2)
        causes = sorted(data["cause"] for data in (await rig.results()).values() if "corrects" in data)

    assert causes == ["budget", "sure"]
    assert len(server.requests) == 2


async def test_a_secret_that_is_not_there_is_a_mistake_in_the_config(server: HttpTierServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        async with daemon(tmp_path, {"url": server.url, "token": {"env": "NOT_SET"}}):
            pass

    assert caught.value.key == "tiers.far.token.env"
