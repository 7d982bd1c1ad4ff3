"""What is fuzzed: topics, payloads, config. Whatever the bytes are, an answer or one of the declared errors comes back.

Each target returns whether the input was taken; anything it raises beyond that is a finding.
"""

import math
from collections.abc import Callable, Mapping

from msgspec import convert

from gatewayd.config.load import examine_text
from gatewayd.config.schema import Config, Payload
from gatewayd.errors import RejectedError
from gatewayd.payloads import REASONS, Decoder
from gatewayd.ports import RawMessage
from gatewayd.routing import Router, matches, validate_filter

_FORMATS = ("auto", "json", "text", "number", "cbor", "msgpack", "csv")
_TYPES = (
    "",
    "application/json",
    "application/cbor",
    "text/csv",
    "text/plain; charset=utf-16",
    "application/cloudevents+json",
    "application/gzip",
    "application/json+zstd",
    "application/cbor;encoding=gzip",
)
_ENCODINGS = ("", "gzip", "zstd", "identity", "br")
_MAP = {"fields": {"v": "a.b[0]", "w": "a"}, "optional": ["w"], "time": "t", "id": "i"}
_PLAIN = [Decoder(convert({"format": name, "columns": ["a", "b"]}, Payload)) for name in _FORMATS]
_MAPPED = [Decoder(convert({"format": name, "columns": ["a", "b"], **_MAP}, Payload)) for name in _FORMATS]


def payload(data: bytes) -> bool:
    """Three bytes choose format, content type and encoding; the rest is the payload."""
    choice, body = data[:3].ljust(3, b"\0"), data[3:]
    decoders = _MAPPED if choice[0] & 64 else _PLAIN
    encoding = _ENCODINGS[choice[2] % len(_ENCODINGS)]
    raw = RawMessage(
        topic="a/b",
        payload=body,
        time=1.0,
        key="k",
        content_type=_TYPES[choice[1] % len(_TYPES)],
        properties=(("content-encoding", encoding),) if encoding else (),
    )
    try:
        message = decoders[choice[0] % len(decoders)].decode(raw)
    except RejectedError as error:
        if error.reason not in REASONS:
            raise AssertionError(f"undeclared reason {error.reason}") from error
        return False
    if not math.isfinite(message.time):
        raise AssertionError(f"time is {message.time}")
    return True


def topic(data: bytes) -> bool:
    """Filters and one topic, split by line ends: the tree and the plain comparison agree."""
    *filters, name = data.decode(errors="surrogateescape").split("\n")
    right = [text for text in filters if validate_filter(text) is None]
    if wrong := next((text for text in filters if validate_filter(text) is not None), None):
        try:
            Router({wrong: ["x"]})
        except ValueError:
            pass
        else:
            raise AssertionError(f"took {wrong!r}")
    if not name or "+" in name or "#" in name or "\0" in name:
        return False
    wanted = {text for text in right if matches(text, name)}
    found = Router({text: [text] for text in dict.fromkeys(right)}).match(name)
    if set(found) != wanted or len(found) != len(wanted):
        raise AssertionError(f"{name!r}: {found} and {wanted}")
    return bool(right)


def config(data: bytes) -> bool:
    """A file: a Config, or problems that name a line of it."""
    text = data.decode(errors="replace")
    made, problems = examine_text(text, "config.toml")
    n_lines = text.count("\n") + text.count("\r") + 1
    for problem in problems:
        if not 1 <= problem.line <= n_lines + 1 or not str(problem):
            raise AssertionError(f"line {problem.line} of {n_lines}: {problem}")
    if made is None and not problems:
        raise AssertionError("no config, and nothing wrong with it")
    return isinstance(made, Config)


TARGETS: Mapping[str, Callable[[bytes], bool]] = {"payload": payload, "topic": topic, "config": config}
SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "payload": (
        b"\0\0\0" + b'{"a":{"b":[1.5]},"t":"2026-11-21T12:00:00Z","i":7}',
        b"\x40\0\0" + b'{"a":{"b":[1.5]},"t":1700000000,"i":"x"}',
        b"\x04\x02\0" + b"\xa1\x61a\xa1\x61b\x81\x01",
        b"\x05\0\0" + b"\x81\xa1a\x81\xa1b\x91\x01",
        b"\x06\x03\0" + b"1,2\r\n",
        b"\x01\x05\0" + b'{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{"a":1}}',
    ),
    "topic": (b"plant/#\n+/line\nplant/line", b"$share/g/a/+\na/#\n#\na/b", b"$SYS/#\n#\n$SYS/broker"),
    "config": (
        b'[gateway]\nid = "g"\n[source]\nport = 1883\n[sinks.cloud]\ntype = "http"\nurl = "http://127.0.0.1/e"\n'
        b'[routes.r]\ntopics = ["a/#"]\nhandler = "threshold"\nsinks = ["cloud"]\n'
        b'[routes.r.payload]\nformat = "json"\n',
        b"[spool]\nmax_bytes = 16777216\ncommit_window_ms = 1.5\n",
    ),
}
