"""`gatewayd check` beyond the file: against a real Mosquitto with access rules, and against a daemon that runs."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto, free_port

pytestmark = pytest.mark.broker

CONFIG = """
[source]
port = {port}
[routes.ovens]
topics = ["ovens/#"]
handler = "threshold"
payload = {{ format = "number" }}
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
[routes.doors]
topics = ["doors/+", "windows/+"]
handler = "threshold"
[[routes.doors.options.rules]]
equals = "open"
label = "open"
"""
# Debian's plugin; whom nobody knows may read ovens and doors only.
RULES = {
    "defaultACLAccess": {
        "publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True,
    },
    "clients": [],
    "groups": [{"groupname": "all", "roles": [{"rolename": "reads"}]}],
    "roles": [
        {
            "rolename": "reads",
            "acls": [
                {"acltype": "subscribePattern", "topic": topic, "allow": True}
                for topic in ("ovens/#", "doors/+", "$SYS/#")
            ],
        }
    ],
    "anonymousGroup": "all",
}  # fmt: skip


def gatewayd(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


def written(folder: Path, port: int, text: str = CONFIG) -> str:
    path = folder / "new.toml"
    path.write_text('[gateway]\nid = "test"\nstate_dir = "state"\n' + text.format(port=port))
    return str(path)


def retained(broker: Mosquitto, topic: str, payload: str) -> None:
    subprocess.run(
        ["mosquitto_pub", "-p", str(broker.port), "-r", "-q", "1", "-t", topic, "-m", payload], check=True, timeout=120
    )


def dynamic_security() -> Path | None:
    found = [*Path("/usr/lib").glob("**/mosquitto_dynamic_security.so")]
    return found[0] if found else None


def test_routes_are_tried_at_the_broker(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = new_mosquitto()
    retained(broker, "ovens/1", "81.5")
    retained(broker, "ovens/2", "warm")
    path = written(tmp_path, broker.port)

    status, words, _ = gatewayd("check", "-c", path, "--against-broker", "--look", "0.5")
    as_json = json.loads(gatewayd("check", "-c", path, "--against-broker", "--look", "0.5", "--json")[1])

    assert status == 0
    assert "warning route ovens: 1 of 2 samples decode" in words
    assert "ovens/2: 1 would be buried, decode: not a number" in words
    assert "doors/+: no message came in" in words
    ovens = as_json["broker"]["routes"][0]
    assert (ovens["granted"], ovens["n_messages"], ovens["n_decoded"]) == ({"ovens/#": 1}, 2, 1)


def test_a_payload_setting_that_fits_nothing_fails(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = new_mosquitto()
    retained(broker, "ovens/1", '{"temperature": 81.5}')

    status, words, _ = gatewayd("check", "-c", written(tmp_path, broker.port), "--against-broker", "--look", "0.5")

    assert status == 1
    assert "failed  route ovens: 0 of 1 samples decode" in words


@pytest.mark.skipif(dynamic_security() is None, reason="Mosquitto's dynamic security plugin is not installed")
def test_a_filter_that_is_refused_is_named_with_its_reason(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(RULES))
    rules.chmod(0o600)
    broker = new_mosquitto(settings=[f"plugin {dynamic_security()}", f"plugin_opt_config_file {rules}"])

    status, words, _ = gatewayd("check", "-c", written(tmp_path, broker.port), "--against-broker", "--look", "0.5")

    assert status == 1
    assert "windows/+: not authorized (reason code 0x87); give this user read access" in words


def test_a_broker_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    status, words, _ = gatewayd("check", "-c", written(tmp_path, free_port()), "--against-broker")

    assert status == 1
    assert "Connection refused" in words
    assert "-> is Mosquitto running?" in words


@pytest.fixture
def running(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=mosquitto.port))
    gateway.start()
    yield gateway
    gateway.end()


def changes(gateway: Gateway, text: str) -> tuple[str, Any]:
    new = gateway.folder / "new.toml"
    new.write_text(text)
    words = gatewayd("check", "-c", str(new), "--changes")
    assert words[0] == 0, words
    return words[1], json.loads(gatewayd("check", "-c", str(new), "--changes", "--json")[1])["changes"]


def test_a_dry_run_says_what_a_config_would_change_and_the_reload_agrees(running: Gateway) -> None:
    text = running.config.read_text()

    same, _ = changes(running, text)
    new_text = text.replace("above = 80.0", "above = 85.0")
    words, found = changes(running, new_text)
    removed = new_text.replace("[routes.doors]", "[routes.gates]").replace("routes.doors.", "routes.gates.")
    more_words, more = changes(running, removed)

    assert "no change" in same
    assert f"what runs (pid {running.process.pid}" in same  # type: ignore[union-attr]
    assert [(one["key"], one["how"]) for one in found["keys"]] == [("routes.ovens.options.rules", "reload")]
    assert "route ovens: handler renewed by a reload" in words
    assert not found["needs_restart"]
    assert more["needs_restart"]
    assert more["routes"]["gates"] == "started at the restart"
    assert "route doors: stopped at the restart" in more_words

    running.config.write_text(new_text)
    running.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_until(lambda: "no change" in changes(running, new_text)[0], 60, running.describe)


def test_without_a_daemon_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    path = written(tmp_path, free_port())
    (tmp_path / "old.toml").write_text('[gateway]\nid = "test"\n')

    status, _, said = gatewayd("check", "-c", path, "--changes")
    against_a_file = gatewayd("check", "-c", path, "--from", str(tmp_path / "old.toml"))

    assert status == 1
    assert "no daemon has run in" in said
    assert "hint: start the daemon once, or name" in said
    assert against_a_file[0] == 0
    assert "+ routes.ovens" in against_a_file[1]
