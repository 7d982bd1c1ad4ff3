"""The AsyncAPI document: in the form of 3.0.0, about what the config says, and always the same."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gatewayd.asyncapi import document
from gatewayd.cli.app import app
from gatewayd.cli.asyncapi import to_yaml
from gatewayd.config.load import examine_text
from gatewayd.config.schema import Config

ROOT = Path(__file__).parents[2]
CONFIG = """
[homeassistant]
enabled = true
commands = true
[sinks.cloud]
type = "http"
url = "https://user:secret-word@cloud.example:8443/events"
[sinks.plant]
type = "mqtt"
host = "plant.example"
topic = "up/{gateway}/{route}/{kind}"
[sinks.archive]
type = "file"
path = "results.ndjson"
[routes.pumps]
topics = ["$share/g/plant/+/pumps/#", "spare"]
handler = "threshold"
options.rules = [{ field = "value", above = 1.0, label = "high" }]
sinks = ["cloud", "plant"]
live_qos = 1
[routes.edge]
topics = ["spBv1.0/#"]
handler = "threshold"
options.rules = [{ field = "value", above = 1.0, label = "high" }]
live = false
sinks = ["archive"]
payload.format = "sparkplug"
[routes.off]
topics = ["off/#"]
handler = "threshold"
options.rules = [{ field = "value", above = 1.0, label = "high" }]
enabled = false
"""

# AsyncAPI 3.0.0, what the objects that we use may and must have.
FORM: dict[str, tuple[set[str], set[str]]] = {
    "": (
        {"asyncapi", "info", "defaultContentType", "servers", "channels", "operations", "components"},
        {"asyncapi", "info"},
    ),
    "info": ({"title", "version", "description"}, {"title", "version"}),
    "servers.*": (
        {"host", "protocol", "protocolVersion", "description", "bindings", "pathname"},
        {"host", "protocol"},
    ),
    "servers.*.bindings.mqtt": (
        {"clientId", "cleanSession", "keepAlive", "lastWill", "sessionExpiryInterval", "bindingVersion"},
        {"bindingVersion"},
    ),
    "channels.*": ({"address", "description", "messages", "servers", "parameters"}, {"address", "messages", "servers"}),
    "channels.*.parameters.*": ({"description", "enum"}, set()),
    "operations.*": (
        {"action", "summary", "bindings", "channel", "messages"},
        {"action", "channel", "messages", "bindings"},
    ),
    "operations.*.bindings.mqtt": ({"qos", "retain", "bindingVersion"}, {"qos", "bindingVersion"}),
    "operations.*.bindings.http": ({"method", "bindingVersion"}, {"method", "bindingVersion"}),
    "components": ({"messages", "schemas"}, set()),
    "components.messages.*": ({"summary", "contentType", "headers", "payload"}, {"contentType", "payload"}),
}


def at(tree: Any, path: str) -> Iterator[Any]:
    """Everything at a path; `*` is each entry."""
    head, _, rest = path.partition(".")
    if not path:
        yield tree
    elif head == "*":
        for item in tree.values():
            yield from at(item, rest)
    elif head in tree:
        yield from at(tree[head], rest)


def references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        yield from [tree["$ref"]] if "$ref" in tree else []
        for item in tree.values():
            yield from references(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from references(item)


def check_document(made: dict[str, Any]) -> None:
    """Raises AssertionError where it is no AsyncAPI 3.0.0."""
    assert made["asyncapi"] == "3.0.0"
    for path, (known, required) in FORM.items():
        for table in at(made, path):
            assert required <= table.keys() <= known, f"{path}: {table.keys() ^ known}"
    for reference in references(made):
        found: Any = made
        for name in reference.removeprefix("#/").split("/"):
            assert name in found, f"{reference} leads nowhere"
            found = found[name]
    for name, channel in made["channels"].items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
        assert "+" not in channel["address"]
        assert "#" not in channel["address"]
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == channel.get("parameters", {}).keys()
    for operation in made["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel_of = operation["channel"]["$ref"]
        assert all(one["$ref"].startswith(f"{channel_of}/messages/") for one in operation["messages"])


def made_of(text: str = CONFIG) -> dict[str, Any]:
    config, problems = examine_text(text, "config.toml")
    assert config is not None
    assert [one for one in problems if not one.is_warning] == []
    made: dict[str, Any] = json.loads(json.dumps(document(config, "box")))
    return made


@pytest.mark.parametrize("text", [CONFIG, "", (ROOT / "config.toml").read_text()])
def test_the_document_has_the_form_of_asyncapi_3(text: str) -> None:
    check_document(made_of(text))


def test_the_check_finds_what_is_wrong() -> None:
    made = made_of()
    made["channels"]["status"]["topic"] = "x"
    with pytest.raises(AssertionError, match=r"channels\.\*"):
        check_document(made)
    made = made_of()
    del made["components"]["messages"]["result"]
    with pytest.raises(AssertionError, match="leads nowhere"):
        check_document(made)


def test_every_topic_is_a_channel_and_what_is_switched_off_is_none() -> None:
    made = made_of()

    addresses = {name: channel["address"] for name, channel in made["channels"].items()}
    assert addresses == {
        "heard_pumps_1": "plant/{level2}/pumps/{rest}",
        "heard_pumps_2": "spare",
        "heard_edge_1": "spBv1.0/{rest}",
        "results_pumps": "gatewayd/box/results/pumps",
        "status": "gatewayd/box/status",
        "discovery": "homeassistant/device/gatewayd_box/config",
        "health": "gatewayd/box/health",
        "commands": "gatewayd/box/command/{command}",
        "sink_cloud": "/events",
        "sink_plant": "up/box/{route}/{kind}",
    }
    assert made["channels"]["sink_plant"]["parameters"]["route"]["enum"] == ["pumps"]
    assert made["operations"]["results_pumps"]["bindings"]["mqtt"]["qos"] == 1
    assert made["operations"]["status"]["bindings"]["mqtt"]["retain"] is True


def test_no_secret_is_in_it() -> None:
    made = made_of()

    assert "secret-word" not in json.dumps(made)
    assert made["servers"]["sink_cloud"]["host"] == "cloud.example:8443"


def test_over_mqtt_3_1_1_a_live_result_is_a_structured_event() -> None:
    made = made_of('[source]\nprotocol = "3.1.1"\n' + CONFIG)

    check_document(made)
    assert list(made["channels"]["results_pumps"]["messages"]) == ["event"]
    assert made["servers"]["bus"]["protocolVersion"] == "3.1.1"


def test_the_command_prints_the_same_document_as_yaml_and_as_json(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[gateway]\nid = "box"\n' + CONFIG)
    said = [
        CliRunner().invoke(app, ["asyncapi", "--config", str(tmp_path / "config.toml"), *more])
        for more in ([], ["--json"], [])
    ]

    assert [one.exit_code for one in said] == [0, 0, 0], said[0].output
    assert said[0].stdout == said[2].stdout
    assert json.loads(said[1].stdout) == made_of()
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(said[0].stdout) == made_of()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"on": {"a b": [1, {"x": []}]}}, '"on":\n  "a b":\n    - 1\n    - x: []\n'),
        ([["a", "b"], {}], '- - "a"\n  - "b"\n- {}\n'),
        ({"text": "no: #1\n"}, 'text: "no: #1\\n"\n'),
    ],
)
def test_a_tree_as_yaml(value: Any, text: str) -> None:
    assert to_yaml(value) == text


def test_an_empty_config_has_a_document() -> None:
    assert document(Config(), "box")["channels"].keys() == {"status"}
