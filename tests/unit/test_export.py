"""Raw messages as CloudEvents and back; what else may stand in an export; a replay of it gives the same results."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.cli.replay import replay_file
from gatewayd.events import event_json, parse_event
from gatewayd.export import letter_event, message_event, message_of, read_input, read_message
from gatewayd.ports import DeadLetter, RawMessage, StoredResult
from gatewayd.replay import RecordingError, read_recording
from tests.unit.test_replay import config, results  # noqa: F401 - a fixture

TOPICS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
PAYLOADS = (
    st.binary(max_size=40)
    | st.text(st.characters(codec="utf-8")).map(str.encode)
    | JSON.map(json.dumps).map(str.encode)
    | JSON.map(lambda value: json.dumps(value, indent=1).encode())
    | st.sampled_from(
        [b"", b'"', b'"a"', b" 1", b"1\n", b"1\r", b"{} ", b"NaN", b"\xef\xbb\xbf1", b"1" * 400, b"[" * 5000]
    )
)
MESSAGES = st.builds(
    RawMessage,
    topic=TOPICS,
    payload=PAYLOADS,
    time=st.floats(1.0, 4e9),
    key=st.text("0123456789abcdef-", min_size=1),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    content_type=st.text(st.characters(codec="utf-8"), max_size=10),
    properties=st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))).map(
        tuple
    ),
)


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(raw: RawMessage) -> None:
    line = message_event(raw, gateway="g", route="r")

    again = read_message(line)

    assert b"\n" not in line
    assert abs(again.time - raw.time) < 1e-6
    assert (again.topic, again.payload, again.key) == (raw.topic, raw.payload, raw.key)
    assert (again.qos, again.retain, again.content_type) == (raw.qos, raw.retain, raw.content_type)
    assert again.properties == raw.properties


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"a": 1}', {"datacontenttype": "application/json", "data": {"a": 1}}),
        (b"hot", {"datacontenttype": "text/plain; charset=utf-8", "data": "hot"}),
        (b"\x00\xff", {"datacontenttype": "application/octet-stream", "data_base64": "AP8="}),
    ],
)
def test_a_payload_is_as_readable_as_it_can_be(payload: bytes, said: dict[str, object]) -> None:
    raw = RawMessage(
        topic="plant/1", payload=payload, time=1_763_700_000.25, key="k-1", qos=1, properties=(("a", "b"),)
    )

    event = json.loads(message_event(raw, gateway="hall-3", route="pumps", reason="decode"))

    assert event == {
        "specversion": "1.0",
        "id": "k-1",
        "source": "/gateways/hall-3/routes/pumps",
        "type": "dev.gatewayd.message",
        "subject": "plant/1",
        "time": "2025-11-21T04:40:00.250000Z",
        "mqttqos": 1,
        "mqttproperties": '[["a","b"]]',
        "reason": "decode",
        **said,
    }


def stored(data: bytes, key: str = "k-1") -> StoredResult:
    return StoredResult(row=1, route="ovens", key=key, kind="alert", subject="ovens/1", time=1_763_700_000.0, data=data)


def letter(payload: bytes, **more: str) -> DeadLetter:
    fields = {"route": "ovens", "reason": "decode", "detail": "d", "topic": "ovens/1", "key": "k-1", **more}
    return DeadLetter(payload=payload, time=1_763_700_000.0, **fields)


def test_a_refused_result_is_exported_as_it_was_sent() -> None:
    sent = event_json(stored(b'{"label":"hot"}'), "hall-3")

    assert letter_event(letter(sent, sink="cloud", reason="refused"), gateway="hall-3") == sent


def test_a_refused_result_that_is_no_event_is_exported_as_bytes_like_any_other() -> None:
    event = parse_event(letter_event(letter(b"{}", sink="cloud", reason="refused"), gateway="hall-3"))

    assert event.type == "dev.gatewayd.message"


def test_a_result_is_replayed_from_its_input() -> None:
    raw = read_input(event_json(stored(b'{"label":"hot","input":{"t":91}}', "k-1.2"), "hall-3"))

    assert raw is not None
    assert (raw.topic, raw.payload, raw.key) == ("ovens/1", b'{"t":91}', "k-1")
    assert read_input(event_json(stored(b'{"label":"hot"}'), "hall-3")) is None


def write(folder: Path, *lines: bytes) -> Path:
    path = folder / "export.ndjson"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_what_stands_in_an_export_twice_or_cannot_be_replayed_is_left_out_and_said(tmp_path: Path) -> None:
    twice = message_event(message_of(letter(b"91")), gateway="g", route="ovens")
    also = message_event(message_of(letter(b"91")), gateway="g", route="other")
    left_out: list[str] = []

    path = write(tmp_path, twice, event_json(stored(b"{}"), "g"), also, b'{"topic": "t", "specversion": "1.0"}')
    read = [one.topic for one in read_recording(path, left_out=left_out.append)]

    assert read == ["ovens/1", "t"]
    assert left_out == ["a result without its input", "a message that was there before"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"specversion":"1.0","type":"dev.gatewayd.message"}',
        b'{"specversion":"1.0","type":"dev.gatewayd.message","id":"1","source":"s","subject":"t","time":"noon"}',
        b'{"specversion":"1.0","type":"dev.gatewayd.message","id":"1","source":"s","subject":"t","data_base64":"#"}',
        b'{"specversion":"1.0","type":"dev.gatewayd.result.alert"}',
    ],
)
def test_an_event_that_is_damaged_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(RecordingError, match=r"export\.ndjson:1: "):
        list(read_recording(write(tmp_path, line)))


async def test_a_replayed_export_gives_the_results_their_ids(
    tmp_path: Path,
    config: Path,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    dead = letter_event(letter(b"91.5", key="7f3a-1"), gateway="hall-3")

    assert await replay_file(write(tmp_path, dead, event_json(stored(b"{}"), "g")), config, update=False)

    (event,), summary = results(capfd)
    assert (event["id"], event["subject"]) == ("7f3a-1", "ovens/1")
    assert "Not replayed: 1 x a result without its input." in summary
