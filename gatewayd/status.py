"""What a running daemon says of itself: `/status`, and the gauges that are read when metrics are collected."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import structlog

from gatewayd import __version__
from gatewayd.board.observed import observe_board
from gatewayd.errors import ConfigError
from gatewayd.memory import resident_bytes
from gatewayd.spool.reader import SpoolReader
from gatewayd.wiring import Parts

log = structlog.get_logger(__name__)

_LOOK_S = 10.0  # counting rows takes time that grows with the backlog; done beside the writer, on a reader of its own


@dataclass(slots=True)
class Depths:
    """How much waits in the spool, as of the last look."""

    pending: dict[str, int] = field(default_factory=dict)  # by sink
    journaled: dict[str, int] = field(default_factory=dict)  # by route
    dead_letters: int = 0
    oldest_age_s: float = 0.0
    wal_bytes: int = 0


async def run_depths(depths: Depths, spool: Path) -> None:
    """Look every now and then, until cancelled."""
    while True:
        try:
            await asyncio.to_thread(_look, depths, spool)
        except (ConfigError, apsw.Error) as error:  # a full or slow disk: figures may be old, the daemon goes on
            log.warning("spool cannot be looked at", cause=str(error))
        await asyncio.sleep(_LOOK_S)


def _look(depths: Depths, spool: Path) -> None:
    with SpoolReader.open(spool) as reader:
        books, kept = reader.books(), reader.status()
    pending: dict[str, int] = {}
    for sinks in books.results.values():
        for sink, lines in sinks.items():
            pending[sink] = pending.get(sink, 0) + lines["pending"]
    depths.pending = pending
    depths.journaled = {route: lines["journaled"] for route, lines in books.messages.items()}
    depths.dead_letters = kept.dead_letters
    depths.wal_bytes = kept.wal_bytes
    depths.oldest_age_s = 0.0 if kept.oldest_time is None else max(0.0, time.time() - kept.oldest_time)


def status(parts: Parts, depths: Depths) -> dict[str, Any]:
    """A snapshot, encodable as JSON; reads memory only, so it costs nothing and cannot block."""
    source = parts.ground.config.source
    return {
        "gateway": parts.ground.gateway,
        "version": __version__,
        "uptime_s": round(parts.ground.clock.monotonic() - parts.started_at_s, 1),
        "broker": {
            "host": source.unix_socket or source.host,
            "port": source.port,
            "connected": parts.source.is_connected,
            "subscribed": parts.source.is_subscribed,
            "protocol": parts.source.protocol,
            "acks_after_commit": parts.source.acks_after_commit,
        },
        "routes": {
            name: {
                "state": part.state,
                "handler": part.context.config.handler or "cascade",
                "durable_point": "journal" if part.journaled else "results",
                "waiting": len(part.queue),
                "stats": part.context.runner.stats(),
            }
            for name, part in parts.routes.items()
        },
        **_cascades(parts),
        "sinks": {name: _sink(parts, name) for name in parts.sinks},
        "spool": {
            "used_bytes": parts.spool.used_bytes,
            "max_bytes": parts.ground.config.spool.max_bytes,
            "written_bytes": parts.spool.written_bytes,
            "pending": pending_by_sink(parts, depths),
            "in_memory": parts.spool.rings.sizes(),  # results that a power cut would take, by route
            "journaled": dict(depths.journaled),
            "dead_letters": depths.dead_letters,
            "oldest_age_s": round(depths.oldest_age_s, 1),
        },
        "board": parts.board.status(),
        "models": {
            name: {"version": model.version, **parts.models.stats().get(name, {})}
            for name, model in parts.models.in_use().items()
        },
    }


def _cascades(parts: Parts) -> dict[str, Any]:
    if not parts.cascades.parts:
        return {"cascades": {}, "tiers": {}}
    from gatewayd.cascade.shown import cascade_status, post_status  # not at the top: a gateway without tiers is lighter

    return {
        "cascades": {name: cascade_status(part.ladder) for name, part in parts.cascades.parts.items()},
        "tiers": {name: post_status(post) for name, post in parts.cascades.posts.items()},
    }


def pending_by_sink(parts: Parts, depths: Depths) -> dict[str, int]:
    """Results not yet delivered, by sink: those in the file as of the last look, and those in memory now."""
    pending = dict(depths.pending)
    for sink, n in parts.spool.rings.pending().items():
        pending[sink] = pending.get(sink, 0) + n
    return pending


def _sink(parts: Parts, name: str) -> dict[str, Any]:
    month = parts.throttles[name].month()
    return {
        "state": _sink_state(parts, name),
        "today_bytes": month.today_bytes,
        "month_bytes": month.n_bytes,
        "month_began": month.begins,
        "month_ends": month.ends,
        "max_bytes_per_month": month.max_bytes,  # 0: no cap
    }


def _sink_state(parts: Parts, name: str) -> str:
    if parts.throttles[name].is_paused:
        return "over its monthly cap"
    reachable = parts.ground.telemetry.reachable(name)
    return {None: "nothing sent yet", True: "confirms", False: "away"}[reachable]


def observe(parts: Parts, depths: Depths) -> None:
    """Register the gauges. The callbacks run on other threads: they read plain numbers and nothing else."""
    telemetry = parts.ground.telemetry
    telemetry.observe("gatewayd.queue.messages", lambda: {(name,): len(p.queue) for name, p in parts.routes.items()})
    telemetry.observe("gatewayd.spool.limit", lambda: float(parts.ground.config.spool.max_bytes))
    telemetry.observe("gatewayd.spool.size", lambda: float(parts.spool.used_bytes))
    telemetry.observe("gatewayd.spool.wal", lambda: float(depths.wal_bytes))
    telemetry.observe(
        "gatewayd.spool.pending", lambda: {(sink,): n for sink, n in pending_by_sink(parts, depths).items()}
    )
    telemetry.observe("gatewayd.ring.results", lambda: {(route,): n for route, n in parts.spool.rings.sizes().items()})
    telemetry.observe("gatewayd.journal.messages", lambda: {(route,): n for route, n in depths.journaled.items()})
    telemetry.observe("gatewayd.spool.oldest.age", lambda: depths.oldest_age_s)
    telemetry.observe("gatewayd.dead_letters.kept", lambda: float(depths.dead_letters))
    telemetry.observe("gatewayd.process.memory", lambda: float(resident_bytes()))
    max_models_bytes = parts.ground.config.models.max_resident_bytes
    telemetry.observe("gatewayd.models.limit", lambda: float(max_models_bytes) if max_models_bytes else {})
    telemetry.observe("gatewayd.process.written", _written_bytes)
    telemetry.observe("gatewayd.spool.written", lambda: float(parts.spool.written_bytes))
    _observe_sinks(parts)
    _observe_cascades(parts)
    telemetry.observe_handlers(lambda: {name: part.context.runner.stats() for name, part in parts.routes.items()})
    telemetry.observe_models(parts.models.stats)
    observe_board(telemetry, parts.board)


def _observe_sinks(parts: Parts) -> None:
    telemetry, sinks, throttles = parts.ground.telemetry, parts.sinks, parts.throttles
    caps = {name: throttle.month().max_bytes for name, throttle in throttles.items()}
    telemetry.observe("gatewayd.uplink.wire", lambda: {(name,): sink.sent_bytes for name, sink in sinks.items()})
    telemetry.observe(
        "gatewayd.uplink.month", lambda: {(name,): one.month().n_bytes for name, one in throttles.items()}
    )
    telemetry.observe("gatewayd.uplink.quota", lambda: {(name,): float(cap) for name, cap in caps.items() if cap})


def _observe_cascades(parts: Parts) -> None:
    if not parts.cascades.parts:
        return
    from gatewayd.cascade.shown import observe_clients, tier_days  # as above

    telemetry, cascades, posts = parts.ground.telemetry, parts.cascades.parts, parts.cascades.posts
    telemetry.observe(
        "gatewayd.cascade.waiting", lambda: {(name,): float(part.ladder.n_waiting) for name, part in cascades.items()}
    )
    telemetry.observe(
        "gatewayd.tier.answering", lambda: {(name,): float(post.failures == 0) for name, post in posts.items()}
    )
    telemetry.observe("gatewayd.tier.day", lambda: tier_days(posts))
    observe_clients(telemetry.observe, posts)


def _written_bytes() -> float:
    """Bytes this process caused to be sent to the storage layer; 0 where the kernel does not count. Source: proc(5)."""
    try:
        with open("/proc/self/io", "rb") as file:  # noqa: PTH123 - read at every collection
            lines = dict(line.split(b": ") for line in file.read().splitlines())
    except OSError:
        return 0.0
    return float(lines.get(b"write_bytes", b"0"))
