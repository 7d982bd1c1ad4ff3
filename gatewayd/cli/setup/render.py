"""The config that `gatewayd init` writes: every table with a word on why it is so. Pure.

What came from the broker (topics, names of fields, texts) is written as TOML strings only, never into a comment as it
is: a topic may hold a line end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatewayd.cli.setup.answers import BrokerAnswer
from gatewayd.cli.setup.propose import Proposal
from gatewayd.config.describe import dotted, literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Everything the file says."""

    gateway: str
    broker: BrokerAnswer
    password_file: str  # "" for none
    ca_file: str
    sink: Mapping[str, Any]  # empty: results stay on the local bus
    proposals: Sequence[Proposal]
    looked: str  # what was seen of the broker, in a sentence
    state_dir: str = ""


def render(written: Written) -> str:
    """The text of config.toml."""
    lines = [
        "# Written by `gatewayd init`. `gatewayd check` finds mistakes, docs/reference/config.md names every key;",
        "# what is not here stands at its default. `gatewayd check --changes` tells what a change would do.",
        f"# {written.looked}",
        "",
        "[gateway]",
        "# In topics, in the source of every result, in the MQTT client id.",
        f"id = {toml(written.gateway)}",
    ]
    if written.state_dir:
        lines += ["# The spool and all else that is kept.", f"state_dir = {toml(written.state_dir)}"]
    lines += [*_source(written), *_sink(written.sink)]
    for proposal in written.proposals:
        lines += _route(proposal, has_sink=bool(written.sink))
    if not written.proposals:
        lines += _example(has_sink=bool(written.sink))
    return "\n".join(lines) + "\n"


def _source(written: Written) -> Iterator[str]:
    broker = written.broker
    yield from ("", "# The broker: messages come from it, live results go to gatewayd/<gateway>/results/<route> on it.")
    yield "[source]"
    if broker.unix_socket:
        yield f"unix_socket = {toml(broker.unix_socket)}"
    else:
        yield f"host = {toml(broker.host)}"
        yield f"port = {broker.port}"
    if broker.username:
        yield f"username = {toml(broker.username)}"
    if written.password_file:
        yield "# A file of its own, for the daemon's eyes alone; under systemd: LoadCredential= in a drop-in."
        yield f"password = {{ file = {toml(written.password_file)} }}"
    elif broker.username:
        yield '# password = { file = "mqtt-password" }'
    if broker.has_tls:
        yield from ("", "# Without ca_file the system's certificate authorities are trusted.", "[source.tls]")
        yield f"ca_file = {toml(written.ca_file)}" if written.ca_file else '#ca_file = "plant-ca.pem"'


_SINK_WORDS = {
    "file": "Results as CloudEvents, one a line; a relative path lies in the state folder.",
    "http": "Results as batches of CloudEvents, kept in the spool until the far side has confirmed them.",
    "mqtt": "Results as CloudEvents on another broker, kept in the spool until it has confirmed them.",
}


def _sink(sink: Mapping[str, Any]) -> Iterator[str]:
    if not sink:
        yield from ("", "# No sink: results stay on the local bus.")
        return
    yield from ("", f"# {_SINK_WORDS[sink['type']]}", "[sinks.results]")
    yield from (f"{key} = {toml(value)}" for key, value in sink.items())
    if sink["type"] == "http":
        yield '#token = { file = "cloud-token" }  # sent as `Authorization: Bearer ...`'


def _route(proposal: Proposal, *, has_sink: bool) -> Iterator[str]:
    stream = proposal.stream
    rate = "retained messages alone" if stream.retained_only else f"{stream.per_s:.3g} a second"
    n_topics = "1 topic" if len(stream.topics) == 1 else f"{len(stream.topics)} topics"
    yield from ("", f"# Seen: {n_topics}, {stream.n} messages, {rate}; {stream.form}.")
    yield f"# {proposal.why[0].upper()}{proposal.why[1:]}."
    yield f"[routes.{proposal.name}]"
    yield f"topics = {toml(stream.filters)}"
    yield f"handler = {toml(proposal.handler)}"
    yield f"sinks = {toml(['results'] if has_sink else [])}"
    for key, value in proposal.payload.items():
        yield f"payload.{key} = {toml(value)}"
    for line in proposal.later:
        if line.startswith("payload."):
            yield f"#{line}"
    if proposal.window:
        yield f"window = {toml(proposal.window)}"
    yield from _options(proposal)


def _options(proposal: Proposal) -> Iterator[str]:
    plain = {key: value for key, value in proposal.options.items() if not _is_table(value)}
    later = [line for line in proposal.later if not line.startswith("payload.")]
    if plain or later:
        yield f"[routes.{proposal.name}.options]"
        yield from (f"{key} = {toml(value)}" for key, value in plain.items())
        yield from (f"#{line}" for line in later)
    for key, value in proposal.options.items():
        if not _is_table(value):
            continue
        rows = value if isinstance(value, list) else []
        for row in rows:
            yield f"[[routes.{proposal.name}.options.{key}]]"
            yield from (f"{name} = {toml(one)}" for name, one in row.items())
        for name, table in value.items() if isinstance(value, Mapping) else ():
            yield f"[{dotted(('routes', proposal.name, 'options', key, name))}]"
            yield from (f"{inner} = {toml(one)}" for inner, one in table.items())


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _example(*, has_sink: bool) -> list[str]:
    return [
        "",
        "# No messages were seen, so this is an example: set topics and limits to yours, or run `gatewayd init` again.",
        "[routes.sensors]",
        'topics = ["sensors/#"]',
        'handler = "threshold"',
        f"sinks = {toml(['results'] if has_sink else [])}",
        "[routes.sensors.options]",
        'missing = "ignore"',
        "[[routes.sensors.options.rules]]",
        '#field = "temperature"  # of a JSON object; a bare number needs none',
        "above = 80.0",
        'label = "too_hot"',
    ]


def toml(value: Any) -> str:
    """A value as TOML takes it: DEL must be escaped, which JSON does not ask for."""
    return literal(value).replace("\x7f", "\\u007f")
