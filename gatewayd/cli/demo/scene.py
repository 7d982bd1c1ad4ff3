"""What the demo has seen so far: plain counters that the bus, the cloud and the spool fill, and the view draws."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import msgspec

LOG_LINES = "PLC log lines"
_CALM = {"normal", "routine"}  # labels that are no news


@dataclass(frozen=True, slots=True)
class Told:
    """A summary, in a line."""

    severity: str
    headline: str
    about: str  # how many lines, by which method, how many tokens

    def __str__(self) -> str:
        return f"[{self.severity}] {self.headline}  ({self.about})"


@dataclass(slots=True)
class Scene:
    """The state of the show. Every container is bounded: a demo may run for a day."""

    seconds: float  # how long the devices publish
    started_s: float | None = None  # monotonic; None before the devices begin
    sent: Counter[str] = field(default_factory=Counter)  # messages published, by kind of device
    results: Counter[str] = field(default_factory=Counter)  # live results, by route
    labels: dict[str, Counter[str]] = field(default_factory=dict)  # by route
    latest: dict[str, str] = field(default_factory=dict)  # by route: the last result in words
    summaries: deque[Told] = field(default_factory=lambda: deque(maxlen=8))
    pending: int = 0
    max_pending: int = 0
    depths: deque[tuple[float, int, bool]] = field(default_factory=lambda: deque(maxlen=4096))
    stored: int = 0
    cloud_is_up: bool = True
    events: deque[str] = field(default_factory=lambda: deque(maxlen=200))  # what happened, newest last
    n_events: int = 0
    left_s: float = 0.0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=20_000))
    _published_s: dict[str, float] = field(default_factory=dict)  # by topic: when its last message was sent
    _states: dict[tuple[str, str], str] = field(default_factory=dict)  # (route, subject) -> the last news
    _seen: set[tuple[str, str, str]] = field(default_factory=set)

    @property
    def age_s(self) -> float:
        """Seconds since the devices began."""
        return 0.0 if self.started_s is None else time.monotonic() - self.started_s

    def begin(self) -> None:
        """The devices begin now."""
        self.started_s = time.monotonic()

    def tell(self, words: str) -> None:
        """Something happened that a person should read."""
        self.events.append(f"{self.age_s:4.0f} s  {words}")
        self.n_events += 1

    def published(self, kind: str, topic: str) -> None:
        """A device is about to send a message."""
        self.sent[kind] += 1
        self._published_s[topic] = time.monotonic()

    def live_result(self, topic: str, payload: bytes) -> None:
        """A result came back on the local bus: a CloudEvent in structured mode (MQTT 3.1.1)."""
        now_s = time.monotonic()
        event: dict[str, Any] = msgspec.json.decode(payload)
        route, data, subject = topic.rsplit("/", 1)[-1], event["data"], event.get("subject", "")
        self.results[route] += 1
        if "summary" in data:
            self._summary(data)
            return
        # A device sends every 250 ms or slower, so an answer within that is an answer to its last message.
        if subject in self._published_s:
            self.latencies_s.append(now_s - self._published_s[subject])
        if "label" in data:
            self._label(route, subject, data)

    def _label(self, route: str, subject: str, data: dict[str, Any]) -> None:
        state = data.get("state")  # raised or cleared: an alert of `threshold`
        label = data["label"] if state is None else f"{data['label']} {state}"
        self.labels.setdefault(route, Counter())[label] += 1
        score, value = data.get("score"), data.get("value")
        number = f" ({score:.2f})" if isinstance(score, float) else f" ({value})" if value is not None else ""
        self.latest[route] = f"{subject}: {label}{number}"
        # The first time a device has something to say, and the first time it is well again.
        before = self._states.get((route, subject))
        is_news = label not in _CALM or before not in (None, label)
        self._states[route, subject] = label
        if is_news and (route, subject, label) not in self._seen:
            self._seen.add((route, subject, label))
            self.tell(f"{route}: {self.latest[route]}")

    def _summary(self, data: dict[str, Any]) -> None:
        summary = data["summary"] if isinstance(data["summary"], dict) else {"headline": str(data["summary"])}
        about = f"{data['messages']} lines, {data.get('method', '')}"
        if data.get("tokens_out"):
            about += f", {data['tokens_in']} tokens in, {data['tokens_out']} out"
        told = Told(summary.get("severity", "info"), summary["headline"], about)
        self.summaries.append(told)
        self.tell(f"summary {told}")

    def spool_depth(self, pending: int) -> None:
        """How many results wait for the cloud."""
        self.pending = pending
        self.max_pending = max(self.max_pending, pending)
        self.depths.append((self.age_s, pending, self.cloud_is_up))

    def latency_ms(self) -> tuple[float, float] | None:
        """Median and 95th percentile from publishing to the live result, in milliseconds; None before there are two."""
        if len(self.latencies_s) < 2:
            return None
        cuts = quantiles(self.latencies_s, n=20, method="inclusive")
        return cuts[9] * 1000, cuts[18] * 1000
