"""Recordings through the whole gateway: devices, a real Mosquitto, the gatewayd process, a cloud process.

Invariant: what a part of the benchmark judges was published at QoS 1, came back through the cloud, and every message is
accounted for: `Outcome.problems` names whatever is missing, buried, dropped or delivered twice, and a book that does
not balance.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatewayd.spool.books import Books
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

Event = Mapping[str, Any]  # a CloudEvent as the cloud stored it
Events = Mapping[str, Sequence[Event]]  # by route, in order of arrival
Say = Callable[[str], None]

_LOOK_S = 1.0
_SAY_EVERY_S = 5.0
_STALL_S = 180.0  # without one message more in the books for so long, the rest is missing
_PUBLISH_S = 120.0
_STARTED = time.monotonic()

_HEAD = """
[source]
port = {port}
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 1.0
[models]
dir = "{models}"
"""


@dataclass(frozen=True)
class Feed:
    """What one device sends, in order, as JSON, through a connection of its own."""

    topic: str
    messages: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Findings:
    """What a part of the benchmark found. Each problem makes the command fail."""

    figures: dict[str, Any]
    problems: list[str]
    shown: Sequence[str] = ()  # printed for a person, and kept nowhere


@dataclass(frozen=True)
class Plan:
    """A part of the benchmark, ready to run."""

    routes: str  # TOML
    waves: Sequence[Sequence[Feed]]  # the feeds of a wave are sent side by side, the waves one after the other
    expected: Mapping[str, int]  # messages a route must receive
    judge: Callable[[Events], Findings]


@dataclass(frozen=True)
class Outcome:
    """What came back."""

    events: Events
    seconds: float  # from the first message published until the last result was delivered
    published: int
    sent_twice: int  # the cloud knew the id already
    books: Mapping[str, object]
    problems: list[str]


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(f"[{time.monotonic() - _STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


def run_plan(plan: Plan, models: Path, name: str, *, stall_s: float = _STALL_S) -> Outcome:
    """Start broker, cloud and gateway, publish all waves, wait until all is delivered, stop, read the books."""
    with tempfile.TemporaryDirectory(prefix="gatewayd-quality-") as folder:
        broker = Mosquitto(Path(folder) / "broker")
        cloud = CloudProcess(Path(folder))
        head = _HEAD.format(port=broker.port, url=cloud.url, models=models)
        gateway = Gateway(Path(folder) / "gateway", head + plan.routes, name=f"quality-{name}")
        try:
            broker.start()
            cloud.start()
            gateway.start(ready=False)
            wait_until(gateway.is_subscribed, 120, gateway.describe)  # models are loaded before it subscribes
            return _run(plan, broker, cloud, gateway, stall_s)
        finally:
            gateway.end()
            cloud.stop()
            broker.kill()


def _run(plan: Plan, broker: Mosquitto, cloud: CloudProcess, gateway: Gateway, stall_s: float) -> Outcome:
    published = sum(len(feed.messages) for wave in plan.waves for feed in wave)
    say(f"gateway is up, publishing {published:,} messages at QoS 1")
    began = time.monotonic()
    problems = [problem for wave in plan.waves for problem in publish(broker.port, wave)]
    problems += _settle(plan, gateway, stall_s)
    seconds = time.monotonic() - began
    if (status := gateway.stop()) != 0:
        problems.append(f"gatewayd ended with status {status}\n{gateway.describe()}")
    received, stored = cloud.received(), list(cloud.stored().values())
    events: dict[str, list[Event]] = {route: [] for route in plan.expected}
    for event in stored:
        events[event["source"].rsplit("/", 1)[1]].append(event)
    books = gateway.books()
    problems += missing(plan.expected, books, {route: len(found) for route, found in events.items()})
    return Outcome(
        events=events,
        seconds=round(seconds, 1),
        published=published,
        sent_twice=len(received) - len(stored),
        books=books.totals(),
        problems=problems,
    )


def publish(port: int, feeds: Sequence[Feed]) -> list[str]:
    """Send all feeds side by side; return when the broker has acknowledged them all, with what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        senders = []
        for number, feed in enumerate(feeds):
            lines = Path(folder) / f"{number}.ndjson"
            lines.write_text("".join(json.dumps(message) + "\n" for message in feed.messages))
            with lines.open("rb") as stdin:
                command = ["mosquitto_pub", "-p", str(port), "-t", feed.topic, "-q", "1", "-l"]
                senders.append((feed.topic, subprocess.Popen(command, stdin=stdin)))
        ended = [(topic, _end(sender)) for topic, sender in senders]
    return [f"mosquitto_pub {topic}: exit status {status}" for topic, status in ended if status]


def _end(sender: "subprocess.Popen[bytes]") -> int:
    try:
        return sender.wait(timeout=_PUBLISH_S)
    except subprocess.TimeoutExpired:
        sender.kill()
        return sender.wait()


def _settle(plan: Plan, gateway: Gateway, stall_s: float) -> list[str]:
    """Wait until all is delivered; a problem when nothing goes on any more before that."""
    last, moved_at, said_at = (-1, -1), time.monotonic(), 0.0
    while True:
        books = gateway.books()
        n_answered, n_pending = _answered(books), gateway.n_pending()
        n_due = sum(plan.expected.values())
        if n_answered >= n_due and n_pending == 0:
            return []
        now = time.monotonic()
        if (n_answered, n_pending) != last:
            last, moved_at = (n_answered, n_pending), now
        if now - moved_at > stall_s:
            return [f"{n_due - n_answered} of {n_due} messages were not answered\n{gateway.describe()}"]
        if now - said_at > _SAY_EVERY_S:
            said_at = now
            say(f"  {n_answered:,} of {n_due:,} messages answered, {n_pending:,} results on their way")
        time.sleep(_LOOK_S)


def _answered(books: Books) -> int:
    return sum(lines["received"] - lines["journaled"] for lines in books.messages.values())


def missing(expected: Mapping[str, int], books: Books, stored: Mapping[str, int]) -> list[str]:
    """What the books say is not as it should be: every message received and handled, every result delivered, once."""
    problems = [] if books.balanced else ["the books do not balance"]
    for route, n_published in expected.items():
        lines = books.messages.get(route, {})
        if (lines.get("received"), lines.get("handled")) != (n_published, n_published):
            problems.append(f"route {route}: {n_published} messages published, in the books are {dict(lines)}")
        results = books.results.get(route, {}).get("cloud", {})
        produced, delivered = results.get("produced", 0), results.get("delivered", 0)
        if not produced == delivered == stored[route]:
            problems.append(f"route {route}: {produced} produced, {delivered} delivered, {stored[route]} in the cloud")
    return problems


def toml(value: Any) -> str:
    """A value as TOML: strings, numbers, lists, and mappings as inline tables."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)
