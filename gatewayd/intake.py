"""Intake: every message off the source into the queue of each route whose filter it matches.

Invariants: a message is counted once for each of its routes; its receipt goes back when the last of them has passed
its durable point; a message that no route wants, or that a route has seen before, is acknowledged and counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gatewayd.ports import RawMessage, Source
from gatewayd.queues import Receipt, RouteQueue
from gatewayd.routing import Router


class IntakeReport(Protocol):
    """What intake tells telemetry."""

    def message_received(self, route: str, n: int) -> None: ...

    def dropped(self, route: str, reason: str, n: int) -> None: ...

    def duplicates(self, n: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Inlet:
    """The way into one route."""

    route: str
    queue: RouteQueue
    tag: bytes  # makes a message's identity the route's own: one route may have passed it and another not yet


@dataclass(slots=True)
class Losses:
    """QoS 0 messages dropped under overload and not yet in the books, by route. Flushed by the daemon."""

    dropped: dict[tuple[str, str], int]

    def add(self, route: str, reason: str, n: int = 1) -> None:
        """`n` more messages of `route` were lost on purpose."""
        self.dropped[route, reason] = self.dropped.get((route, reason), 0) + n

    def take(self) -> tuple[str, str, int] | None:
        """One (route, reason, messages) that is not in the books yet; None when there is none."""
        if not self.dropped:
            return None
        (route, reason), n_dropped = self.dropped.popitem()
        return route, reason, n_dropped


UNROUTED = "unrouted"  # the route name under which messages that match no route are counted


async def run_intake(
    source: Source,
    router: Router[Inlet],
    was_seen: Callable[[bytes], bool],
    losses: Losses,
    report: IntakeReport,
) -> None:
    """Run until cancelled."""
    async for message in source.messages():
        inlets: tuple[Inlet, ...] = router.match(message.topic)
        if inlets and message.dup and message.identity:
            inlets = _not_yet_seen(message, inlets, was_seen)
            if not inlets:
                report.duplicates(1)
                await _acknowledge(source, message)
                continue
        if not inlets:
            _lose(UNROUTED, "no_route", losses, report)
            await _acknowledge(source, message)
            continue
        receipt = None if message.receipt is None else Receipt(message.receipt, len(inlets))
        for inlet in inlets:
            while not _is_taken(inlet, message, receipt, losses, report):
                # Full of QoS 1: not reading on is what holds the broker back (DESIGN.md section 7).
                await inlet.queue.room()


def _not_yet_seen(
    message: RawMessage, inlets: tuple[Inlet, ...], was_seen: Callable[[bytes], bool]
) -> tuple[Inlet, ...]:
    """The routes that have not passed this redelivered message before the last stop."""
    return tuple(inlet for inlet in inlets if not was_seen(message.identity + inlet.tag))


async def _acknowledge(source: Source, message: RawMessage) -> None:
    if message.receipt is not None:
        await source.ack([message.receipt])


def _is_taken(inlet: Inlet, message: RawMessage, receipt: Receipt | None, losses: Losses, report: IntakeReport) -> bool:
    """Whether the route's queue has taken the message; what was dropped for it is counted."""
    taken, dropped = inlet.queue.offer((message, receipt))
    for _ in dropped:
        _lose(inlet.route, "queue_full", losses, report)
    return taken


def _lose(route: str, reason: str, losses: Losses, report: IntakeReport) -> None:
    losses.add(route, reason)
    report.message_received(route, 1)  # what a route takes out of its queue it counts itself
    report.dropped(route, reason, 1)
