"""The wiring: the only place that knows concrete classes. Builds, installs no signal handler, runs nothing.

`build` gives the parts of a daemon; `gatewayd.daemon` starts and stops them; replay builds the same parts around a
source that reads a file.
"""

import asyncio
import hashlib
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import structlog

from gatewayd import __version__
from gatewayd.answer import HandlerRunner, Instances
from gatewayd.api import Handler, Models
from gatewayd.board.watch import BoardWatch
from gatewayd.cascade.parts import Cascades
from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.config.environment import Environment, Paths, gateway_id
from gatewayd.config.secrets import read_secret
from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.door import Door
from gatewayd.errors import ConfigError
from gatewayd.events import event_json, event_time
from gatewayd.intake import Inlet, Losses
from gatewayd.journal import Wake
from gatewayd.keys import KeyMaker
from gatewayd.listening import Listener, filters, inlets, listeners
from gatewayd.live import LivePublisher
from gatewayd.models.factories import factories
from gatewayd.models.store import ModelStore
from gatewayd.models.view import RouteModels
from gatewayd.mqtt.connect import client_id
from gatewayd.mqtt.remembered import Remembered
from gatewayd.payloads import Decoder
from gatewayd.ports import Clock, Sink, Source, TierClient
from gatewayd.queues import RouteQueue
from gatewayd.registry import find_handlers, is_journaled, lanes_problem, load_handler, make_handler
from gatewayd.route import RouteContext
from gatewayd.routing import Router
from gatewayd.spool import SqliteSpool
from gatewayd.spool.policy import RoutePolicy
from gatewayd.telemetry import Telemetry
from gatewayd.terms import Terms
from gatewayd.throttle import Throttle

log = structlog.get_logger(__name__)

_DIRECT_CALL_S, JOURNALED_CALL_S = 60.0, 1800.0  # where a route has no `max_call_s`; see there

SourceFactory = Callable[["Ground"], Source]


@dataclass(frozen=True, slots=True)
class Ground:
    """What everything is built on."""

    config: schema.Config
    paths: Paths
    environment: Environment
    gateway: str
    telemetry: Telemetry
    clock: Clock
    keys: KeyMaker
    crash: CrashPoint = NO_CRASH

    def secret(self, secret: schema.Secret, key: str) -> str:
        """The secret's value. Raises ConfigError naming `key`."""
        return read_secret(secret, key=key, beside=self.paths.config_dir, environment=self.environment)

    def birth(self) -> bytes:
        """The retained status message: online, what runs here, since when."""
        return msgspec.json.encode(
            {
                "state": "online",
                "gateway": self.gateway,
                "version": __version__,
                "routes": sorted(enabled_routes(self.config)),
                "since": event_time(self.clock.now()),
            }
        )


@dataclass(slots=True)
class RoutePart:
    """One route, built and not yet running."""

    context: RouteContext
    queue: RouteQueue
    journaled: bool
    wake: Wake
    idle: asyncio.Event  # all that is in the journal is handled or waits in a window
    state: str = "starting"  # starting, running, waiting for its model
    problem: str = ""  # why it waits, in words

    @property
    def max_call_s(self) -> float:
        """How long one call of the handler may take."""
        limit_s = self.context.config.max_call_s
        if limit_s is not None:
            return limit_s
        return JOURNALED_CALL_S if self.journaled else _DIRECT_CALL_S


@dataclass(slots=True)
class Parts:
    """A daemon, built."""

    ground: Ground
    spool: SqliteSpool
    models: ModelStore
    source: Source
    routes: dict[str, RoutePart]
    router: Router[Inlet]
    sinks: dict[str, Sink]
    throttles: dict[str, Throttle]
    cascades: Cascades
    board: BoardWatch
    running_config: schema.Config  # as it runs now: the one it started with plus what reloads took over
    losses: Losses = field(default_factory=lambda: Losses({}))
    started_at_s: float = 0.0  # monotonic
    listeners: Sequence[Listener] = ()

    def models_of(self, route: str, models: Models | None = None) -> Models:
        """The models as the route sees them: its calls have its priority and its deadline, and give way while the board
        is hot. `models`: in place of the store."""
        terms = self.routes[route].context.terms
        may_ask = partial(self.board.shedding.check, route, terms.priority)
        return RouteModels(models or self.models, terms, may_ask)

    def sink_routes(self, sink: str) -> list[str]:
        """The routes whose results this sink gets, those with results from an earlier config included."""
        named = [name for name, route in self.ground.config.routes.items() if sink in route.sinks]
        return sorted({*named, *self.spool.known_routes(sink)})


def lay_ground(
    config: schema.Config, paths: Paths, environment: Environment, telemetry: Telemetry, clock: Clock | None = None
) -> Ground:
    """The things without which nothing else can be built."""
    return Ground(
        config=config,
        paths=paths,
        environment=environment,
        gateway=gateway_id(config),
        telemetry=telemetry,
        clock=clock or _clock(config, paths, environment),
        keys=KeyMaker(secrets.token_hex(8)),
        crash=CrashPoint(environment.crash or ""),
    )


def _clock(config: schema.Config, paths: Paths, environment: Environment) -> SystemClock:
    sync_file = config.gateway.clock_sync_file
    return SystemClock(sync_file=paths.beside(sync_file) if sync_file else None, boot_id=environment.boot_id or "")


def build_handlers(config: schema.Config, config_dir: Path) -> dict[str, Handler]:
    """One handler for each enabled route. Raises ConfigError naming the key that is wrong."""
    found = find_handlers([config_dir / path for path in config.handlers.paths])
    handlers: dict[str, Handler] = {}
    for name, route in enabled_routes(config).items():
        if route.tiers:
            from gatewayd.cascading import build_tier_handlers  # not at the top: a gateway without tiers starts faster

            handlers[name] = build_tier_handlers(config, name, found)  # type: ignore[assignment]  # inline as they are
            continue
        handler_class = load_handler(route.handler, found, key=f"routes.{name}.handler")
        handlers[name] = _instances(name, route, handler_class)
    return handlers


def _instances(name: str, route: schema.Route, handler_class: type[Handler]) -> Handler:
    """The route's handler, or with `parallel` several. Raises ConfigError."""
    made = [make_handler(handler_class, route.options, key=f"routes.{name}.options") for _ in range(route.parallel)]
    if len(made) == 1:
        return made[0]
    if problem := lanes_problem(route, made[0]):
        raise ConfigError(f"routes.{name}.parallel", problem)
    return Instances(made)  # type: ignore[return-value]  # only a runner calls them


def enabled_routes(config: schema.Config) -> dict[str, schema.Route]:
    """The routes that are not switched off."""
    return {name: route for name, route in config.routes.items() if route.enabled}


async def build(
    ground: Ground,
    *,
    source: SourceFactory | None = None,
    sinks: Mapping[str, Sink] | None = None,
    clients: Mapping[str, TierClient] | None = None,
) -> Parts:
    """Open the spool and build every part. Raises ConfigError before anything was changed. `clients`: who is asked for
    the tiers outside of this box, in place of those of the config."""
    config, telemetry = ground.config, ground.telemetry
    handlers = build_handlers(config, ground.paths.config_dir)
    built_sinks = dict(sinks) if sinks is not None else build_sinks(ground)
    routes: dict[str, RoutePart] = {}
    spool = await asyncio.to_thread(_open_spool, ground, partial(_spool_event, ground, routes))
    models = ModelStore(
        ground.paths.models,
        config.models,
        telemetry.model_event,
        factories=factories(ground.paths.state_dir / "cache" / "llm"),
        on_completion=telemetry.generated,
    )
    built_source = (source or build_source)(ground)
    live = _live(ground, built_source)
    for name, route in enabled_routes(config).items():
        routes[name] = _build_route(ground, name, route, handlers[name], spool, built_source, live)
    contexts = {name: part.context for name, part in routes.items()}
    heard = listeners(config, ground.gateway)
    board = BoardWatch.of(config.board)
    cascades = Cascades({}, {})
    if any(context.config.tiers for context in contexts.values()):
        from gatewayd.cascading import build_cascades  # as above

        cascades = build_cascades(ground, spool, models, contexts, clients, board.shedding.check)
        cascades.begin(await spool.books())
    return Parts(
        ground=ground,
        spool=spool,
        models=models,
        source=built_source,
        routes=routes,
        router=inlets(routes, heard),
        listeners=heard,
        sinks=built_sinks,
        throttles=_throttles(ground, built_sinks, spool),
        cascades=cascades,
        board=board,
        running_config=config,
        started_at_s=ground.clock.monotonic(),
    )


def _spool_event(ground: Ground, routes: Mapping[str, RoutePart], name: str, attributes: Mapping[str, object]) -> None:
    ground.telemetry.spool_event(name, attributes)
    part = routes.get(str(attributes.get("route", "")))
    if part is None:
        return
    if name == "requeued":
        part.wake.arrived.set()
    elif name in ("expired", "evicted") and not attributes.get("sink") and part.context.cascade is not None:
        part.context.cascade.lost(int(str(attributes["n"])))


def _open_spool(ground: Ground, on_event: Callable[[str, Mapping[str, object]], None]) -> SqliteSpool:
    config = ground.config
    ground.paths.state_dir.mkdir(parents=True, exist_ok=True)
    return SqliteSpool.open(
        ground.paths.spool,
        routes={name: route.sinks for name, route in config.routes.items()},
        policies={name: RoutePolicy.of(route) for name, route in config.routes.items()},
        sinks=config.sinks,
        config=config.spool,
        clock=ground.clock,
        on_event=on_event,
        refused_payload=partial(event_json, gateway=ground.gateway),
        crash=ground.environment.crash or "",
    )


def _throttles(ground: Ground, sinks: Mapping[str, Sink], spool: SqliteSpool) -> dict[str, Throttle]:
    priorities = {name: route.priority for name, route in ground.config.routes.items()}
    return {
        name: Throttle.of(
            name,
            sink,
            ground.config.sinks[name],
            book=spool.usage,
            priorities=priorities,
            clock=ground.clock,
            report=ground.telemetry,
        )
        for name, sink in sinks.items()
    }


def _live(ground: Ground, source: Source) -> LivePublisher:
    qos = {name: int(route.live_qos) for name, route in ground.config.routes.items()}
    return LivePublisher(source, ground.gateway, qos, ground.telemetry)


def _build_route(
    ground: Ground,
    name: str,
    route: schema.Route,
    handler: Handler,
    spool: SqliteSpool,
    source: Source,
    live: LivePublisher,
) -> RoutePart:
    context = RouteContext(
        name=name,
        config=route,
        decoder=Decoder(route.payload),
        runner=HandlerRunner(name, handler),
        spool=spool,
        source=source,
        live=live if route.live else None,
        report=ground.telemetry,
        clock=ground.clock,
        draw=random.random,
        max_payload_bytes=ground.config.source.max_payload_bytes,
        crash=ground.crash,
        tag=hashlib.blake2b(name.encode(), digest_size=4).digest(),
        terms=Terms(name, route.priority, route.deadline_s, ground.clock),
        door=_door(ground, name, route),
    )
    return RoutePart(
        context=context,
        queue=RouteQueue(route.max_queue, route.max_queue_bytes),
        journaled=is_journaled(route, handler),
        wake=Wake(asyncio.Event(), asyncio.Event()),
        idle=asyncio.Event(),
    )


def _door(ground: Ground, name: str, route: schema.Route) -> Door | None:
    if route.payload.format != "sparkplug":
        return None
    from gatewayd.sparkplug.door import Door as SparkplugDoor  # not at the top: protobuf takes 6 MB

    return SparkplugDoor(route.payload, route.topics, partial(ground.telemetry.sparkplug_event, name))


def build_source(ground: Ground) -> Source:
    """The MQTT client that the config asks for."""
    config = ground.config.source
    password = None if config.password is None else ground.secret(config.password, "source.password")
    return _adapter(config.adapter)(
        config,
        gateway=ground.gateway,
        filters=filters(enabled_routes(ground.config), listeners(ground.config, ground.gateway)),
        password=password,
        keys=ground.keys,
        clock=ground.clock,
        draw=random.random,
        birth=ground.birth,
        on_event=ground.telemetry.source_event,
        remembered=_remembered(ground),
    )


def _remembered(ground: Ground) -> Remembered:
    """What earlier runs subscribed to; the file is beside the spool."""
    config = ground.config.source
    broker = config.unix_socket or f"{config.host}:{config.port}"
    session = f"{broker} {client_id(config, ground.gateway)}"
    return Remembered(ground.paths.state_dir / "subscriptions.json", session)


def _adapter(name: str) -> Callable[..., Source]:
    """The adapter's class; the other one's library is not loaded."""
    if name == "aiomqtt":
        from gatewayd.mqtt.aiomqtt_source import WARNING, AiomqttSource

        log.warning(WARNING)
        return AiomqttSource
    from gatewayd.mqtt.mqttium_source import MqttiumSource

    return MqttiumSource


def build_sinks(ground: Ground) -> dict[str, Sink]:
    """One sink for each `[sinks.<name>]`."""
    return {name: build_sink(ground, name, sink) for name, sink in ground.config.sinks.items()}


def build_sink(ground: Ground, name: str, config: schema.Sink) -> Sink:
    """The sink of that type. Imports only what is used: a gateway without an HTTP sink pays for no HTTP client."""
    if isinstance(config, schema.HttpSink):
        from gatewayd.sinks.http import HttpSink

        token = None if config.token is None else ground.secret(config.token, f"sinks.{name}.token")
        headers = ground.telemetry.current_headers
        return HttpSink(config, gateway=ground.gateway, token=token, headers=headers, name=name)
    if isinstance(config, schema.MqttSink):
        from gatewayd.sinks.mqtt import MqttSink

        password = None if config.password is None else ground.secret(config.password, f"sinks.{name}.password")
        return MqttSink(config, name=name, gateway=ground.gateway, password=password)
    from gatewayd.sinks.file import FileSink

    return FileSink(config, gateway=ground.gateway, beside=ground.paths.state_dir)
