"""What the demo has seen so far: plain counters that the bus, the cloud and the spool fill, and the view draws."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(slots=True)
class Scene:
    """The state of the show."""

    sent: Counter[str] = field(default_factory=Counter)  # messages published, by kind of device
    acked: int = 0  # of those, the broker's own acknowledgements
    results: Counter[str] = field(default_factory=Counter)  # live results, by route
    labels: dict[str, Counter[str]] = field(default_factory=dict)  # by route
    latest: dict[str, str] = field(default_factory=dict)  # by route: the last result in words
    summaries: deque[str] = field(default_factory=lambda: deque(maxlen=3))
    pending: int = 0
    max_pending: int = 0
    stored: int = 0
    cloud_is_up: bool = True
    events: deque[str] = field(default_factory=lambda: deque(maxlen=6))  # what happened, newest last
    left_s: float = 0.0

    def live_result(self, topic: str, payload: bytes) -> None:
        """A result came back on the local bus: a CloudEvent in structured mode (MQTT 3.1.1)."""
        event: dict[str, Any] = msgspec.json.decode(payload)
        route, data = topic.rsplit("/", 1)[-1], event["data"]
        self.results[route] += 1
        if "label" in data:
            self.labels.setdefault(route, Counter())[data["label"]] += 1
            score = data.get("score")
            self.latest[route] = f"{event.get('subject', '')}: {data['label']}" + (
                f" ({score:.2f})" if isinstance(score, float) else ""
            )
        if "summary" in data:
            self._summary(data)

    def _summary(self, data: dict[str, Any]) -> None:
        summary = data["summary"]
        headline = summary["headline"] if isinstance(summary, dict) else str(summary)
        severity = summary.get("severity", "") if isinstance(summary, dict) else ""
        tokens = f", {data['tokens_in']} tokens in, {data['tokens_out']} out" if data.get("tokens_out") else ""
        self.summaries.append(f"[{severity}] {headline}  ({data['messages']} lines, {data.get('method', '')}{tokens})")

    def spool_depth(self, pending: int) -> None:
        """How many results wait for the cloud."""
        self.pending = pending
        self.max_pending = max(self.max_pending, pending)
