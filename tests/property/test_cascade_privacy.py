"""Nothing leaves the box over a route that does not say so: counted at the clients, and in bytes at the socket."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewayd.cascade.policy import is_within
from gatewayd.cascade.verdict import Place
from tests.sim.tiers import CLOUD, STUDENT, FarTier, cascade

SECRET = "the boiler is at 4711"
privacies = st.sampled_from(["local", "site", "cloud"])
places = st.lists(st.sampled_from(["site", "cloud"]), min_size=1, max_size=3)
answers = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 1)), min_size=1, max_size=6)
far_confidences = st.floats(0, 1)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(privacies, places, answers, far_confidences)
async def test_only_tiers_that_privacy_allows_are_asked_whatever_everybody_says(
    privacy: Any, where: list[Place], said: list[tuple[str, float]], confidence: float
) -> None:
    far = [FarTier(f"far{index}", place) for index, place in enumerate(where)]
    for tier in far:
        tier.answer = lambda _, tier=tier: tier.say("b", confidence)  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        async with cascade(Path(folder), far, route={"escalation": {"privacy": privacy}}) as rig:
            rig.send(*[{"student": answer} for answer in said])

            await rig.settled(received=len(said), handled=len(said))

    for tier in far:
        assert is_within(privacy, tier.place) or tier.n_calls == 0
    if privacy == "local":
        assert sum(tier.n_calls for tier in far) == 0


class Listener:
    """A TCP port that counts who comes and what they bring, and hangs up."""

    def __init__(self) -> None:
        self.n_connections = 0
        self.received = bytearray()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        while data := await reader.read(65536):
            self.received += data
            if b"\r\n\r\n" in self.received:
                break
        writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()


@pytest.mark.parametrize(("privacy", "place"), [("local", "cloud"), ("local", "site"), ("site", "cloud")])
async def test_not_one_connection_is_made_where_privacy_does_not_allow_it(
    tmp_path: Path, privacy: str, place: str
) -> None:
    async with listening() as listener:
        tiers = {"student": STUDENT, "far": {**CLOUD, "place": place, "url": f"http://127.0.0.1:{listener.port}/"}}
        async with cascade(tmp_path, route={"escalation": {"privacy": privacy}}, tiers=tiers, real=True) as rig:
            rig.send(*[{"student": ["a", 0.5], "text": SECRET}] * 10)
            await rig.settled(received=10, handled=10)
            await rig.clock.advance(1000)

        assert listener.n_connections == 0
        assert listener.received == b""


async def test_where_privacy_allows_it_the_same_route_does_reach_the_tier(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    async with listening() as listener:
        tiers = {"student": STUDENT, "far": {**CLOUD, "url": f"http://127.0.0.1:{listener.port}/"}}
        async with cascade(tmp_path, route={"escalation": {"privacy": "cloud"}}, tiers=tiers, real=True) as rig:
            rig.send({"student": ["a", 0.5], "text": SECRET})
            while SECRET.encode() not in listener.received:
                await rig.clock.advance(1)
                await asyncio.sleep(0.01)

        assert listener.n_connections >= 1


async def test_what_is_redacted_is_not_in_the_bytes(tmp_path: Path) -> None:
    async with listening() as listener:
        escalation = {"privacy": "cloud", "redact": ["[0-9]{4}"]}
        tiers = {"student": STUDENT, "far": {**CLOUD, "url": f"http://127.0.0.1:{listener.port}/"}}
        async with cascade(tmp_path, route={"escalation": escalation}, tiers=tiers, real=True) as rig:
            rig.send({"student": ["a", 0.5], "text": SECRET}, topic="t/boiler-4711")
            while b"the boiler is at [redacted]" not in listener.received:
                await rig.clock.advance(1)
                await asyncio.sleep(0.01)

        assert b"4711" not in listener.received
