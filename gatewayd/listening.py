"""What comes in over the bus for whom: the routes' topic filters, and those of gatewayd itself beside them.

A listener is an inlet of its own beside the routes: intake hands it messages as it does a route, and it has no durable
point. What it hears is a wish of this moment (Home Assistant has started, somebody pressed a button), so it is
subscribed at QoS 0, and lost with the process.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatewayd.config import schema
from gatewayd.config.schema import BatchLimits
from gatewayd.intake import Inlet
from gatewayd.ports import RawMessage, Source
from gatewayd.queues import RouteQueue
from gatewayd.routing import Router, subscriptions

if TYPE_CHECKING:
    from gatewayd.wiring import RoutePart

HOME_ASSISTANT = "$homeassistant"  # no route can be called so

_MAX_WAITING, _MAX_WAITING_BYTES = 64, 65536  # wishes of people; a flood of them is dropped, oldest first, and counted
_AT_ONCE = BatchLimits()


@dataclass(frozen=True, slots=True)
class Listener:
    """What gatewayd itself wants to hear."""

    name: str
    filters: tuple[str, ...]
    queue: RouteQueue


def listeners(config: schema.Config, gateway: str) -> tuple[Listener, ...]:
    """Those that the config switches on."""
    wanted = config.homeassistant
    if not wanted.enabled:
        return ()
    filters = (wanted.birth_topic, *((f"{command_topic(gateway)}#",) if wanted.commands else ()))
    return (Listener(HOME_ASSISTANT, filters, RouteQueue(_MAX_WAITING, _MAX_WAITING_BYTES)),)


def command_topic(gateway: str) -> str:
    """What topics of commands begin with."""
    return f"gatewayd/{gateway}/command/"


async def run_listener(listener: Listener, source: Source, hear: Callable[[RawMessage], Awaitable[None]]) -> None:
    """Run until cancelled. `hear` must not raise, nor take long."""
    while True:
        items = await listener.queue.take(_AT_ONCE)
        for raw, _ in items:
            await hear(raw)
        tokens = [receipt.token for _, receipt in items if receipt is not None and receipt.passed()]
        if tokens:  # a route's filter covers ours, with QoS 1
            await source.ack(tokens)
        listener.queue.passed(len(items))


def inlets(routes: Mapping[str, "RoutePart"], heard: Sequence[Listener]) -> Router[Inlet]:
    """The ways in, by topic filter."""
    targets: dict[str, list[Inlet]] = {}
    for name, part in routes.items():
        inlet = Inlet(name, part.queue, part.context.tag)
        for topic in part.context.config.topics:
            targets.setdefault(topic, []).append(inlet)
    for listener in heard:
        inlet = Inlet(listener.name, listener.queue, listener.name.encode())
        for topic in listener.filters:
            targets.setdefault(topic, []).append(inlet)
    return Router(targets)


def filters(routes: Mapping[str, schema.Route], heard: Sequence[Listener]) -> Sequence[tuple[str, int]]:
    """What to subscribe to: every topic filter, each once, at the highest QoS asked for."""
    wanted = [(topic, int(route.qos)) for route in routes.values() for topic in route.topics]
    return subscriptions([*wanted, *((topic, 0) for listener in heard for topic in listener.filters)])
