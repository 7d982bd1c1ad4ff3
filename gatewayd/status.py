"""What a running daemon says of itself: `/status`, and the gauges that are read when metrics are collected."""

from typing import Any

from gatewayd import __version__
from gatewayd.wiring import Parts


def status(parts: Parts) -> dict[str, Any]:
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
            "protocol": parts.source.protocol,
            "acks_after_commit": parts.source.acks_after_commit,
        },
        "routes": {
            name: {
                "state": part.state,
                "handler": part.context.config.handler,
                "durable_point": "journal" if part.journaled else "results",
                "waiting": len(part.queue),
            }
            for name, part in parts.routes.items()
        },
        "sinks": {name: {"state": _sink_state(parts, name)} for name in parts.sinks},
        "spool": {"used_bytes": parts.spool.used_bytes, "max_bytes": parts.ground.config.spool.max_bytes},
        "models": parts.models.stats(),
    }


def _sink_state(parts: Parts, name: str) -> str:
    reachable = parts.ground.telemetry.reachable(name)
    return {None: "nothing sent yet", True: "confirms", False: "away"}[reachable]


def observe(parts: Parts) -> None:
    """Register the gauges. The callbacks run on other threads: they read plain numbers and nothing else."""
    telemetry = parts.ground.telemetry
    telemetry.observe("gatewayd.queue.messages", lambda: {(name,): len(p.queue) for name, p in parts.routes.items()})
    telemetry.observe("gatewayd.spool.limit", lambda: float(parts.ground.config.spool.max_bytes))
    telemetry.observe("gatewayd.spool.size", lambda: float(parts.spool.used_bytes))
    telemetry.observe("gatewayd.process.memory", _resident_bytes)


def _resident_bytes() -> float:
    """VmRSS of this process, in bytes. Source: proc(5), /proc/self/statm counts pages."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - read at every collection
        return float(file.read().split()[1]) * 4096
