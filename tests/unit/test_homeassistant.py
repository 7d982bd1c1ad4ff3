"""The discovery message: in the form that Home Assistant takes, of what is there, and of no more."""

import re
from typing import Any

import msgspec
import pytest

from gatewayd.config.load import examine_text
from gatewayd.config.schema import Config
from gatewayd.homeassistant.discovery import discovery, discovery_topic, object_id, platforms

CONFIG = """
[homeassistant]
enabled = true
{more}
[sinks.cloud]
type = "http"
url = "http://127.0.0.1:1/"
[routes.pumps]
topics = ["plant/#"]
handler = "threshold"
sinks = ["cloud"]
[routes.words]
topics = ["log/#"]
handler = "summarize_text"
[routes.words.window]
every_s = 3600
[routes.quiet]
topics = ["quiet/#"]
handler = "threshold"
live = false
sinks = ["cloud"]
"""


def config_of(more: str = "", head: str = "") -> Config:
    config, problems = examine_text(head + CONFIG.format(more=more), "config.toml")
    assert config is not None
    assert [problem for problem in problems if not problem.is_warning] == []
    return config


def document_of(config: Config, **more: Any) -> dict[str, Any]:
    """As it is on the wire."""
    made = discovery(config, "box.1", **{"has_temperature": True, "removed": {}, **more})
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return document


# Home Assistant's schemas (homeassistant/components/mqtt: schemas.py, sensor.py, binary_sensor.py, switch.py,
# button.py), for the keys that we use: each key's abbreviation, which of them must be there, and what a value may be.
TEXT = re.compile(r".+", re.DOTALL)
TOPIC = re.compile(r"[^+#\x00]+")
ID = re.compile(r"[A-Za-z0-9_-]+")
TEMPLATE = re.compile(r"\{\{ .+ \}\}", re.DOTALL)
ICON = re.compile(r"mdi:[a-z0-9-]+")
URL = re.compile(r"https?://\S+")
CATEGORY = re.compile(r"config|diagnostic")
ENTITY = {"p": ID, "uniq_id": TEXT, "name": TEXT, "ic": ICON, "ent_cat": CATEGORY}
STATE = {"stat_t": TOPIC, "val_tpl": TEMPLATE}
COMPONENT = {
    "sensor": ENTITY
    | STATE
    | {
        "json_attr_t": TOPIC,
        "json_attr_tpl": TEMPLATE,
        "dev_cla": re.compile(r"duration|temperature"),
        "stat_cla": re.compile(r"measurement"),
        "unit_of_meas": re.compile(r"s|°C|%"),
    },
    "binary_sensor": ENTITY | STATE | {"dev_cla": re.compile(r"connectivity|heat")},
    "switch": ENTITY | STATE | {"cmd_t": TOPIC},
    "button": ENTITY | {"cmd_t": TOPIC},
}
REQUIRED = {
    "sensor": {"p", "uniq_id", "name", "stat_t"},
    "binary_sensor": {"p", "uniq_id", "name", "stat_t"},
    "switch": {"p", "uniq_id", "name", "cmd_t"},
    "button": {"p", "uniq_id", "name", "cmd_t"},
}
DEVICE = {"name": TEXT, "mf": TEXT, "mdl": TEXT, "sw": TEXT}
ORIGIN = {"name": TEXT, "sw": TEXT, "url": URL}
AVAILABILITY = {"t": TOPIC, "val_tpl": TEMPLATE, "pl_avail": TEXT, "pl_not_avail": TEXT}


def check_keys(where: str, table: dict[str, Any], known: dict[str, re.Pattern[str]], required: set[str]) -> None:
    assert table.keys() >= required, f"{where}: {required - table.keys()} is missing"
    for key, value in table.items():
        assert key in known, f"{where}.{key} is not known"
        assert isinstance(value, str), f"{where}.{key} is no text"
        assert known[key].fullmatch(value), f"{where}.{key} = {value!r}"


def check_document(document: dict[str, Any]) -> None:
    """Raises AssertionError where Home Assistant would refuse it."""
    assert document.keys() == {"dev", "o", "avty", "cmps"}
    device = dict(document["dev"])
    ids = device.pop("ids")
    assert ids
    assert all(isinstance(one, str) for one in ids)
    check_keys("dev", device, DEVICE, {"name"})
    check_keys("o", document["o"], ORIGIN, {"name"})
    for one in document["avty"]:
        check_keys("avty", one, AVAILABILITY, {"t"})
    for name, component in document["cmps"].items():
        platform = component["p"]
        assert platform in COMPONENT
        if component.keys() != {"p"}:  # alone it takes the component out
            check_keys(f"cmps.{name}", component, COMPONENT[platform], REQUIRED[platform])
    unique = [one["uniq_id"] for one in document["cmps"].values() if "uniq_id" in one]
    assert len(unique) == len(set(unique))


@pytest.mark.parametrize("more", ["", "commands = true", 'device_name = "The plant"', "max_routes = 1"])
def test_the_message_has_the_form_that_home_assistant_takes(more: str) -> None:
    check_document(document_of(config_of(more)))


def test_the_check_finds_what_home_assistant_would_refuse() -> None:
    document = document_of(config_of())
    document["cmps"]["route_pumps_result"]["state"] = "x"
    with pytest.raises(AssertionError, match="not known"):
        check_document(document)
    document = document_of(config_of())
    del document["cmps"]["route_pumps_result"]["stat_t"]
    with pytest.raises(AssertionError, match="is missing"):
        check_document(document)


def test_only_routes_with_live_results_are_announced() -> None:
    names = platforms(document_of(config_of()))

    assert {"route_pumps_result", "route_pumps_score", "route_words_result", "route_words_score"} <= names.keys()
    assert not [name for name in names if name.startswith("route_quiet")]


def test_no_more_routes_than_allowed_are_announced() -> None:
    names = platforms(document_of(config_of("max_routes = 1")))

    assert "route_pumps_result" in names
    assert "route_words_result" not in names


def test_commands_are_announced_only_where_they_are_obeyed() -> None:
    without, obeyed = platforms(document_of(config_of())), platforms(document_of(config_of("commands = true")))

    assert {"switch", "button"}.isdisjoint(without.values())
    assert {name: kind for name, kind in obeyed.items() if name not in without} == {
        "route_pumps_live": "switch",
        "route_words_live": "switch",
        "reload": "button",
        "close_windows": "button",
    }


def test_a_component_that_is_no_more_is_taken_out_by_its_platform_alone() -> None:
    document = document_of(config_of(), removed={"oven_score": "sensor"})

    check_document(document)
    assert document["cmps"]["oven_score"] == {"p": "sensor"}


def test_a_gateways_name_becomes_an_object_id() -> None:
    assert object_id("box.1") == "gatewayd_box_1"
    assert discovery_topic(config_of('prefix = "ha"'), "box.1") == "ha/device/gatewayd_box_1/config"


def test_without_a_status_nobody_could_tell_whether_the_gateway_is_there() -> None:
    _, problems = examine_text("[source]\nstatus_topic = false\n" + CONFIG.format(more=""), "config.toml")

    assert [(one.key, one.is_warning) for one in problems if "homeassistant" in one.key] == [
        ("homeassistant.enabled", False)
    ]


def test_commands_come_with_a_warning() -> None:
    _, problems = examine_text(CONFIG.format(more="commands = true"), "config.toml")

    assert [(one.key, one.is_warning) for one in problems] == [("homeassistant.commands", True)]


RESULT = {"label": "hot", "score": 0.97, "latency_ms": 0.2}
SUMMARY = {"summary": {"headline": "Pump 3 stopped " + "x" * 300, "what_happened": []}, "messages": 4}


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_templates_read_what_is_published(protocol: str) -> None:
    jinja2 = pytest.importorskip("jinja2", reason="part of the dev extra")
    document = document_of(config_of(head=f'[source]\nprotocol = "{protocol}"\n'))

    def read(component: str, key: str, message: dict[str, Any]) -> str:
        data = message if protocol == "5" or "sinks" in message else {"specversion": "1.0", "data": message}
        text: str = jinja2.Template(document["cmps"][component][key]).render(value_json=data)
        return text

    assert read("route_pumps_result", "val_tpl", RESULT) == "hot"
    assert read("route_pumps_score", "val_tpl", RESULT) == "0.97"
    assert msgspec.json.decode(read("route_pumps_result", "json_attr_tpl", RESULT)) == RESULT
    assert read("route_words_result", "val_tpl", SUMMARY).startswith("Pump 3 stopped xxx")
    assert len(read("route_words_result", "val_tpl", SUMMARY)) <= 255
    assert read("route_words_result", "val_tpl", {"summary": "short"}) == "short"
    assert read("route_words_score", "val_tpl", SUMMARY) == "None"
    for known, said in ((True, "ON"), (False, "OFF"), (None, "None")):
        assert read("sink_cloud", "val_tpl", {"sinks": {"cloud": known}}) == said
