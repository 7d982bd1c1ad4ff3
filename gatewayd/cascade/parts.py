"""What a daemon holds of its cascades. Light: a gateway without tiers imports nothing else of them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gatewayd.answer import HANDLER_STOP_S, HandlerRunner
from gatewayd.api import Handler
from gatewayd.spool.books import Books

if TYPE_CHECKING:
    from gatewayd.cascade.escalation import Escalations
    from gatewayd.cascade.ladder import Ladder
    from gatewayd.cascade.local import HandlerClient
    from gatewayd.cascade.post import Post


@dataclass(frozen=True, slots=True)
class CascadePart:
    """A route's cascade, built and not yet running."""

    ladder: "Ladder"
    escalations: "Escalations"
    slow: Sequence["HandlerClient"]  # slow handlers on this box

    @property
    def far(self) -> Sequence[str]:
        """Names of the tiers outside of this box that escalations wait for."""
        slow = {client.name for client in self.slow}
        return [name for name in self.ladder.calls if name not in slow]


class Keeper(Protocol):
    """What has a thread of its own that writes."""

    def close(self) -> None:
        """Write what waits. Blocks, for a limited time."""


@dataclass(slots=True)
class Cascades:
    """The cascades of a daemon, by route, and what they share."""

    parts: dict[str, CascadePart]
    posts: Mapping[str, "Post"]
    keepers: Sequence[Keeper] = ()  # audit trail and lessons

    def begin(self, books: Books) -> None:
        """What waits since an earlier run."""
        for name, part in self.parts.items():
            part.ladder.n_waiting = books.messages.get(name, {}).get("journaled", 0)

    def bind(self, handlers: Mapping[str, Handler]) -> None:
        """Handlers that are about to take over from those of the same routes take part in their cascades."""
        if not self.parts:
            return
        from gatewayd.cascade.handler import CascadeHandler  # here: see the top

        for name, part in self.parts.items():
            handler: object = handlers.get(name)
            if isinstance(handler, CascadeHandler):
                handler.bind(part.ladder)

    def slow_runners(self) -> Iterator[tuple[str, HandlerRunner]]:
        """Slow handlers on this box, each with the name of its route."""
        for name, part in self.parts.items():
            for client in part.slow:
                yield name, client.runner

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for a better answer."""
        return not any(part.ladder.n_waiting for part in self.parts.values())

    async def close(self) -> None:
        """Let go of connections, and stop the slow handlers."""
        for post in self.posts.values():
            await post.client.close()
        for part in self.parts.values():
            for client in part.slow:
                await client.runner.stop(HANDLER_STOP_S)
        for keeper in self.keepers:
            await asyncio.to_thread(keeper.close)
