"""Node-RED's forwarding, as its users have it: mqtt in, a JavaScript function, mqtt out. From npm, where node is.

The function parses the JSON and adds two fields: what a flow does before there is any inference in it.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sim.gateway import wait_until
from tests.sim.mosquitto import free_port

VERSION = "4"
_INSTALL_S = 300
_START_S = 60.0
_FUNCTION = "var m = msg.payload; msg.payload = {label: m.vibration > 3 ? 'high' : 'normal', score: m.vibration};"


def installed(folder: Path) -> Path | None:
    """Its start script; None (with no error) where node or npm is missing or npm cannot reach its registry."""
    if shutil.which("npm") is None:
        return None
    script = folder / "node_modules" / "node-red" / "red.js"
    if not script.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", f"node-red@{VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_INSTALL_S, check=False)
        if done.returncode:
            return None
    return script if script.exists() else None


@contextmanager
def running(script: Path, folder: Path, port: int) -> Iterator[int]:
    """A Node-RED with one flow, subscribed; its process id."""
    folder.mkdir(parents=True, exist_ok=True)
    web_port = free_port()
    (folder / "flows.json").write_text(json.dumps(_flow(port)))
    (folder / "settings.js").write_text(
        f"module.exports = {{ uiPort: {web_port}, uiHost: '127.0.0.1', flowFile: 'flows.json', "
        "logging: { console: { level: 'info' } }, httpAdminRoot: '/admin' }\n"
    )
    log = (folder / "node-red.log").open("wb")
    process = subprocess.Popen(
        ["node", str(script), "--userDir", str(folder), "--settings", str(folder / "settings.js")],
        stdout=log,
        stderr=log,
        env={**os.environ, "NODE_RED_DISABLE_TELEMETRY": "1"},
    )
    try:
        said = folder / "node-red.log"
        wait_until(lambda: "Connected to broker" in said.read_text(errors="replace"), _START_S, said.read_text)
        time.sleep(0.5)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def _flow(port: int) -> list[dict[str, object]]:
    broker = {"id": "broker", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(port), "protocolVersion": "4"}
    into = {"id": "in", "type": "mqtt in", "z": "tab", "topic": "bench/#", "qos": "0", "datatype": "json"}
    function = {"id": "f", "type": "function", "z": "tab", "func": f"{_FUNCTION} msg.topic = 'nr/out'; return msg;"}
    out = {"id": "out", "type": "mqtt out", "z": "tab", "topic": "", "qos": "0", "broker": "broker"}
    return [
        {"id": "tab", "type": "tab", "label": "bench"},
        {**broker, "keepalive": "60", "cleansession": True, "autoConnect": True},
        {**into, "broker": "broker", "wires": [["f"]]},
        {**function, "outputs": 1, "wires": [["out"]]},
        {**out, "wires": []},
    ]
