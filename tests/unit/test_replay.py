"""A recording through the real parts: windows close by its own time, books balance, a bad line is named."""

import json
from pathlib import Path

import pytest

from gatewayd.cli.replay import replay_file
from gatewayd.replay import RecordedClock, RecordingError, read_recording

CONFIG = """
[gateway]
id = "hall-3"
state_dir = "state"
[sinks.elsewhere]
type = "http"
url = "http://127.0.0.1:9/events"
[routes.ovens]
topics = ["ovens/#"]
handler = "threshold"
sinks = ["elsewhere"]
payload = { format = "number" }
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
[routes.hours]
topics = ["logs/#", "ovens/2"]
handler = "summarize_text"
sinks = ["elsewhere"]
payload = { format = "text" }
window = { every_s = 10.0 }
"""
START = 1_763_700_000


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def recording(folder: Path, *lines: object) -> Path:
    path = folder / "recording.ndjson"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def results(capfd: pytest.CaptureFixture[str]) -> tuple[list[dict[str, object]], str]:
    said = capfd.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], said.err


async def test_windows_close_by_the_time_of_the_recording(
    tmp_path: Path, config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [{"topic": "logs/a", "payload": f"line {n} failed", "time": START + n} for n in range(25)]

    assert await replay_file(recording(tmp_path, *lines), config, update=False)

    events, summary = results(capfd)
    assert [event["data"]["messages"] for event in events] == [10, 10, 5]  # type: ignore[index]
    assert [event["source"] for event in events] == ["/gateways/hall-3/routes/hours"] * 3
    assert "messages: received 25 = handled 25" in summary
    assert "results: produced 3 = delivered 3" in summary


async def test_a_message_on_two_routes_stands_in_the_books_of_both(
    tmp_path: Path, config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path, {"topic": "ovens/2", "payload": 91.5, "time": START})

    assert await replay_file(path, config, update=False)

    events, summary = results(capfd)
    assert sorted(str(event["type"]) for event in events) == [
        "dev.gatewayd.result.alert",
        "dev.gatewayd.result.summary",
    ]
    assert "received 2 = handled 2" in summary


async def test_what_cannot_be_decoded_is_a_dead_letter_with_its_reason(
    tmp_path: Path, config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path, {"topic": "ovens/1", "payload": "hot"}, {"topic": "ovens/1", "payload": "91"})

    assert await replay_file(path, config, update=False)

    events, summary = results(capfd)
    assert len(events) == 1
    assert "dead 1" in summary
    assert "messages/ovens/dead: decode 1" in summary


async def test_a_bad_line_is_named_after_what_stood_before_it(
    tmp_path: Path, config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path, {"topic": "ovens/1", "payload": 91}, "not json", {"topic": "ovens/3", "payload": 99})

    with pytest.raises(RecordingError, match=r"recording\.ndjson:2: JSON is malformed"):
        await replay_file(path, config, update=False)

    events, summary = results(capfd)
    assert [event["subject"] for event in events] == ["ovens/1"]
    assert "Both books balance." in summary


async def test_a_replay_leaves_no_trace_in_the_state_folder(
    tmp_path: Path, config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await replay_file(recording(tmp_path, {"topic": "ovens/1", "payload": 91}), config, update=False)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "recording.ndjson"]


@pytest.mark.parametrize(
    ("line", "payload"),
    [
        ('{"topic": "t", "payload": {"a": 1}}', b'{"a": 1}'),
        ('{"topic": "t", "payload": "a\\u00e9"}', "a\u00e9".encode()),
        ('{"topic": "t", "payload": null}', b"null"),
        ('{"topic": "t", "payload_base64": "AP8="}', b"\x00\xff"),
        ('{"topic": "t", "recorded_by": "somebody"}', b""),
    ],
)
def test_a_payload_is_what_was_on_the_wire(tmp_path: Path, line: str, payload: bytes) -> None:
    assert [one.payload_bytes() for one in read_recording(recording(tmp_path, line))] == [payload]


@pytest.mark.parametrize(
    "line", ['{"payload": 1}', '{"topic": "t", "qos": 3}', '{"topic": "t", "payload_base64": "#"}', "[]"]
)
def test_a_line_that_is_no_message_is_named_with_an_example(tmp_path: Path, line: str) -> None:
    with pytest.raises(RecordingError, match=r"recording\.ndjson:2: .*a line looks like"):
        list(read_recording(recording(tmp_path, '{"topic": "t"}', line)))


def test_the_clock_of_a_recording_never_goes_back() -> None:
    clock = RecordedClock()

    clock.reach(20.0)
    clock.reach(10.0)

    assert clock.now() == 20.0
