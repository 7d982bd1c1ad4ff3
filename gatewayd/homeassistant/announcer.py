"""Announces the gateway to Home Assistant, keeps its health up to date there, and obeys commands where it may.

Everything is published retained, so Home Assistant finds it whenever it comes; it is published anew after each
connection to the broker, which may have lost what it kept, and when Home Assistant says that it has started.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from gatewayd.homeassistant.discovery import announced_routes, discovery, discovery_topic, health_topic, platforms
from gatewayd.homeassistant.remembered import Announced, AnnouncedFile
from gatewayd.listening import command_topic
from gatewayd.ports import Draw, RawMessage
from gatewayd.route import Live
from gatewayd.wiring import Parts

log = structlog.get_logger(__name__)

_LOOK_S = 0.5
_BIRTH = b"online"


@dataclass(slots=True)
class Announcer:
    """The gateway as a device of Home Assistant. `hear` is called by a listener, `run` is a task."""

    parts: Parts
    health: Callable[[], Mapping[str, Any]]
    reload: Callable[[], None]
    close_windows: Callable[[], Awaitable[None]]
    file: AnnouncedFile
    draw: Draw
    _said: bytes = b""  # the discovery message that the broker has now
    _health: bytes = b""  # and the health
    _health_due_s: float = 0.0
    _again_s: float | None = None  # when to announce again because Home Assistant has started
    _close_asked: asyncio.Event = field(default_factory=asyncio.Event)
    _switched_off: dict[str, Live] = field(default_factory=dict)  # live results, by route

    async def run(self) -> None:
        """Run until cancelled."""
        skipped = self._skipped()
        if skipped:
            log.warning("routes are not announced to Home Assistant", routes=skipped, limit="homeassistant.max_routes")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_announced(), name="announce")
            tasks.create_task(self._close_when_asked(), name="close windows")

    async def hear(self, raw: RawMessage) -> None:
        """What came in on the birth topic, or as a command."""
        ground = self.parts.ground
        wish, prefix = ground.config.homeassistant, command_topic(ground.gateway)
        if wish.commands and raw.topic.startswith(prefix):
            self._obey(raw, raw.topic.removeprefix(prefix))
        elif raw.topic == wish.birth_topic and raw.payload == _BIRTH and not raw.retain:
            # A retained one is older than our own connection, after which all was announced anyway.
            self._again_s = ground.clock.monotonic() + self.draw() * wish.birth_jitter_s

    # --- what is said

    async def _keep_announced(self) -> None:
        clock, n_known = self.parts.ground.clock, 0.0
        while True:
            # Counted, not looked at: a connection may be lost and made again between two looks.
            n_connections = self.parts.ground.telemetry.total("gatewayd.source.connects")
            if n_connections != n_known:
                n_known, self._said, self._health = n_connections, b"", b""
            if self._again_s is not None and clock.monotonic() >= self._again_s:
                self._again_s, self._said, self._health = None, b"", b""
            if self.parts.source.is_connected:
                await self._announce()
                await self._tell_health()
            await asyncio.sleep(_LOOK_S)

    async def _announce(self) -> None:
        """Publish the discovery message, if it is another one than the broker has."""
        if self._said and self._has_temperature() == (b'"temperature_c"' in self._said):
            return
        config, gateway = self.parts.ground.config, self.parts.ground.gateway
        has_temperature = self._has_temperature()
        document = discovery(config, gateway, has_temperature=has_temperature, removed={})
        topic = discovery_topic(config, gateway)
        now = Announced(topic=topic, components=platforms(document))
        before = self.file.load()
        if before is not None and before != now and not await self._take_back(before, now):
            return
        payload = msgspec.json.encode(document)
        if await self._publish(topic, payload):
            self._said = payload
            if before != now:
                self.file.save(now)
                log.info("announced to Home Assistant", topic=topic, components=len(now.components))

    async def _take_back(self, before: Announced, now: Announced) -> bool:
        """Take out what was announced before and is no more: a whole device, or single components."""
        if before.topic != now.topic:
            return await self._publish(before.topic, b"")
        removed = {name: kind for name, kind in before.components.items() if now.components.get(name) != kind}
        if not removed:
            return True
        ground = self.parts.ground
        document = discovery(
            ground.config, ground.gateway, has_temperature="temperature_c" in now.components, removed=removed
        )
        return await self._publish(now.topic, msgspec.json.encode(document))

    async def _tell_health(self) -> None:
        """Publish the health if it changed, not more often than `health_s`."""
        now_s = self.parts.ground.clock.monotonic()
        if self._health and now_s < self._health_due_s:
            return
        payload = msgspec.json.encode(self.health())
        if payload != self._health and not await self._publish(health_topic(self.parts.ground.gateway), payload):
            return
        self._health = payload
        self._health_due_s = now_s + self.parts.ground.config.homeassistant.health_s

    async def _publish(self, topic: str, payload: bytes) -> bool:
        content_type = "application/json" if payload else ""
        return await self.parts.source.publish(topic, payload, qos=1, retain=True, content_type=content_type)

    def _has_temperature(self) -> bool:
        return bool(self.parts.board.board.temperatures)

    def _skipped(self) -> list[str]:
        config = self.parts.ground.config
        live = [name for name, part in self.parts.routes.items() if part.context.config.live]
        return [name for name in live if name not in announced_routes(config)]

    # --- what is obeyed

    def _obey(self, raw: RawMessage, command: str) -> None:
        outcome = "obeyed"
        match command.split("/"):
            case _ if raw.retain:  # somebody kept it at the broker: it would be obeyed at each start
                outcome = "retained"
            case ["reload"]:
                self.reload()
            case ["close_windows"]:
                self._close_asked.set()
            case ["routes", name, "live"] if name in self.parts.routes and raw.payload in (b"ON", b"OFF"):
                self._switch(name, on=raw.payload == b"ON")
            case _:
                outcome = "unknown"
        self._count(outcome, command)

    def _count(self, outcome: str, command: str) -> None:
        self.parts.ground.telemetry.commanded(outcome)
        if outcome == "unknown":
            log.warning("a command on the bus is none of ours", hint="docs/guides/home-assistant.md names them")
        else:
            log.info("command on the bus", command=command, outcome=outcome)

    def _switch(self, route: str, *, on: bool) -> None:
        """Live results of a route, until the next start. Everything else of the route goes on."""
        context = self.parts.routes[route].context
        if on and route in self._switched_off:
            context.live = self._switched_off.pop(route)
        elif not on and context.live is not None:
            self._switched_off[route], context.live = context.live, None
        self._health_due_s = 0.0  # the switch in Home Assistant waits for it

    async def _close_when_asked(self) -> None:
        while True:
            await self._close_asked.wait()
            self._close_asked.clear()
            await self.close_windows()


async def withdraw(parts: Parts, file: AnnouncedFile) -> None:
    """Take everything out of Home Assistant that an earlier run announced; returns when the broker has it."""
    before = file.load()
    while before is not None:
        if parts.source.is_connected and await parts.source.publish(before.topic, b"", qos=1, retain=True):
            health = health_topic(parts.ground.gateway)
            if await parts.source.publish(health, b"", qos=1, retain=True):
                log.info("taken out of Home Assistant", topic=before.topic)
                break
        await asyncio.sleep(_LOOK_S)
    file.forget()
