"""What the example config.toml says: values that stand in it, and samples for keys that are commented out.

Prose and layout come from the structs (`render`); here is only what a struct cannot know.
"""

from collections.abc import Mapping
from typing import Any

HEAD = """\
# The config of gatewayd. Generated from gatewayd/config: change it there, then `make docs`; or change a copy of this.
# It works as it is, with a broker on this machine and `python -m gatewayd.cli.cloud --port 8080` as the cloud.
#
# `# ` begins an explanation, `#key` a key that stands at its default or is not set. `gatewayd check` finds every
# mistake. docs/reference/config.md says the same in tables. Durations end in _s or _ms, sizes in _bytes.
"""

# (name, type, whether it is commented out)
SINKS = (("cloud", "http", False), ("archive", "file", False), ("plant", "mqtt", True))
TIERS = (("student", "handler", True), ("neighbor", "openai", True))

# Keys that are set in the example; all others are commented out at their default.
SET: Mapping[str, Any] = {
    "routes.temperature.topics": ["plant/+/temperature"],
    "routes.temperature.handler": "threshold",
    "routes.temperature.sinks": ["cloud", "archive"],
    "routes.temperature.payload.format": "number",
    "sinks.cloud.type": "http",
    "sinks.cloud.url": "http://127.0.0.1:8080/events",
    "sinks.archive.type": "file",
    "sinks.archive.path": "results.ndjson",
    "sinks.plant.type": "mqtt",
}

# What a key without a default may look like; by the name of the key, with its table's where that matters.
SAMPLES: Mapping[str, Any] = {
    "ca_file": "/etc/gatewayd/plant-ca.pem",
    "client_ca_file": "/etc/gatewayd/people.pem",
    "cert_file": "/etc/gatewayd/gateway.pem",
    "key_file": "/etc/gatewayd/gateway.key",
    "server_name": "broker.plant.example",
    "unix_socket": "/run/mosquitto/mqtt.sock",
    "username": "gatewayd",
    "file": "mqtt-password",
    "env": "MQTT_PASSWORD",
    "token.file": "cloud-token",
    "token.env": "CLOUD_TOKEN",
    "share_group": "gateways",
    "time": "sent_at",
    "id": "message_id",
    "every_s": 3600.0,
    "ttl_s": 604800.0,
    "accept": 0.9,
    "deadline_s": 60.0,
    "hot_c": 80.0,
    "cool_c": 70.0,
    "abstain": [0.4, 0.6],
    "student.handler": "classify_text",
    "neighbor.url": "https://box.plant.example:8080/v1",
    "neighbor.model": "qwen3-4b",
    "neighbor.labels": {"alert": "a person has to act", "normal": "nothing to do"},
    "max_call_s": 60.0,
    "otlp_endpoint": "http://127.0.0.1:4318",
}

TEMPERATURE_OPTIONS = """\

# The options are the handler's own: `gatewayd handlers threshold` lists them.
[[routes.temperature.options.rules]]
label = "overheated"
above = 80.0
clear_margin = 2.0
severity = "critical"
"""

MORE_ROUTES = """\
# A vibration or state classifier, one window of samples a device. Switched off because its model is fitted on your own
# data: see docs/guides. Then remove `enabled`.
[routes.pumps]
enabled = false
topics = ["plant/+/state"]
handler = "classify_series"
sinks = ["cloud"]
[routes.pumps.options]
model = "pumps"
device = "topic"

# Log lines into classes you describe in words. The model comes with `gatewayd models fetch minilm-int8`; until it is
# there the lines are journaled and nothing is lost.
[routes.log_lines]
topics = ["logs/#"]
handler = "classify_text"
sinks = ["cloud"]
payload.format = "text"
[routes.log_lines.options]
model = "minilm-int8"
[routes.log_lines.options.labels.trouble]
description = "a fault, alarm, failure, timeout or safety stop of a machine"
examples = ["emergency stop activated", "motor overheated and was switched off"]
[routes.log_lines.options.labels.routine]
description = "a machine reports normal operation"
examples = ["cycle finished", "recipe loaded by the operator"]

# The same lines once more, as one summary an hour. Without `model` the summary is made of the lines themselves; with
# `model = "gemma3-270m"` (`gatewayd models fetch gemma3-270m`) a language model writes it.
[routes.log_summaries]
topics = ["logs/#"]
handler = "summarize_text"
sinks = ["cloud"]
payload.format = "text"
window = { every_s = 3600.0, max_messages = 1000 }
"""
