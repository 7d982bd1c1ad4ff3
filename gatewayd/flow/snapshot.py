"""The flow as one JSON document: what `/flow` answers. The words are DESIGN's; docs/guides/page.md lists the fields.

Reads memory only (the spool as of the last look beside the writer), changes nothing, cannot block.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gatewayd import __version__
from gatewayd.flow.glance import quantiles_ms
from gatewayd.flow.history import EVERY_S
from gatewayd.flow.troubles import troubles_of
from gatewayd.status import shown_broker, shown_cascades, shown_sink

if TYPE_CHECKING:
    from gatewayd.flow.watch import FlowWatch
    from gatewayd.wiring import RoutePart

_LATEST_S = 300.0  # quantiles are over so long


def flow_of(watch: FlowWatch) -> dict[str, Any]:
    """The snapshot, without the charts."""
    parts, depths = watch.parts, watch.depths
    cascades = shown_cascades(parts)
    flow: dict[str, Any] = {
        "time": round(time.time(), 3),
        "gateway": parts.ground.gateway,
        "version": __version__,
        "uptime_s": round(parts.ground.clock.monotonic() - parts.started_at_s, 1),
        "broker": {**shown_broker(parts), "received_per_s": watch.rates.per_s("received", "")},
        "routes": {
            name: _route(watch, name, part, cascades["cascades"].get(name)) for name, part in parts.routes.items()
        },
        "spool": _spool(watch),
        "sinks": {name: _sink(watch, name) for name in parts.sinks},
        "models": _models(watch),
        "board": parts.board.status(),
        "books": {} if depths.books is None else depths.books.totals(),
        "tiers": cascades["tiers"],
        "listeners": len(watch.listeners),
        **watch.more(),
    }
    flow["troubles"] = troubles_of(flow)
    return flow


def history_of(watch: FlowWatch) -> dict[str, Any]:
    """The charts: numbers by point, the oldest first, the last one `every_s` or less ago."""
    points = watch.points
    return {
        "every_s": EVERY_S,
        "time": round(time.time(), 3),
        "received_per_s": points.of("received"),
        "results_per_s": points.of("results"),
        "delivered_per_s": points.of("delivered"),
        "pending": points.of("pending"),
        "used_bytes": points.of("used_bytes"),
        "routes": {
            name: {
                "received_per_s": points.of("received", name),
                "results_per_s": points.of("results", name),
                "labels": sight.labels(),
                "is_sampled": sight.is_sampled,
            }
            for name, sight in watch.sights.items()
        },
    }


def _route(watch: FlowWatch, name: str, part: RoutePart, cascade: Any) -> dict[str, Any]:
    context = part.context
    since = watch.parts.ground.clock.now() - _LATEST_S
    took = [each for each in context.glance.batches if each.at >= since]
    is_window = context.config.window is not None
    return {
        "state": part.state,
        "problem": part.problem,
        "handler": context.config.handler or "cascade",
        "topics": list(context.config.topics),
        "sinks": list(context.config.sinks),
        "models": sorted(context.runner.held),
        "durable_point": "journal" if part.journaled else "results",
        "window": is_window,
        "include_input": context.config.include_input,
        "waiting": len(part.queue),
        "journaled": watch.depths.journaled.get(name, 0),
        "received_per_s": watch.rates.per_s("received", name),
        "results_per_s": watch.rates.per_s("results", name),
        "results": context.glance.n_results,
        "book": _book(watch, name),
        # Of a window the age says how long the window was: not what anybody asks for.
        "age_ms": None if is_window else quantiles_ms((each.age_s, each.n) for each in took),
        "call_ms": quantiles_ms((each.call_s, each.n) for each in took),
        "latest": [seen.shown() for seen in reversed(watch.sights[name].latest)],
        "stats": context.runner.stats(),
        "cascade": cascade,  # None where the route has no tiers
    }


def _book(watch: FlowWatch, route: str) -> dict[str, Any]:
    """The route's line in the book of messages since the spool was made, and why those were lost that were."""
    books = watch.depths.books
    if books is None or route not in books.messages:
        return {}
    reasons = {
        line: dict(found)
        for line in ("dead", "dropped", "evicted", "expired")
        if (found := books.reasons.get(f"messages/{route}/{line}"))
    }
    return {**books.messages[route], "reasons": reasons}


def _spool(watch: FlowWatch) -> dict[str, Any]:
    parts, depths = watch.parts, watch.depths
    pending = depths.pending_with(parts)
    return {
        "used_bytes": parts.spool.used_bytes,
        "max_bytes": parts.ground.config.spool.max_bytes,
        "written_bytes": parts.spool.written_bytes,
        "pending": pending,
        "pending_total": sum(pending.values()),
        "in_memory": parts.spool.rings.sizes(),
        "journaled": sum(depths.journaled.values()),
        "dead_letters": depths.dead_letters,
        "oldest_age_s": round(depths.oldest_age_s, 1),
        "lost": _lost(watch),
        "looked_s_ago": round(depths.age_s(), 1),
    }


def _lost(watch: FlowWatch) -> list[dict[str, Any]]:
    """What the spool gave up or was refused, since it was made: one entry for each place and reason, the most first."""
    books = watch.depths.books
    if books is None:
        return []
    said = []
    for place, reasons in books.reasons.items():
        book, route, *sink, line = place.split("/")
        if line in ("evicted", "expired", "dropped", "dead", "refused"):
            said += [
                {"what": book, "route": route, "sink": sink[0] if sink else "", "line": line, "reason": reason, "n": n}
                for reason, n in reasons.items()
                if n
            ]
    return sorted(said, key=lambda each: -int(str(each["n"])))[:50]


def _sink(watch: FlowWatch, name: str) -> dict[str, Any]:
    parts, telemetry = watch.parts, watch.parts.ground.telemetry
    books = watch.depths.books
    lines = [] if books is None else [sinks[name] for sinks in books.results.values() if name in sinks]
    retries = {key[-1]: n for key, n in telemetry.totals("gatewayd.uplink.retries").items() if key[0] == name}
    failure = telemetry.last_failure(name)
    config = parts.ground.config.sinks[name]
    return {
        **shown_sink(parts, name),
        "type": type(config).__name__.removesuffix("Sink").lower(),
        "reachable": telemetry.reachable(name),
        "delivered_per_s": watch.rates.per_s("delivered", name),
        **{line: sum(each[line] for each in lines) for line in ("delivered", "refused", "evicted", "expired")},
        "pending": watch.depths.pending_with(parts).get(name, 0),
        "retries": sum(retries.values()),
        "last_error": None if failure is None else {"time": round(failure[0], 3), "words": failure[1]},
    }


def _models(watch: FlowWatch) -> dict[str, Any]:
    parts, stats = watch.parts, watch.parts.models.stats()
    said = {}
    for name, model in parts.models.in_use().items():
        figures = stats.get(name, {})
        said[name] = {
            "version": model.version,
            "digest": watch.digests(name, model.version),
            "runtime": model.bundle.manifest.runtime,
            "task": model.bundle.manifest.task,
            "size_bytes": model.bundle.size_bytes,
            "loaded": bool(figures.get("loaded", 0.0)),
            "memory_bytes": int(figures.get("resident_bytes", figures.get("memory_bytes", 0.0))),
            "calls_per_s": watch.rates.per_s("calls", name),
            "tokens_per_s": watch.rates.per_s("tokens_out", name),
            "is_language": "tokens_out" in figures,
            "stats": dict(figures),
        }
    return said
