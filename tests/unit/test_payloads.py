import gzip
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import cbor2
import msgpack
import msgspec
import pytest
import zstandard

from gatewayd.config.schema import Payload
from gatewayd.errors import ConfigError, RejectedError
from gatewayd.keys import publisher_key
from gatewayd.payloads import REASONS, Decoder
from gatewayd.ports import RawMessage


def raw(payload: bytes, **more: Any) -> RawMessage:
    return RawMessage(topic="plant/pump-7/state", payload=payload, time=100.0, key="k", **more)


def value(payload: bytes, *, content_type: str = "", properties: Any = (), **config: Any) -> Any:
    return Decoder(Payload(**config)).decode(raw(payload, content_type=content_type, properties=properties)).value


def reason(payload: bytes, *, content_type: str = "", properties: Any = (), **config: Any) -> str:
    with pytest.raises(RejectedError) as caught:
        value(payload, content_type=content_type, properties=properties, **config)
    assert caught.value.reason in REASONS
    return caught.value.reason


def test_a_message_keeps_topic_arrival_key_and_bytes() -> None:
    message = Decoder(Payload()).decode(raw(b'{"a":1}'))

    assert (message.topic, message.time, message.key, message.payload) == ("plant/pump-7/state", 100.0, "k", b'{"a":1}')


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (b"21", 21.0),
        (b" 21.5\n", 21.5),
        (b"+.5", 0.5),
        (b"007", 7.0),
        (b"true", True),
        (b'"on"', "on"),
        (b"ON", "ON"),
        (b"NaN", "NaN"),
        (b"", ""),
        ("Übertemperatur".encode(), "Übertemperatur"),
        (b"{not json", "{not json"),
    ],
)
def test_auto_takes_json_then_a_number_then_text(payload: bytes, expected: Any) -> None:
    found = value(payload)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("content_type", "payload", "expected"),
    [
        ("application/json", b"21", 21),
        ("Application/JSON; charset=utf-8", b"{}", {}),
        ("application/senml+json", b"[]", []),
        ("text/plain", b"21", "21"),
        ("text/plain; charset=iso-8859-1", b"\xfc", "ü"),
        ('text/plain; charset="UTF-16LE"', "ü".encode("utf-16le"), "ü"),
        ("application/cbor", cbor2.dumps({"a": 1}), {"a": 1}),
        ("application/msgpack", msgpack.packb({"a": 1}), {"a": 1}),
        ("application/x-msgpack", msgpack.packb([1]), [1]),
        ("text/csv", b"1,x", [1.0, "x"]),
        ("application/octet-stream", b"21", 21.0),
    ],
)
def test_auto_follows_the_content_type(content_type: str, payload: bytes, expected: Any) -> None:
    assert value(payload, content_type=content_type) == expected


def test_a_configured_format_counts_more_than_the_content_type() -> None:
    assert value(b"21", content_type="application/json", format="text") == "21"


@pytest.mark.parametrize(
    ("kind", "payload", "expected"),
    [
        ("json", b"{", "decode"),
        ("json", b"NaN", "decode"),
        ("json", b'{"a": Infinity}', "decode"),
        ("json", b'{"a": 1e999}', "number"),
        ("json", b'"\xff"', "encoding"),
        ("json", b"[" * 100_000, "depth"),
        ("auto", b"[" * 100_000, "depth"),
        ("auto", b"\xff\xfe", "encoding"),
        ("auto", b"1e999", "number"),
        ("text", b"\xff", "encoding"),
        ("number", b"nan", "number"),
        ("number", b"-inf", "number"),
        ("number", b"1e999", "number"),
        ("number", b"21 C", "decode"),
        ("number", b"1_000", "decode"),
        ("number", b"", "decode"),
        ("cbor", b"", "decode"),
        ("cbor", b"\x01\x01", "decode"),
        ("cbor", b"\x81" * 100_000, "depth"),
        ("cbor", cbor2.dumps(float("nan")), "number"),
        ("cbor", cbor2.dumps(2**2000), "number"),
        ("cbor", b"\xd8\x1c\x81\xd8\x1d\x00", "decode"),  # a list that contains itself
        ("msgpack", b"\xc1", "decode"),
        ("msgpack", b"\x01\x01", "decode"),
        ("msgpack", b"\x91" * 100_000, "depth"),
        ("msgpack", b"\xa1\xff", "encoding"),
        ("msgpack", b"\x81\x91\x01\x02", "decode"),
        ("msgpack", msgpack.packb(msgpack.ExtType(5, b"x")), "decode"),
        ("msgpack", msgpack.packb(float("inf")), "number"),
        ("csv", b"", "columns"),
        ("csv", b"1,2\n3,4", "columns"),
        ("csv", b'"open', "decode"),
        ("csv", b"1e999", "number"),
    ],
)
def test_what_does_not_decode_is_rejected_with_its_reason(kind: Any, payload: bytes, expected: str) -> None:
    assert reason(payload, format=kind) == expected


def test_references_that_double_at_each_level_do_not_grow_beyond_the_payload() -> None:
    doubling: list[Any] = ["x"]
    for _ in range(40):
        doubling = [doubling, doubling]

    assert reason(cbor2.dumps(doubling, value_sharing=True), format="cbor") == "decode"


@pytest.mark.parametrize(
    ("kind", "dumps"), [("json", msgspec.json.encode), ("cbor", cbor2.dumps), ("msgpack", msgpack.packb)]
)
def test_nesting_is_allowed_up_to_the_limit_and_not_beyond(kind: Any, dumps: Any) -> None:
    at_limit: Any = {"a": [[]]}

    assert value(dumps(at_limit), format=kind, max_depth=3) == at_limit
    assert reason(dumps(at_limit), format=kind, max_depth=2) == "depth"


def test_brackets_in_text_are_no_nesting() -> None:
    assert value(b'{"a": "[[[[[[{{{{{{"}', max_depth=1) == {"a": "[[[[[[{{{{{{"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"\x00\xff", "AP8="),
        (datetime(2026, 11, 21, 12, tzinfo=UTC), "2026-11-21T12:00:00+00:00"),
        (Decimal("1.5"), 1.5),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({True: "b"}, {"true": "b"}),
        ({2: "a", b"\x00": "b", None: "c"}, {"2": "a", "AA==": "b", "null": "c"}),
        (2**70, float(2**70)),
        (cbor2.undefined, None),
        (cbor2.CBORTag(4000, [1]), [1]),
    ],
)
def test_what_json_has_no_word_for_is_made_plain(given: Any, expected: Any) -> None:
    found = value(cbor2.dumps(given), format="cbor")

    assert found == expected
    msgspec.json.encode(found)


def test_a_msgpack_timestamp_becomes_iso_8601() -> None:
    packed = msgpack.packb(datetime(2026, 11, 21, tzinfo=UTC), datetime=True)

    assert value(packed, format="msgpack") == "2026-11-21T00:00:00+00:00"


def test_a_csv_line_becomes_a_mapping_with_numbers() -> None:
    found = value(b'pump-7;"21.5";"a;b"\r\n', format="csv", columns=["device", "t", "note"], delimiter=";")

    assert found == {"device": "pump-7", "t": 21.5, "note": "a;b"}


def test_a_csv_line_with_a_column_too_few_is_rejected() -> None:
    assert reason(b"1,2", format="csv", columns=["a", "b", "c"]) == "columns"


@pytest.mark.parametrize(
    ("pack", "content_type", "properties"),
    [
        (gzip.compress, "application/json+gzip", ()),
        (gzip.compress, "application/json; encoding=gzip", ()),
        (gzip.compress, "application/gzip", ()),
        (gzip.compress, "", (("content-encoding", "gzip"),)),
        (gzip.compress, "application/json", (("Content-Encoding", "GZIP"),)),
        (zstandard.compress, "application/zstd", ()),
        (zstandard.compress, "application/json+zstd", ()),
        (zstandard.compress, "", (("content-encoding", "zstd"),)),
        (bytes, "application/json", (("content-encoding", "identity"),)),
    ],
)
def test_a_compressed_payload_is_decompressed(pack: Any, content_type: str, properties: Any) -> None:
    assert value(pack(b'{"a":1}'), content_type=content_type, properties=properties) == {"a": 1}


@pytest.mark.parametrize(("pack", "kind"), [(gzip.compress, "gzip"), (zstandard.compress, "zstd")])
def test_a_bomb_is_stopped_at_the_limit(pack: Any, kind: str) -> None:
    bomb = pack(b"0" * 50_000_000)

    assert len(bomb) < 100_000
    assert reason(bomb, content_type=f"application/{kind}", max_bytes=100_000) == "too_large"


@pytest.mark.parametrize(("pack", "kind"), [(gzip.compress, "gzip"), (zstandard.compress, "zstd")])
@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b + b, lambda b: b"", lambda b: b"junk" + b])
def test_damaged_compressed_data_is_rejected(pack: Any, kind: str, damage: Any) -> None:
    assert reason(damage(pack(b'{"a":1}' * 9)), content_type=f"application/{kind}") == "compression"


def test_an_unknown_content_encoding_is_rejected() -> None:
    assert reason(b"x", properties=(("content-encoding", "br"),)) == "compression"


def test_an_unknown_charset_is_rejected() -> None:
    assert reason(b"x", content_type="text/plain; charset=rot13") == "encoding"


def test_a_payload_over_the_limit_is_rejected_before_it_is_read() -> None:
    assert value(b'"aaaaaaa"', max_bytes=9) == "aaaaaaa"
    assert reason(b'"aaaaaaaa"', max_bytes=9) == "too_large"
    assert reason(b'"aaaaaaaa"', max_bytes=9, fields={"a": "$value"}) == "too_large"


def test_fields_make_a_new_value_out_of_value_topic_and_time() -> None:
    found = value(
        b'{"data": {"temp": 21.5, "a.b": 1}, "readings": [{"v": 3}, {"v": 4}]}',
        fields={
            "temperature": "data.temp",
            "odd": 'data."a.b"',
            "first": "readings[0].v",
            "last": "readings[-1].v",
            "device": "$topic[1]",
            "what": "$topic[-1]",
            "topic": "$topic",
            "at": "$time",
        },
    )

    assert found == {
        "temperature": 21.5,
        "odd": 1,
        "first": 3,
        "last": 4,
        "device": "pump-7",
        "what": "state",
        "topic": "plant/pump-7/state",
        "at": 100.0,
    }


def test_a_bare_value_can_be_given_a_name() -> None:
    assert value(b"21.5", format="number", fields={"temperature": "$value"}) == {"temperature": 21.5}


@pytest.mark.parametrize("path", ["data.hum", "data.temp.x", "readings[2]", "readings.v", "data[0]", "$topic[9]"])
def test_a_missing_field_is_rejected_by_its_path(path: str) -> None:
    decoder = Decoder(Payload(fields={"x": path}))

    with pytest.raises(RejectedError) as caught:
        decoder.decode(raw(b'{"data": {"temp": 21.5}, "readings": [1, 2]}'))

    assert caught.value.reason == "missing_field"
    assert path in str(caught.value)


def test_an_optional_field_that_is_missing_is_left_out() -> None:
    assert value(b'{"a":1}', fields={"a": "a", "b": "b"}, optional=["b"]) == {"a": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"1700000000", 1_700_000_000.0),
        (b"1700000000.25", 1_700_000_000.25),
        (b"1700000000250", 1_700_000_000.25),
        (b'"2023-11-14T22:13:20Z"', 1_700_000_000.0),
        (b'"2023-11-14T23:13:20.5+01:00"', 1_700_000_000.5),
        (b'"2023-11-14T22:13:20"', 1_700_000_000.0),
        (b'"1700000000"', 1_700_000_000.0),
    ],
)
def test_the_messages_own_time_is_read(given: bytes, expected: float) -> None:
    assert Decoder(Payload(time="ts")).decode(raw(b'{"ts":' + given + b"}")).time == expected


@pytest.mark.parametrize(
    "given", [b"null", b"true", b'"soon"', b"[]", b"1e300", b"-1e300", b'"nan"', b'""', b"1" * 400]
)
def test_a_time_that_is_none_is_rejected(given: bytes) -> None:
    assert reason(b'{"ts":' + given + b"}", time="ts", format="json") in {"time", "number"}


def test_a_message_without_its_own_time_is_rejected_where_the_route_maps_one() -> None:
    assert reason(b"{}", time="ts") == "missing_field"


@pytest.mark.parametrize(("given", "text"), [(b'"a-1"', "a-1"), (b"17", "17"), (b"17.0", "17")])
def test_the_messages_own_id_makes_a_stable_key(given: bytes, text: str) -> None:
    message = Decoder(Payload(id="id")).decode(raw(b'{"id":' + given + b"}"))

    assert message.key == publisher_key("plant/pump-7/state", "", text)


@pytest.mark.parametrize("given", [b"null", b"true", b'""', b"[1]", b"1.5"])
def test_an_id_that_is_neither_text_nor_a_whole_number_is_rejected(given: bytes) -> None:
    assert reason(b'{"id":' + given + b"}", id="id") == "id"


def test_a_structured_cloudevent_is_opened() -> None:
    body = b'{"specversion":"1.0","id":"7","source":"/s","type":"t","data":{"a":1}}'
    message = Decoder(Payload(fields={"a": "a"})).decode(raw(body, content_type="application/cloudevents+json"))

    assert message.value == {"a": 1}
    assert message.key == publisher_key("plant/pump-7/state", "/s", "7")


def test_a_structured_cloudevents_binary_data_is_read_as_its_content_type_says() -> None:
    body = b'{"id":"7","source":"/s","datacontenttype":"application/cbor","data_base64":"oWFhAQ=="}'

    assert value(body, content_type="application/cloudevents+json; charset=utf-8") == {"a": 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", "decode"),
        (b'{"source":"/s"}', "missing_field"),
        (b'{"id":"7","source":""}', "missing_field"),
        (b'{"id":"7","source":"/s","data_base64":"*"}', "decode"),
        (b'{"id":"7","source":"/s","data_base64":1}', "decode"),
    ],
)
def test_a_broken_cloudevent_is_rejected(body: bytes, expected: str) -> None:
    assert reason(body, content_type="application/cloudevents+json") == expected


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"fields": {"x": "a..b"}}, "payload.fields.x"),
        ({"time": "$clock"}, "payload.time"),
        ({"id": "a["}, "payload.id"),
        ({"optional": ["x"]}, "payload.optional"),
        ({"columns": ["a", "a"]}, "payload.columns"),
        ({"delimiter": "\n"}, "payload.delimiter"),
    ],
)
def test_a_mistake_in_the_config_is_found_when_the_route_is_built(config: Any, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Decoder(Payload(**config))

    assert caught.value.key == key


@pytest.mark.parametrize("depth", [3, 20, 60])
def test_maps_that_are_names_of_maps_do_not_grow_without_bound(depth: int) -> None:
    decoder = Decoder(Payload(format="cbor"))
    nested = b"\xa1" * depth + b"\x01" * (depth + 1)  # {{{1: 1}: 1}: 1}, 120 bytes that would have become gigabytes

    with pytest.raises(RejectedError) as refused:
        decoder.decode(RawMessage(topic="t", payload=nested, time=1.0, key="k"))

    assert refused.value.reason in {"decode", "depth"}
    assert value(cbor2.dumps({(1, 2): 3}), format="cbor") == {"[1,2]": 3}
