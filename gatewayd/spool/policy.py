"""What a route says about its own rows: what may be lost of them, how long they matter, and in which order they go."""

import msgspec

from gatewayd.config import schema


class RoutePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `[routes.<name>]` that the spool needs; their meaning is in docs/reference/config.md."""

    when_full: str = "evict_oldest"  # or evict_lowest_priority, thin, block
    priority: int = 4  # 0 goes first, 9 goes last
    ttl_s: float | None = None
    drain: str = "oldest_first"  # or live_first
    write: str = "always"  # or when_offline
    write_max_s: float = 5.0
    write_max_results: int = 1000

    @classmethod
    def of(cls, route: schema.Route) -> "RoutePolicy":
        """The policy of a route of the config."""
        return cls(
            when_full=route.when_full,
            priority=route.priority,
            ttl_s=route.ttl_s,
            drain=route.drain,
            write=route.write,
            write_max_s=route.write_max_s,
            write_max_results=route.write_max_results,
        )


DEFAULT = RoutePolicy()  # of a route that is gone from the config
