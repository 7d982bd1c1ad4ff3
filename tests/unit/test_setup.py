"""`gatewayd init` without a broker: topics into filters, payloads into handlers, answers into tables."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.checked import handler_problems
from gatewayd.cli.setup.answers import AnswerError, BrokerAnswer, broker_answer, gateway_answer, sink_answer
from gatewayd.cli.setup.propose import KnownModel, propose, undecodable
from gatewayd.cli.setup.render import Written, render
from gatewayd.cli.setup.shape import look_at
from gatewayd.cli.setup.streams import Stream, streams_of, streams_under
from gatewayd.config.load import examine_text
from gatewayd.ports import RawMessage
from gatewayd.routing import matches

OBJECT = {"device": "p1", "temp": 21.5, "hum": 40, "seq": 7, "ts": 1763700000}


def message(topic: str, payload: bytes | str | dict[str, object], *, retain: bool = False) -> RawMessage:
    data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    data = data.encode() if isinstance(data, str) else data
    return RawMessage(topic=topic, payload=data, time=1763700000.0, key="k", retain=retain)


def seen(*messages: RawMessage) -> list[Stream]:
    counts: dict[str, int] = {}
    for one in messages:
        counts[one.topic] = counts.get(one.topic, 0) + (not one.retain)
    return streams_of(messages, counts, 2.0)


def filters(*messages: RawMessage) -> list[list[str]]:
    return sorted(stream.filters for stream in seen(*messages))


def written(streams: list[Stream], models: list[KnownModel] | None = None, handler: str = "") -> str:
    proposals = propose(streams, models or [], handler)
    broker = BrokerAnswer()
    sink = sink_answer("file")
    return render(
        Written(
            gateway="g", broker=broker, password_file="", ca_file="", sink=sink, proposals=proposals, looked="Seen."
        )
    )


def problems_of(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "config.toml"
    return [str(problem) for problem in examine_text(text, str(path), handler_problems(path))[1]]


def test_what_is_measured_keeps_topics_apart_and_who_measures_does_not() -> None:
    some = [message(f"plant/oven-{n}/{what}", "20.5") for n in (1, 2, 3) for what in ("temperature", "humidity")]

    assert filters(*some) == [["plant/+/humidity"], ["plant/+/temperature"]]


def test_bare_device_topics_become_one_filter() -> None:
    assert filters(message("ovens/1", "80"), message("ovens/2", "81"), message("ovens/3", "82")) == [["ovens/+"]]


def test_a_filter_takes_no_payload_of_another_kind() -> None:
    some = [
        message("hall/a/x", "1"),
        message("hall/b/x", "2"),
        message("hall/c/x", "pump 7 has started late"),
        message("hall/d/x", "fan 2 has stopped again"),
    ]

    for stream in seen(*some):
        others = {one.topic for one in some} - set(stream.topics)
        assert not [topic for topic in others if any(matches(name, topic) for name in stream.filters)]
        assert all(any(matches(name, topic) for name in stream.filters) for topic in stream.topics)


def test_the_affairs_of_others_are_passed_over() -> None:
    some = ["$SYS/broker/version", "homeassistant/sensor/x/config", "gatewayd/g/status", "spBv1.0/g/NDATA/e"]

    assert filters(*(message(topic, "1") for topic in some)) == []


@pytest.mark.parametrize(
    ("payload", "form"),
    [
        (b"21.5", "number"), (b" -3 ", "number"), (b'{"a": 1}', "json"), (b'"on"', "json"), (b"pump started", "text"),
        (b"\xa1\x61\x74\x18\x15", "cbor"), (b"\x81\xa1t\xcb@5\x80\x00\x00\x00\x00\x00", "msgpack"), (b"", "empty"),
        (b"\xff\xfe\x00", "bytes"), (b"1e999", "bytes"),
    ],
)  # fmt: skip
def test_the_form_of_a_payload(payload: bytes, form: str) -> None:
    assert look_at(message("a", payload)).form == form


@given(st.lists(st.tuples(st.text("ab/+1$", min_size=1, max_size=8), st.binary(max_size=40)), max_size=12))
def test_whatever_is_published_the_config_is_right_or_left_out(published: list[tuple[str, bytes]]) -> None:
    topics = [(topic.replace("+", "p").strip("$") or "t", payload) for topic, payload in published]

    streams = seen(*(message(topic, payload) for topic, payload in topics))

    assert problems_of(written(streams), Path("/nowhere")) == []


def test_numbers_get_limits_and_what_is_no_measurement_does_not(tmp_path: Path) -> None:
    (proposal,) = propose(seen(message("pumps/1", OBJECT), message("pumps/2", {**OBJECT, "temp": 24.5})), [])

    assert proposal.handler == "threshold"
    assert {rule["field"]: rule["outside"] for rule in proposal.options["rules"]} == {
        "temp": [18.5, 27.5],
        "hum": [36.0, 44.0],
    }
    assert 'payload.time = "ts"' in proposal.later[0]


def test_nested_fields_are_mapped_and_the_samples_decode() -> None:
    some = [message("pumps/1", {"data": {"temp": 1.5 + n}, "meta": {"seq": n}}) for n in range(3)]
    (proposal,) = propose(seen(*some), [])

    assert proposal.payload["fields"] == {"temp": "data.temp"}
    assert undecodable(proposal.payload, some) == []


def test_a_model_that_knows_the_fields_is_taken_and_a_language_model_writes_the_summary() -> None:
    models = [
        KnownModel(name="pumps", task="series-anomaly", fields=("temp", "hum")),
        KnownModel(name="tiny", task="text-generation"),
    ]
    streams = seen(message("pumps/1", OBJECT), message("logs/1", "pump 7 has started late"))
    by_handler = {one.handler: one for one in propose(streams, models)}

    assert by_handler["classify_series"].options == {"model": "pumps", "device": "device"}
    assert by_handler["summarize_text"].options == {"model": "tiny"}
    assert by_handler["summarize_text"].window["every_s"] == 3600.0


@pytest.mark.parametrize("handler", ["", "threshold", "summarize_text", "classify_text"])
def test_what_is_written_passes_the_check(handler: str, tmp_path: Path) -> None:
    streams = seen(
        message("pumps/1", OBJECT),
        message("doors/1", {"state": "open"}),
        message("doors/2", {"state": "closed"}),
        message('odd/na"me\x7f/1', "pump 7 has started late"),
        message("cbor/1", b"\xa1\x61\x74\x18\x15"),
    )

    assert problems_of(written(streams, handler=handler), tmp_path) == []
    assert problems_of(written([]), tmp_path) == []


def test_filters_that_were_named_are_kept_even_when_nothing_comes(tmp_path: Path) -> None:
    streams = streams_under(["plant/#", "none/yet"], [message("plant/1/x", "4")], {"plant/1/x": 1}, 1.0)

    assert [stream.filters for stream in streams] == [["plant/#"], ["none/yet"]]
    assert problems_of(written(streams), tmp_path) == []


def test_answers() -> None:
    assert broker_answer("mqtts://me@plant.example") == BrokerAnswer("plant.example", 8883, "me", has_tls=True)
    assert broker_answer("10.0.0.7:8883").has_tls
    assert broker_answer("/run/mosquitto/mqtt.sock").unix_socket == "/run/mosquitto/mqtt.sock"
    assert str(broker_answer("[::1]:1884")) == "mqtt://[::1]:1884"
    assert sink_answer("https://cloud.example/in") == {"type": "http", "url": "https://cloud.example/in"}
    assert sink_answer("mqtts://up.example") == {"type": "mqtt", "host": "up.example", "port": 8883, "tls": {}}
    assert sink_answer("none") == {}
    assert gateway_answer(" hall-3 ") == "hall-3"


@pytest.mark.parametrize("text", ["mqtt://me:secret@host", "http://host", "host:99999", "mqtt://", "host:0", "a b"])
def test_a_broker_that_is_none_is_told(text: str) -> None:
    with pytest.raises(AnswerError) as told:
        broker_answer(text)

    assert "secret@" not in str(told.value)


@given(st.text(max_size=60))
def test_an_answer_is_taken_or_told(text: str) -> None:
    for read in (broker_answer, sink_answer, gateway_answer):
        try:
            read(text)
        except AnswerError:
            continue
