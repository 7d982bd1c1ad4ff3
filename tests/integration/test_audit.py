"""The audit trail of a real daemon over `kill -9`: it verifies, tells the kill, has every decision of what was sent."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_main_job import publish
from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto
from tests.sim.tiers import SITE_HANDLERS

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

CONFIG = """
[source]
port = {port}
client_id = '{name}'
[sinks.file]
type = "file"
path = "out.ndjson"
[handlers]
paths = ["tiers_of_tests.py"]
[tiers.student]
type = "handler"
handler = "student"
accept = 0.9
[tiers.giant]
type = "handler"
handler = "giant"
options = {{ name = "giant" }}
[routes.logs]
topics = ["audit/#"]
tiers = ["student", "giant"]
sinks = ["file"]
payload = {{ format = "json" }}
[routes.logs.escalation]
lessons = true
"""
_PATIENCE_S = 40


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Gateway]:
    name = tmp_path.name.replace("_", "-")[:60]
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=mosquitto.port, name=name), name=name)
    (tmp_path / "gateway" / "tiers_of_tests.py").write_text(SITE_HANDLERS)
    yield gateway
    gateway.end()


def messages(start: int, n: int) -> list[str]:
    """Every second one unsure, and then answered by the giant."""
    return [
        json.dumps({"n": n, "student": ["a", 0.6 if n % 2 else 0.97], "giant": ["b", 0.99]})
        for n in range(start, start + n)
    ]


def command(gateway: Gateway, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *words, "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def decisions(gateway: Gateway) -> list[dict[str, Any]]:
    status, words = command(gateway, "audit", "show", "--json", "--limit", "1000")
    assert status == 0, words
    return list(json.loads(words))


def test_a_daemon_that_is_killed_leaves_a_trail_that_verifies_and_says_so(
    gateway: Gateway, mosquitto: Mosquitto
) -> None:
    gateway.start()
    publish(mosquitto, "audit/a", *messages(0, 40))
    wait_until(lambda: gateway.books().messages["logs"]["handled"] == 40, _PATIENCE_S, gateway.describe)
    wait_until(lambda: len(decisions(gateway)) >= 60, _PATIENCE_S, gateway.describe)
    gateway.kill()
    after_kill = command(gateway, "audit", "verify")

    gateway.start()
    publish(mosquitto, "audit/a", *messages(40, 40))
    wait_until(lambda: gateway.books().messages["logs"]["handled"] == 80, _PATIENCE_S, gateway.describe)
    assert gateway.stop() == 0
    at_the_end = command(gateway, "audit", "verify")

    assert after_kill[0] == 0, after_kill[1]
    assert at_the_end[0] == 0, at_the_end[1]
    assert "the process before it was killed" in at_the_end[1]
    found = decisions(gateway)
    finals = Counter(each.get("corrects") or each["key"] for each in found if not each["next_tier"])
    assert len(finals) == 80
    assert Counter(each["cause"] for each in found if each["tier"] == "giant") == {"sure": 40}
    status, lessons = command(gateway, "models", "lessons", "--json")
    assert status == 0, lessons
    assert json.loads(lessons)[0]["labels"]["b"] >= 20
