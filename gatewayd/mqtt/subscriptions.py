"""Our subscriptions over the life of an mqtt_session: what to ask for, what to take back, which delivery is a copy.

Invariant: of the copies that a broker makes of one message for overlapping subscriptions of ours exactly one is taken:
that of the matching subscription with the smallest identifier. A delivery that cannot be told apart is taken: better
twice than lost. What this rests on:

- A set of subscriptions is a generation with identifiers of its own, never used before. A message that waited at the
  broker over a change of the config carries identifiers of its generation, and is judged by the filters of that one.
- Subscriptions are made in ascending order of identifier, one after the other, and old ones are taken back at the end.
  So a message never arrives through a subscription that yields to one that is not made yet, or was refused.
- The smallest identifiers go to QoS 1, so that the copy taken has the highest QoS of all.

No I/O here but for the file behind `Remembered`.
"""

import random
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from gatewayd.mqtt.remembered import MAX_IDENTIFIER, Generation, Remembered, Subscribed, Subscription
from gatewayd.ports import Draw
from gatewayd.routing import Router
from gatewayd.subscribing import Plan, plan_subscriptions, share_of

log = structlog.get_logger(__name__)

_MAX_FIRST = 2_000_000  # below 2,097,152 an identifier takes three bytes in each message
_MAX_NAMED = 5  # overlapping pairs that a log line names


class Subscriptions:
    """What one source subscribes to.

    Args:
        filters: topic filters as the broker gets them, each with its QoS.
        remembered: what earlier runs subscribed to.
        is_v5: whether there are subscription identifiers at all.
        draw: chance, for the first identifier when nothing is remembered.
    """

    def __init__(
        self, filters: Sequence[tuple[str, int]], remembered: Remembered, *, is_v5: bool, draw: Draw = random.random
    ) -> None:
        self._plan = plan_subscriptions(filters)
        self._remembered = remembered
        self._is_v5 = is_v5
        self._is_warned = False
        self._saved = remembered.load()
        self._now = _renew(self._saved, self._plan, draw)
        self._copies = Copies(self._now.generations)
        self.can_tell_copies = self._copies.is_of_use  # False: no identifier matters, so `is_copy` need not be asked

    @property
    def stale(self) -> tuple[str, ...]:
        """Filters to unsubscribe from, after subscribing."""
        return self._now.stale

    def is_copy(self, topic: str, identifiers: Sequence[int]) -> bool:
        """Whether this delivery is another copy of a message taken through another subscription."""
        return self._copies.is_copy(topic, identifiers)

    def begin(self, *, has_identifiers: bool) -> list[list[Subscription]]:
        """What to subscribe to now: SUBSCRIBE packets in order, the next one after the answer to the last.

        Writes to disk. `has_identifiers`: what the broker says about itself.
        """
        self._save(self._now)
        wanted = self._now.current
        if not self._plan.has_overlap:
            return [list(wanted)] if wanted else []
        if self._is_v5 and has_identifiers:
            return [[subscription] for subscription in wanted]
        self._warn()
        return [[msgspec.structs.replace(subscription, identifier=0) for subscription in wanted]]

    def answered(self, asked: Sequence[Subscription], codes: Sequence[int]) -> None:
        """The broker's reason codes for them, in order."""
        code_of = {one.filter: code for one, code in zip(asked, codes, strict=True)}
        generation = tuple(
            msgspec.structs.replace(one, is_refused=code_of[one.filter] >= 0x80) if one.filter in code_of else one
            for one in self._now.current
        )
        if generation != self._now.current:
            # What is refused may still be held under an older identifier, and alone: then it yields to nobody any more.
            older = () if any(one.is_refused for one in generation) else self._now.generations[1:]
            self._now = Subscribed((generation, *older), self._now.stale)
            self._copies = Copies(self._now.generations)
            self._save(self._now)  # before anything is taken back; once, as long as the broker does not change its mind
        if refused := [name for name, code in code_of.items() if code >= 0x80]:
            log.error(
                "the broker refused subscriptions",
                filters=refused,
                hint="let this user read these topics in the broker's access rules, or take them out of the routes",
            )

    def unsubscribed(self, filters: Iterable[str]) -> None:
        """The broker has taken these back. Writes to disk what became of the last `begin`."""
        gone = set(filters)
        self._now = Subscribed(self._now.generations, tuple(name for name in self._now.stale if name not in gone))
        self._save(self._now)

    def _save(self, subscribed: Subscribed) -> None:
        if subscribed != self._saved:
            self._remembered.save(subscribed)
            self._saved = subscribed

    def _warn(self) -> None:
        if not self._is_warned:
            self._is_warned = True
            log.warning(
                "topic filters overlap and the broker cannot tell their copies apart",
                filters=[f"{a} and {b}" for a, b in self._plan.overlaps[:_MAX_NAMED]],
                hint="some brokers deliver such messages twice: use MQTT 5, or filters that do not overlap in part",
            )


def _renew(known: Subscribed, plan: Plan, draw: Draw) -> Subscribed:
    """What is known after the plan has become the newest generation; the same when it is already."""
    wanted = dict(plan.subscriptions)
    if wanted == {one.filter: one.qos for one in known.current} and plan.has_overlap == _is_numbered(known.current):
        return known
    highest = max((one.identifier for generation in known.generations for one in generation), default=0)
    if highest == 0 or highest + len(wanted) > MAX_IDENTIFIER:
        # A file that was lost must not make identifiers of messages that still wait mean other filters.
        highest = int(draw() * _MAX_FIRST)
    place = {one.filter: index for index, one in enumerate(known.current)}
    # Those that were there before keep their order: so the copy that is taken changes for as few topics as possible.
    ordered = sorted(plan.subscriptions, key=lambda wish: (-wish[1], place.get(wish[0], len(place))))
    generation = tuple(
        Subscription(name, qos, highest + number if plan.has_overlap else 0)
        for number, (name, qos) in enumerate(ordered, start=1)
    )
    before = dict.fromkeys([*known.stale, *(one.filter for one in known.current)])
    stale = tuple(name for name in before if name not in wanted)
    return Subscribed((generation, *known.generations), stale).bounded()


def _is_numbered(generation: Generation) -> bool:
    return any(one.identifier for one in generation)


class Copies:
    """Which subscription a topic's message is taken through, for each generation and share group."""

    def __init__(self, generations: Iterable[Generation]) -> None:
        self._by_identifier: dict[int, Router[int]] = {}  # to the subscriptions made with it for the same messages
        for generation in generations:
            for group in {share_of(one.filter) for one in generation}:
                self._add([one for one in generation if share_of(one.filter) == group])
        self.is_of_use = bool(self._by_identifier)

    def _add(self, subscriptions: Sequence[Subscription]) -> None:
        numbered = {one.filter: [one.identifier] for one in subscriptions if one.identifier and not one.is_refused}
        router = Router(numbered)  # gives the identifiers in the order named, so in ascending order
        for (identifier,) in numbered.values():
            self._by_identifier[identifier] = router

    def is_copy(self, topic: str, identifiers: Sequence[int]) -> bool:
        """Whether every subscription this delivery came through yields to another one."""
        for identifier in identifiers:
            router = self._by_identifier.get(identifier)
            if router is None:
                return False
            matching = router.match(topic)
            if not matching or matching[0] == identifier:
                return False
        return bool(identifiers)
