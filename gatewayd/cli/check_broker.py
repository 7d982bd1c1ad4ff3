"""`gatewayd check --against-broker`: are the routes' filters granted, do messages come, do they decode."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import typer

from gatewayd.config.environment import read_environment
from gatewayd.config.schema import Config, Route
from gatewayd.config.secrets import read_secret
from gatewayd.errors import RejectedError
from gatewayd.mqtt.guest import Bounds, Visit, refusal, visit
from gatewayd.payloads import Decoder
from gatewayd.ports import RawMessage
from gatewayd.routing import matches, plain_filter

_MAX_REASONS = 5  # told of a route


@dataclass(slots=True)
class RouteLook:
    """One route against the broker. `state`: "ok", "warning" or "failed"."""

    route: str
    state: str = "ok"
    granted: dict[str, int] = field(default_factory=dict)
    n_messages: int = 0  # samples looked at
    n_decoded: int = 0
    words: list[str] = field(default_factory=list)  # what is not right, with topic and reason

    def say(self, state: str, words: str) -> None:
        """Something is not right."""
        self.words.append(words)
        if state == "failed" or self.state == "ok":
            self.state = state


@dataclass(slots=True)
class BrokerLook:
    """All routes. `problem`: why the broker could not be looked at."""

    problem: str = ""
    hint: str = ""
    seconds: float = 0.0
    n_heard: int = 0
    routes: list[RouteLook] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """Whether nothing has failed; warnings are none."""
        return not self.problem and all(one.state != "failed" for one in self.routes)


def source_password(config: Config, config_path: Path) -> str | None:
    """The password for the broker. Raises ConfigError when it cannot be read."""
    secret, beside = config.source.password, config_path.absolute().parent
    if secret is None:
        return None
    return read_secret(secret, key="source.password", beside=beside, environment=read_environment())


async def look_at_broker(config: Config, password: str | None, seconds: float) -> BrokerLook:
    """Visit the broker as a guest. Raises ConfigError when a TLS file cannot be read."""
    source = config.source
    routes = {name: route for name, route in config.routes.items() if route.enabled}
    found = await visit(source, password, _wanted(routes.values()), Bounds(seconds=seconds))
    if found.problem and not found.granted:
        return BrokerLook(problem=found.problem, hint=found.hint)
    looks = [_look(name, route, found) for name, route in routes.items()]
    if config.source.share_group and found.connack.get("shared_subscription_available", 1) == 0:
        for one in looks:
            one.say("failed", "the broker has no shared subscriptions: remove source.share_group")
    return BrokerLook(found.problem, found.hint, found.seconds, found.n_heard, looks)


def _wanted(routes: Any) -> list[tuple[str, int]]:
    """Each filter once, with its highest QoS. Without `$share`: a guest in the group would take messages away."""
    wanted: dict[str, int] = {}
    for route in routes:
        for name in route.topics:
            wanted[plain_filter(name)] = max(route.qos, wanted.get(plain_filter(name), 0))
    return list(wanted.items())


def _look(name: str, route: Route, found: Visit) -> RouteLook:
    look = RouteLook(name)
    for topic_filter in map(plain_filter, route.topics):
        if topic_filter not in found.granted:
            look.say("failed", f"{topic_filter}: the connection ended before it was subscribed")
            continue
        code = look.granted[topic_filter] = found.granted[topic_filter]
        if code >= 0x80:
            words, hint = refusal(code)
            look.say("failed", f"{topic_filter}: {words}; {hint}")
        elif code < route.qos:
            look.say("warning", f"{topic_filter}: granted QoS {code}, wanted {route.qos}: a crash may lose messages")
        elif not any(matches(topic_filter, topic) for topic in _topics(found)):
            look.say("warning", f"{topic_filter}: no message came in {found.seconds:.1f} s")
    _decode(look, route, [m for m in found.messages if any(matches(each, m.topic) for each in route.topics)])
    return look


def _topics(found: Visit) -> set[str]:
    return {message.topic for message in found.messages}


def _decode(look: RouteLook, route: Route, messages: Sequence[RawMessage]) -> None:
    decoder = Decoder(route.payload, key=f"routes.{look.route}.payload")
    wrong: dict[tuple[str, str], int] = {}
    for message in messages:
        try:
            decoder.decode(message)
        except RejectedError as error:
            key = (message.topic, f"{error.reason}: {error}")
            wrong[key] = wrong.get(key, 0) + 1
    look.n_messages = len(messages)
    look.n_decoded = len(messages) - sum(wrong.values())
    state = "failed" if messages and not look.n_decoded else "warning"
    for (topic, reason), n in list(wrong.items())[:_MAX_REASONS]:
        look.say(state, f"{shown(topic)}: {n} would be buried, {shown(reason)}")
    if len(wrong) > _MAX_REASONS:
        look.say(state, f"and {len(wrong) - _MAX_REASONS} more topics or reasons")


def shown(text: str) -> str:
    """What others have published, without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def print_look(look: BrokerLook) -> None:
    """A line a route, and one for each thing that is not right."""
    if look.problem:
        typer.echo(f"failed  broker: {look.problem}")
        if look.hint:
            typer.echo(f"        -> {look.hint}")
    for one in look.routes:
        samples = f"{one.n_decoded} of {one.n_messages} samples decode" if one.n_messages else "no samples"
        typer.echo(f"{one.state:7} route {one.route}: {samples}")
        for words in one.words:
            typer.echo(f"        {words}")


def plain(look: BrokerLook) -> Mapping[str, Any]:
    """For --json."""
    return asdict(look) | {"is_ok": look.is_ok}
