"""Results as CloudEvents, with the CloudEvents SDK as the oracle."""

import json

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from gatewayd.events import (
    batch_json,
    event_attributes,
    event_json,
    event_properties,
    event_source,
    event_time,
    parse_batch,
    parse_event,
)
from gatewayd.ports import NewResult, StoredResult

STORED = StoredResult(
    row=7,
    route="pumps",
    key="0192f0c1-7",
    kind="classification",
    subject="plant/a/vibration",
    time=1_763_724_000.25,
    data=b'{"label":"worn","score":0.98}',
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)


def test_the_sdk_reads_our_event() -> None:
    read = JSONFormat().read(CloudEvent, event_json(STORED, "gw-1"))

    assert read.get_specversion() == "1.0"
    assert read.get_id() == "0192f0c1-7"
    assert read.get_source() == "/gateways/gw-1/routes/pumps"
    assert read.get_type() == "dev.gatewayd.result.classification"
    assert read.get_subject() == "plant/a/vibration"
    assert read.get_datacontenttype() == "application/json"
    time = read.get_time()
    assert time is not None
    assert time.timestamp() == 1_763_724_000.25
    assert read.get_extension("traceparent") == STORED.traceparent
    assert read.get_data() == {"label": "worn", "score": 0.98}


@pytest.mark.parametrize("quality", ["unsynced", "corrected"])
def test_a_time_of_a_clock_that_was_not_right_is_marked_on_every_wire(quality: str) -> None:
    stored = msgspec.structs.replace(STORED, clock=quality)

    read = JSONFormat().read(CloudEvent, event_json(stored, "gw-1"))

    assert read.get_extension("clockquality") == quality
    assert ("clockquality", quality) in event_properties(stored, "/gateways/gw-1/routes/pumps")
    assert event_attributes(stored, "gw-1")["clockquality"] == quality
    assert parse_event(event_json(stored, "gw-1")).clockquality == quality


def test_a_time_that_is_right_is_not_marked() -> None:
    assert b"clockquality" not in event_json(STORED, "gw-1")
    assert "clockquality" not in event_attributes(STORED, "gw-1")


def test_we_read_the_sdks_event() -> None:
    made = CloudEvent(
        {"id": "1", "source": "/gateways/g/routes/r", "type": "dev.gatewayd.result.alert", "specversion": "1.0"},
        {"label": "on"},
    )

    read = parse_event(JSONFormat().write(made))

    assert (read.id, read.source, read.kind) == ("1", "/gateways/g/routes/r", "alert")
    assert msgspec.json.decode(read.data) == {"label": "on"}


def test_a_batch_is_an_array_of_events_in_order() -> None:
    batch = [msgspec.structs.replace(STORED, key=str(n)) for n in range(3)]

    body = batch_json(batch, "gw-1")

    assert json.loads(body) == [json.loads(event_json(stored, "gw-1")) for stored in batch]
    assert [event.id for event in parse_batch(body)] == ["0", "1", "2"]


def test_the_attributes_are_those_of_the_event_without_its_data() -> None:
    whole = json.loads(event_json(STORED, "gw-1"))
    del whole["data"]

    assert event_attributes(STORED, "gw-1") == whole


def test_what_is_empty_is_left_out() -> None:
    bare = msgspec.structs.replace(STORED, subject="", traceparent="", data=b"")

    assert set(json.loads(event_json(bare, "gw-1"))) == {
        "specversion", "id", "source", "type", "time", "datacontenttype",
    }  # fmt: skip


def test_a_route_with_odd_characters_still_makes_a_source_that_is_a_uri() -> None:
    assert event_source("gw", "logs / hall 1#") == "/gateways/gw/routes/logs%20%2F%20hall%201%23"


def test_the_time_is_utc_with_milliseconds() -> None:
    assert event_time(1_763_724_000.25) == "2025-11-21T11:20:00.250Z"


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e300, -1e300])
def test_a_time_no_calendar_has_is_left_out(time: float) -> None:
    assert event_time(time) == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'[{"specversion":"0.3","id":"1","source":"/","type":"t"}]',
        b'[{"specversion":"1.0","id":"","source":"/","type":"t"}]',
        b'[{"specversion":"1.0","id":"1","type":"t"}]',
        b'[{"specversion":"1.0","id":"1","source":"/","type":"t"}',
    ],
)
def test_what_is_no_batch_of_events_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_batch(body)


def test_the_kind_of_a_foreign_event_is_empty() -> None:
    event = parse_event(b'{"specversion":"1.0","id":"1","source":"/","type":"com.example.x","extra":"y"}')

    assert event.kind == ""


def test_live_properties_leave_out_what_is_empty_as_the_attributes_do() -> None:
    result = NewResult(key="k", kind="alert", subject="", time=float("inf"), data=b"{}")

    names = [name for name, _ in event_properties(result, "/gateways/g/routes/r")]

    assert names == ["specversion", "source", "type", "id"]
