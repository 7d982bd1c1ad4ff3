"""Subscriptions over changes of the config, against a simulated broker that makes a copy for each subscription."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.mqtt.remembered import Remembered, Subscribed, Subscription
from gatewayd.mqtt.subscriptions import Subscriptions
from gatewayd.routing import matches

FILTERS = ["a/+", "+/b", "a/b", "+/c", "a/#", "a/c/+"]
TOPICS = ["a/b", "a/c", "x/b", "a", "a/c/d", "x/y"]
CONFIG = st.dictionaries(st.sampled_from(FILTERS), st.integers(0, 1), min_size=1, max_size=5)


class InMemory(Remembered):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Subscribed()

    def load(self) -> Subscribed:
        return self.kept

    def save(self, subscribed: Subscribed) -> None:
        self.kept = subscribed.bounded()


@dataclass
class Broker:
    """Keeps subscriptions and what waits for us, over our restarts."""

    merges: bool  # whether it sends one delivery with all identifiers instead of copies
    held: dict[str, int] = field(default_factory=dict)
    waiting: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    published: int = 0

    def publish(self, topic: str) -> int | None:
        """The message's number; None when nothing matches."""
        self.published += 1
        through = [identifier for name, identifier in self.held.items() if matches(name, topic)]
        if self.merges and all(through):
            self.waiting += [(self.published, topic, tuple(through))] if through else []
        else:
            self.waiting += [(self.published, topic, (one,) if one else ()) for one in through]
        return self.published if through else None

    def subscribe(self, packet: list[Subscription], refuses: set[str]) -> list[int]:
        for one in packet:
            if one.filter not in refuses:
                self.held[one.filter] = one.identifier
        return [0x87 if one.filter in refuses else one.qos for one in packet]


@dataclass
class Gateway:
    broker: Broker
    remembered: InMemory = field(default_factory=InMemory)
    taken: Counter[int] = field(default_factory=Counter)
    draws: int = 0

    def draw(self) -> float:
        self.draws += 1
        return self.draws / 100

    def forget(self) -> None:
        """The file is lost."""
        self.remembered = InMemory()

    def start(self, config: dict[str, int], topics: list[str], refuses: set[str], cut: int | None) -> list[int]:
        """Messages are published all the while; `cut`: the power goes before that packet. The messages so published."""
        subscriptions = Subscriptions(list(config.items()), self.remembered, is_v5=True, draw=self.draw)
        meanwhile: list[int | None] = []
        self.deliver(subscriptions)
        for number, packet in enumerate(subscriptions.begin(has_identifiers=True)):
            if number == cut:
                return [n for n in meanwhile if n]
            meanwhile += map(self.broker.publish, topics)
            codes = self.broker.subscribe(packet, refuses)
            meanwhile += map(self.broker.publish, topics)
            self.deliver(subscriptions)
            subscriptions.answered(packet, codes)
        meanwhile += map(self.broker.publish, topics)
        for name in subscriptions.stale:
            self.broker.held.pop(name, None)
        subscriptions.unsubscribed(subscriptions.stale)
        self.deliver(subscriptions)
        return [n for n in meanwhile if n]

    def deliver(self, subscriptions: Subscriptions) -> None:
        for number, topic, identifiers in self.broker.waiting:
            if not subscriptions.is_copy(topic, identifiers):
                self.taken[number] += 1
        self.broker.waiting.clear()


@given(st.lists(CONFIG, min_size=1, max_size=6), st.lists(st.sampled_from(TOPICS), max_size=6), st.booleans())
def test_what_is_published_between_starts_is_taken_exactly_once(
    configs: list[dict[str, int]], topics: list[str], merges: bool
) -> None:
    gateway = Gateway(Broker(merges))
    backlog: list[int | None] = []

    for config in configs:
        gateway.start(config, [], set(), None)
        assert set(gateway.broker.held) <= set(config)
        backlog += map(gateway.broker.publish, topics)
    gateway.start(configs[0], [], set(), None)

    expected = {number: 1 for number in backlog if number}
    assert gateway.taken == expected


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(CONFIG, st.sets(st.sampled_from(FILTERS), max_size=2), st.none() | st.integers(0, 4), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.sampled_from(TOPICS), min_size=1, max_size=6),
)
def test_nothing_is_lost_whatever_is_refused_or_forgotten_and_wherever_the_power_goes(
    starts: list[tuple[dict[str, int], set[str], int | None, bool]], topics: list[str]
) -> None:
    gateway = Gateway(Broker(merges=False))
    published: list[int | None] = []

    for config, refuses, cut, forgets in starts:
        if forgets:
            gateway.forget()
        published += gateway.start(config, topics, refuses, cut)
        published += map(gateway.broker.publish, topics)
    gateway.start(starts[0][0], topics, set(), None)

    assert {number for number in published if number} <= set(gateway.taken)


@given(CONFIG, CONFIG, CONFIG, st.lists(st.sampled_from(TOPICS), min_size=1), st.integers(0, 4))
def test_a_cut_start_is_completed_by_the_next_and_leaves_no_copies(
    before: dict[str, int], meant: dict[str, int], config: dict[str, int], topics: list[str], cut: int
) -> None:
    gateway = Gateway(Broker(merges=False))
    gateway.start(before, [], set(), None)
    gateway.start(meant, [], set(), cut)

    gateway.start(config, [], set(), None)
    numbers = [number for topic in topics if (number := gateway.broker.publish(topic))]
    gateway.start(config, [], set(), None)

    assert {gateway.taken[number] for number in numbers} <= {1}
    assert set(gateway.broker.held) <= set(config)
