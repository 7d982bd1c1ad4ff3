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

    def add(self, route: str, reason: str) -> None:
        """One more message of `route` was lost on purpose."""
        self.dropped[route, reason] = self.dropped.get((route, reason), 0) + 1

    def take(self) -> dict[tuple[str, str], int]:
        """What was added since the last call: {(route, reason): messages}."""
        taken, self.dropped = self.dropped, {}
        return taken


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
        if message.dup and message.identity:
            inlets = _not_yet_seen(message, inlets, was_seen)
            if not inlets:
                report.duplicates(1)
                await source.ack([message.receipt])
                continue
        if not inlets:
            losses.add(UNROUTED, "no_route")
            report.dropped(UNROUTED, "no_route", 1)
            await _acknowledge(source, message)
            continue
        receipt = None if message.receipt is None else Receipt(message.receipt, len(inlets))
        for inlet in inlets:
            await _put(inlet, message, receipt, losses, report)


def _not_yet_seen(
    message: RawMessage, inlets: tuple[Inlet, ...], was_seen: Callable[[bytes], bool]
) -> tuple[Inlet, ...]:
    """The routes that have not passed this redelivered message before the last stop."""
    return tuple(inlet for inlet in inlets if not was_seen(message.identity + inlet.tag))


async def _acknowledge(source: Source, message: RawMessage) -> None:
    if message.receipt is not None:
        await source.ack([message.receipt])


async def _put(
    inlet: Inlet, message: RawMessage, receipt: Receipt | None, losses: Losses, report: IntakeReport
) -> None:
    taken, dropped = inlet.queue.offer((message, receipt))
    while not taken:
        # Full of QoS 1: not reading on is what holds the broker back (DESIGN.md section 7).
        await inlet.queue.room()
        taken, dropped = inlet.queue.offer((message, receipt))
    if dropped is not None:
        losses.add(inlet.route, "queue_full")
        report.dropped(inlet.route, "queue_full", 1)
