"""The health that is published for Home Assistant, and for whoever else wants it: `gatewayd/<gateway>/health`."""

from typing import Any

from gatewayd.status import Depths
from gatewayd.wiring import Parts


def health(parts: Parts, depths: Depths) -> dict[str, Any]:
    """A snapshot, encodable as JSON; reads memory only."""
    board, limit = parts.board.board, parts.ground.config.spool.max_bytes
    temperatures = [one.value_c for one in board.temperatures]
    return {
        "pending": sum(depths.pending_with(parts).values()),
        "oldest_age_s": round(depths.oldest_age_s),
        "journaled": sum(depths.journaled.values()),
        "dead_letters": depths.dead_letters,
        "spool_percent": round(100 * parts.spool.used_bytes / limit, 1),
        "temperature_c": round(max(temperatures), 1) if temperatures else None,
        "hot": parts.board.heat.is_hot,
        "sinks": {name: parts.ground.telemetry.reachable(name) for name in parts.sinks},
        "routes": {name: part.state for name, part in parts.routes.items()},
        "live": {name: part.context.live is not None for name, part in parts.routes.items()},
    }
