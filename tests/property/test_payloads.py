import gzip
from typing import Any

import cbor2
import msgpack
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.config.schema import Payload
from gatewayd.errors import RejectedError
from gatewayd.payloads import REASONS, Decoder
from gatewayd.payloads.paths import compile_path, follow
from gatewayd.payloads.times import time_of
from gatewayd.ports import RawMessage

FORMATS = st.sampled_from(["auto", "json", "text", "number", "cbor", "msgpack", "csv"])
CONTENT_TYPES = st.text(max_size=20) | st.sampled_from(
    [
        "",
        "application/json",
        "application/cbor",
        "application/msgpack",
        "text/csv",
        "text/plain; charset=utf-16",
        "application/cloudevents+json",
        "application/gzip",
        "application/json+zstd",
        "application/cbor;encoding=gzip",
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
JSON = PLAIN.map(msgspec.json.encode)
BODIES = (
    st.binary(max_size=200)
    | JSON
    | PLAIN.map(cbor2.dumps)
    | PLAIN.map(msgpack.packb)
    | JSON.map(gzip.compress)
    | st.tuples(
        st.sampled_from([b"[", b'{"a":', b"\x81", b"\xa1\x61a", b"\xd8\x1c", b"\xc6", b"\xdd\xff"]), st.integers(1, 600)
    ).map(lambda pair: pair[0] * pair[1])
    | st.text(st.sampled_from('{}[]",:.0123456789eE+-truefalsn\\u \n'), max_size=60).map(str.encode)
)


@given(
    FORMATS,
    BODIES,
    CONTENT_TYPES,
    st.sampled_from(["", "gzip", "zstd", "identity", "br"]),
    st.booleans(),
    st.sampled_from([1, 5, 64, 500]),
)
def test_any_bytes_decode_to_what_json_can_say_or_are_rejected_with_a_known_reason(
    kind: Any, body: bytes, content_type: str, encoding: str, is_mapped: bool, max_depth: int
) -> None:
    config = Payload(format=kind, max_depth=max_depth, max_bytes=1000)
    if is_mapped:
        config = msgspec.structs.replace(config, fields={"x": "$value"}, time="ts", id="id")
    properties = (("content-encoding", encoding),) if encoding else ()
    raw = RawMessage(topic="a/b", payload=body, time=1.0, key="k", content_type=content_type, properties=properties)

    reason, message = "", None
    try:
        message = Decoder(config).decode(raw)
    except RejectedError as error:
        reason = error.reason

    if message is None:
        assert reason in REASONS
    else:
        msgspec.json.encode(message.value)
        assert message.payload == body


@given(PLAIN)
def test_what_json_can_say_comes_back_from_every_format_that_can_say_it(value: Any) -> None:
    for kind, dumps in (("json", msgspec.json.encode), ("cbor", cbor2.dumps), ("msgpack", msgpack.packb)):
        raw = RawMessage(topic="t", payload=dumps(value), time=1.0, key="k")
        decoded = Decoder(Payload(format=kind)).decode(raw).value
        assert decoded == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_back(number: float) -> None:
    raw = RawMessage(topic="t", payload=repr(number).encode(), time=1.0, key="k")

    for kind in ("number", "auto"):
        assert Decoder(Payload(format=kind)).decode(raw).value == number


@given(TEXT)
def test_a_text_comes_back(text: str) -> None:
    raw = RawMessage(topic="t", payload=text.encode(), time=1.0, key="k")

    assert Decoder(Payload(format="text")).decode(raw).value == text


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_any_name_can_be_quoted_into_a_path(names: list[str]) -> None:
    value: Any = 42
    for name in reversed(names):
        value = {name: value}
    quoted = ".".join('"' + name.replace("\\", r"\\").replace('"', r"\"") + '"' for name in names)

    assert follow(value, compile_path(quoted)) == 42


@given(st.text(max_size=20) | st.text(st.sampled_from('a.[]"0-$\\ '), max_size=12))
def test_any_text_is_a_path_or_a_value_error(text: str) -> None:
    try:
        found: Any = compile_path(text).root
    except ValueError as error:
        found = str(error)

    assert found in {"value", "time", "topic"} or len(found) > 20


@given(PLAIN | st.floats() | st.text(st.sampled_from("0123456789-:T.Z+ "), max_size=30))
def test_any_value_is_a_time_of_the_calendar_or_rejected(value: Any) -> None:
    try:
        found: Any = time_of(value)
    except RejectedError as error:
        found = error.reason

    assert found == "time" or -62135596800.0 <= found <= 253402300799.0
