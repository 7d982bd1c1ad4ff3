"""The config the demo's daemon runs with: an ordinary one, kept by `gatewayd demo --keep DIR`."""

from dataclasses import dataclass
from pathlib import Path

from gatewayd.cli.demo.bundles import DemoModels


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, all on 127.0.0.1."""

    broker: int
    cloud: int
    web: int


_HEAD = """\
# The config of `gatewayd demo`.
[gateway]
id = "demo"
state_dir = "state"

[source]
port = {broker}
protocol = "3.1.1"    # the embedded broker speaks no MQTT 5; Mosquitto does
[source.reconnect]
initial_s = 0.2
max_s = 2.0

[sinks.cloud]
type = "http"
url = "http://127.0.0.1:{cloud}/events"
timeout_s = 5.0
retry_max_s = 1.0     # so that you see it come back at once

[models]
dir = "{models}"

[web]
port = {web}

[log]
format = "json"

[routes.freezers]
topics = ["store/+/temperature"]
handler = "threshold"
sinks = ["cloud"]
payload = {{ format = "number" }}
[[routes.freezers.options.rules]]
field = "value"
above = -15.0
clear_margin = 1.0
label = "too_warm"
severity = "warning"
"""

_PUMPS = """
[routes.pumps]
topics = ["plant/+/state"]
handler = "classify_series"
sinks = ["cloud"]
[routes.pumps.options]
model = "pumps"
device = "device"
"""

_LINES = """
[routes.log_lines]
topics = ["logs/#"]
handler = "classify_text"
sinks = ["cloud"]
payload = { format = "text" }
[routes.log_lines.options]
model = "minilm-int8"
[routes.log_lines.options.labels.trouble]
description = "a fault, alarm, failure, timeout or safety stop of a machine"
examples = ["emergency stop activated", "motor overheated and was switched off", "communication timeout"]
[routes.log_lines.options.labels.routine]
description = "a machine reports normal operation"
examples = ["cycle finished", "recipe loaded by the operator", "heartbeat ok"]
"""

_SUMMARIES = """
[routes.log_summaries]
topics = ["logs/#"]
handler = "summarize_text"
sinks = ["cloud"]
payload = {{ format = "text" }}
window = {{ every_s = 10.0 }}
[routes.log_summaries.options]
{model}
"""


def render(ports: Ports, models: DemoModels) -> str:
    """The config as TOML."""
    parts = [_HEAD.format(broker=ports.broker, cloud=ports.cloud, web=ports.web, models=models.folder)]
    if models.pumps:
        parts.append(_PUMPS)
    if models.encoder:
        parts.append(_LINES)
    parts.append(_SUMMARIES.format(model='model = "gemma3-270m"' if models.language else "# no model: extractive"))
    return "".join(parts)


def write(folder: Path, ports: Ports, models: DemoModels) -> Path:
    """Write it into `folder`."""
    path = folder / "config.toml"
    path.write_text(render(ports, models), encoding="utf-8")
    return path
