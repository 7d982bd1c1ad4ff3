"""Sparkplug B payloads as values, edge nodes over births and deaths, and what is asked of them."""

import base64
import struct
from typing import Any

import pytest

from gatewayd.config.load import examine_text
from gatewayd.config.routes import Payload
from gatewayd.errors import RejectedError
from gatewayd.payloads import Decoder
from gatewayd.payloads.decoder import REASONS
from gatewayd.ports import RawMessage
from gatewayd.sparkplug.door import Door
from gatewayd.sparkplug.metrics import sparkplug_value
from gatewayd.sparkplug.nodes import read_topic
from gatewayd.sparkplug.wire import parse, rebirth_command
from tests.sim.door import TIME_MS, Node
from tests.sim.edge_node import (
    BOOLEAN,
    DATASET,
    DOUBLE,
    FLOAT,
    INT8,
    INT32,
    INT64,
    STRING,
    UINT64,
    metric,
    payload,
    tagged,
    varint,
)


def value_of(*metrics: bytes, seq: int = 0) -> dict[str, Any]:
    return sparkplug_value(payload(metrics, seq=seq))


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (-5, INT8),
        (-70000, INT32),
        (-(2**40), INT64),
        (2**64 - 1, UINT64),
        (0.5, FLOAT),
        (20.1, DOUBLE),
        (True, BOOLEAN),
    ],
)
def test_a_metric_of_each_type_is_read(value: object, datatype: int) -> None:
    assert value_of(metric(value, datatype, name="a/b"))["metrics"] == {"a/b": value}


def test_what_a_payload_says_besides() -> None:
    found = value_of(
        metric(20.0, DOUBLE, name="t", timestamp=TIME_MS - 1000, is_historical=True),
        metric(21.0, DOUBLE, name="t"),
        metric("ok", STRING, name="state"),
        metric(None, INT32, name="none"),
        metric(b"", DATASET, name="table"),
        seq=7,
    )

    assert found == {
        "timestamp": TIME_MS,
        "seq": 7,
        "metrics": {"t": 21.0, "state": "ok", "none": None},
        "historical": ["t"],
        "history": [{"name": "t", "value": 20.0, "timestamp": TIME_MS - 1000}],
        "left_out": {"table": "DataSet"},
    }


def array(datatype: int, content: bytes) -> bytes:
    return tagged(1, 2, b"a") + tagged(4, 0, varint(datatype)) + tagged(16, 2, content)


@pytest.mark.parametrize(
    ("datatype", "content", "value"),
    [
        (22, b"\xff\x02", [-1, 2]),
        (24, struct.pack("<2i", -7, 8), [-7, 8]),
        (31, struct.pack("<2d", 0.5, 1.5), [0.5, 1.5]),
        (32, b"\x0a\0\0\0\x80\x40", [True] + [False] * 8 + [True]),
        (33, b"ab\0\0c\0", ["ab", "", "c"]),
        (34, struct.pack("<Q", TIME_MS), [TIME_MS]),
        (17, b"\0\1", "AAE="),
    ],
)
def test_an_array_is_read(datatype: int, content: bytes, value: object) -> None:
    assert value_of(array(datatype, content))["metrics"] == {"a": value}


@pytest.mark.parametrize(
    ("datatype", "content"),
    [(24, b"\0\0\0"), (31, struct.pack("<d", float("nan"))), (32, b"\xff\xff\xff\xff"), (99, b"")],
)
def test_an_array_that_is_damaged_is_left_out(datatype: int, content: bytes) -> None:
    found = value_of(array(datatype, content), metric(1, INT32, name="b"))

    assert found["metrics"] == {"b": 1}
    assert list(found["left_out"]) == ["a"]


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"\xff", "decode", "not a Sparkplug"),
        (payload([metric(b"", DATASET, name="t")], seq=0), "metric_type", "DataSet"),
        (payload([metric(1, INT32, alias=3)], seq=0), "birth", "alias 3"),
        (payload([metric(1, INT32, name="t", with_type=False)], seq=0), "birth", "no data type"),
        (payload([tagged(1, 2, b"\xff") + tagged(4, 0, b"\3") + tagged(10, 0, b"\1")], seq=0), "encoding", "UTF-8"),
        (tagged(4, 2, b"SPBV1.0_COMPRESSED"), "compression", "compressed"),
    ],
)
def test_what_is_refused_says_why(data: bytes, reason: str, words: str) -> None:
    with pytest.raises(RejectedError, match=words) as caught:
        sparkplug_value(data)
    assert caught.value.reason == reason
    assert reason in REASONS


T = metric(None, INT32, name="t", alias=1)
ONE = metric(-1, INT32, alias=1, with_type=False)


def test_a_device_has_names_of_its_own() -> None:
    bus = Node()
    bus.hear("NBIRTH", [metric(0, INT64, name="bdSeq"), T])
    bus.hear("DBIRTH", [metric(None, INT8, name="speed", alias=2)], device="pump")
    bus.hear("DDATA", [metric(-3, INT8, alias=2, with_type=False)], device="pump")

    assert bus.values[-1]["metrics"] == {"speed": -3}
    assert (bus.events, bus.commands) == ({"births": 2}, [])


def test_data_before_any_birth_is_refused_and_the_births_are_asked_for() -> None:
    bus = Node()
    bus.hear("NDATA", [ONE], seq=4)

    assert bus.reasons == ["birth"]
    assert [topic for topic, _ in bus.commands] == ["spBv1.0/g/NCMD/e"]
    [asked] = parse(bus.commands[0][1]).metrics
    assert (asked.name, asked.datatype, asked.boolean_value) == (b"Node Control/Rebirth", BOOLEAN, True)


def test_births_are_not_asked_for_again_and_again() -> None:
    bus = Node(rebirth_s=30.0)
    for _ in range(5):
        bus.hear("NDATA", [ONE])
    bus.now_s += 31
    bus.hear("NDATA", [ONE])

    assert bus.events["rebirths"] == len(bus.commands) == 2


def test_births_are_not_asked_for_where_the_config_says_no() -> None:
    bus = Node(rebirth=False)
    bus.hear("NDATA", [ONE])

    assert bus.commands == []


@pytest.mark.parametrize(("first", "second", "missed"), [(5, 6, 0), (5, 8, 2), (255, 0, 0), (254, 1, 2), (5, 5, 255)])
def test_a_gap_in_the_sequence_is_counted(first: int, second: int, missed: int) -> None:
    bus = Node(rebirth_s=0.001)
    bus.hear("NBIRTH", [T])
    bus.hear("NDATA", [ONE], seq=first)
    before = dict(bus.events)
    bus.now_s += 1
    bus.hear("NDATA", [ONE], seq=second)

    assert bus.events.get("missed", 0) - before.get("missed", 0) == missed
    assert bus.values[-1]["metrics"] == {"t": -1}, "what came is taken all the same"


def test_the_sequence_is_not_checked_where_the_route_hears_a_part_of_it() -> None:
    bus = Node(topics=("spBv1.0/g/+/e/pump",))
    bus.hear("DBIRTH", [T], device="pump", seq=1)
    bus.hear("DDATA", [ONE], device="pump", seq=9)

    assert (bus.values[-1]["metrics"], bus.commands, bus.events) == ({"t": -1}, [], {"births": 1})


def test_a_message_that_comes_again_is_no_gap() -> None:
    bus = Node()
    bus.hear("NBIRTH", [T])
    bus.hear("NDATA", [ONE])
    bus.hear_bytes("NDATA", payload([ONE], seq=1), dup=True)
    bus.hear("NDATA", [ONE], seq=2)

    assert "gaps" not in bus.events


def test_after_its_death_nothing_is_known_of_a_node() -> None:
    bus = Node()
    bus.hear("NBIRTH", [metric(3, INT64, name="bdSeq"), T])
    bus.hear_bytes("NDEATH", payload([metric(2, INT64, name="bdSeq")], seq=None))
    bus.hear("NDATA", [ONE])
    assert bus.reasons == [], "the death of an earlier connection says nothing of this one"

    bus.hear_bytes("NDEATH", payload([metric(3, INT64, name="bdSeq")], seq=None))
    bus.hear("NDATA", [ONE])

    assert bus.reasons == ["birth"]
    assert bus.events["deaths"] == 1


def test_after_its_death_nothing_is_known_of_a_device() -> None:
    bus = Node()
    bus.hear("NBIRTH", [])
    bus.hear("DBIRTH", [T], device="pump")
    bus.hear("DDEATH", [], device="pump")
    bus.hear("DDATA", [ONE], device="pump")

    assert bus.reasons == ["birth"]


def test_no_more_edge_nodes_are_kept_than_allowed() -> None:
    bus = Node(max_edge_nodes=2)
    for node in ("a", "b", "c"):
        bus.hear("NBIRTH", [T], node=node)
    bus.hear("NDATA", [ONE], node="a", seq=1)
    bus.hear("NDATA", [ONE], node="c", seq=1)

    assert bus.events["forgotten"] == 2  # a for c, then b for a
    assert bus.reasons == ["birth"]


def test_a_node_with_more_metrics_than_allowed_is_not_asked_for_ever() -> None:
    bus = Node(max_metrics=1, rebirth_s=0.001)
    bus.hear("NBIRTH", [T, metric(None, INT32, name="u", alias=2)])
    for _ in range(3):
        bus.now_s += 1
        bus.hear("NDATA", [ONE])

    assert bus.commands == []
    assert bus.reasons == ["birth"] * 3


# What pysparkplug 0.6.1 makes of a DBIRTH and a DDATA by aliases: another library's idea of the format.
PYSPARKPLUG_BIRTH = (
    "CICK2aWqMxInChFNb3Rvci9UZW1wZXJhdHVyZRAFGICK2aWqMyAKaQAAAAAAQDRAEh4KC01vdG9yL1R1cm5zEAYYgIrZpaozIANQ"
    "kN37/w8SGwoLTW90b3IvU21hbGwQBxiAitmlqjMgAVD9ARIhCglNb3Rvci9CaWcQCBiAitmlqjMgBFiAgICAgOD///8BEhcKCE1v"
    "dG9yL09uEAkYgIrZpaozIAtwARIgCgtNb3Rvci9TdGF0ZRAKGICK2aWqMyAMegZsw6R1ZnQSHgoKTW90b3IvU2VlbhALGICK2aWq"
    "MyANWICK2aWqMxgB"
)
PYSPARKPLUG_DATA = (
    "COiR2aWqMxISEAUY6JHZpaozaQAAAAAAQDRAEg8QBhjokdmlqjNQkN37/w8SDBAHGOiR2aWqM1D9ARIUEAgY6JHZpaozWICAgICA"
    "4P///wESCxAJGOiR2aWqM3ABEhEQChjokdmlqjN6BmzDpHVmdBIQEAsY6JHZpaozWICK2aWqMxgC"
)


def test_what_another_library_writes_is_read() -> None:
    bus = Node(topics=("spBv1.0/g/+/e/m",))
    bus.hear_bytes("DBIRTH", base64.b64decode(PYSPARKPLUG_BIRTH), device="m")
    bus.hear_bytes("DDATA", base64.b64decode(PYSPARKPLUG_DATA), device="m")

    assert bus.reasons == []
    assert [value["metrics"] for value in bus.values] == [
        {
            "Motor/Temperature": 20.25,
            "Motor/Turns": -70000,
            "Motor/Small": -3,
            "Motor/Big": -(2**40),
            "Motor/On": True,
            "Motor/State": "läuft",
            "Motor/Seen": TIME_MS,
        }
    ] * 2


def test_a_topic_is_read() -> None:
    read = read_topic("spBv1.0/g/DDATA/e/d")
    assert read is not None
    assert (read.group, read.type, read.edge_node, read.device) == ("g", "DDATA", "e", "d")
    assert [read_topic(one) for one in ("spBv1.0/STATE/h", "a/b/c/d", "spBv1.0/g//e", "spBv1.0/g/NDATA/e/d/x")] == [
        None
    ] * 4


def test_what_is_no_sparkplug_topic_passes_and_a_state_does_not() -> None:
    door = Door(Payload(format="sparkplug"), ["#"], lambda *_: None)
    raws = [RawMessage(topic=topic, payload=b"{}", time=0, key="k") for topic in ("other", "spBv1.0/STATE/host")]

    assert [one.topic for one in door.admit(raws, 0.0)[0]] == ["other"]


def test_fields_and_times_are_mapped_as_in_any_payload() -> None:
    payload_config = Payload(
        format="sparkplug", fields={"t": 'metrics."Motor/Temp"', "device": "$topic[4]"}, time="timestamp"
    )
    raw = RawMessage(
        topic="spBv1.0/g/DBIRTH/e/pump",
        payload=payload([metric(1.5, DOUBLE, name="Motor/Temp")], seq=0),
        time=0,
        key="k",
    )
    message = Decoder(payload_config).decode(raw)

    assert (message.value, message.time) == ({"t": 1.5, "device": "pump"}, TIME_MS / 1000)


def test_a_rebirth_command_is_what_the_specification_says() -> None:
    assert rebirth_command(TIME_MS) == tagged(1, 0, varint(TIME_MS)) + tagged(
        2,
        2,
        tagged(1, 2, b"Node Control/Rebirth")
        + tagged(3, 0, varint(TIME_MS))
        + tagged(4, 0, b"\x0b")
        + tagged(14, 0, b"\1"),
    )


def test_a_filter_without_births_comes_with_a_warning() -> None:
    topics = 'topics = ["spBv1.0/g/DDATA/#", "spBv1.0/g/+/e/#"]'
    _, problems = examine_text(
        f'[routes.a]\nhandler = "threshold"\n{topics}\npayload.format = "sparkplug"', "config.toml"
    )

    assert [one.key for one in problems] == ["routes.a.topics[0]"]
