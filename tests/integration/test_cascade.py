"""A cascade for real: Mosquitto, the daemon as a process, a far tier over HTTP that is away, and two power cuts."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_main_job import publish
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.judge import JudgeProcess
from tests.sim.mosquitto import Mosquitto
from tests.sim.tiers import SITE_HANDLERS

pytestmark = [pytest.mark.broker]

CONFIG = """
[source]
port = {port}
client_id = '{name}'
[sinks.cloud]
type = "http"
url = "{cloud}"
retry_max_s = 0.5
[handlers]
paths = ["tiers_of_tests.py"]
[tiers.student]
type = "handler"
handler = "student"
accept = 0.9
[tiers.judge]
type = "http"
url = "{judge}"
retry_max_s = 0.3
max_batch = 4
[routes.logs]
topics = ["logs/#"]
tiers = ["student", "judge"]
sinks = ["cloud"]
payload = {{ format = "json" }}
[routes.logs.escalation]
privacy = "{privacy}"
redact = ["email"]
"""
_PATIENCE_S = 40


class Scene:
    """All that plays together."""

    def __init__(self, folder: Path, broker: Mosquitto, privacy: str) -> None:
        self.broker = broker
        self.cloud = CloudProcess(folder)
        self.judge = JudgeProcess(folder)
        name = folder.name.replace("_", "-")[:60]
        text = CONFIG.format(port=broker.port, name=name, cloud=self.cloud.url, judge=self.judge.url, privacy=privacy)
        self.gateway = Gateway(folder / "gateway", text, name=name)
        (folder / "gateway" / "tiers_of_tests.py").write_text(SITE_HANDLERS)

    def finals(self) -> dict[str, dict[str, object]]:
        """What the cloud has of corrections, by the id they correct."""
        stored = [event["data"] for event in self.cloud.stored().values()]
        return {data["corrects"]: data for data in stored if "corrects" in data}

    def wait(self, condition: object) -> None:
        wait_until(condition, _PATIENCE_S, self.gateway.describe)


@pytest.fixture
def scene(tmp_path: Path, mosquitto: Mosquitto, request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(tmp_path, mosquitto, getattr(request, "param", "cloud"))
    scene.cloud.start()
    yield scene
    scene.gateway.end()
    scene.judge.stop()
    scene.cloud.stop()


def messages(n: int) -> list[str]:
    """Every second one unsure; every fourth of those really a "b"."""
    return [
        json.dumps(
            {"n": n, "student": ["a", 0.6 if n % 2 else 0.97], "truth": "b" if n % 4 == 1 else "a", "by": "me@x.org"}
        )
        for n in range(n)
    ]


def test_every_provisional_answer_is_corrected_once_over_outage_and_power_cuts(scene: Scene) -> None:
    gateway, cloud, judge = scene.gateway, scene.cloud, scene.judge
    gateway.start()
    publish(scene.broker, "logs/a", *messages(80))
    scene.wait(lambda: len(cloud.stored()) == 80)
    assert Counter(event["data"]["provisional"] for event in cloud.stored().values()) == {True: 40, False: 40}
    assert gateway.books().messages["logs"]["journaled"] == 40

    gateway.kill()
    gateway.start()
    judge.start()
    scene.wait(lambda: len(scene.finals()) >= 4)
    gateway.kill()
    gateway.start()

    scene.wait(lambda: len(scene.finals()) == 40)
    scene.wait(lambda: gateway.n_pending() == 0)
    assert gateway.stop() == 0
    provisional = {id_ for (_, id_), event in cloud.stored().items() if event["data"]["provisional"]}
    assert set(scene.finals()) == provisional
    assert Counter(data["changed"] for data in scene.finals().values()) == {True: 20, False: 20}
    assert len(cloud.stored()) == 120
    audited = subprocess.run(
        [sys.executable, "-m", "gatewayd", "spool", "audit", "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert audited.returncode == 0, audited.stdout + audited.stderr
    book = gateway.books().messages["logs"]
    assert (book["received"], book["handled"], book["journaled"]) == (80, 80, 0)


def test_what_leaves_is_redacted_and_only_what_is_unsure_leaves(scene: Scene) -> None:
    scene.judge.start()
    scene.gateway.start()
    publish(scene.broker, "logs/a", *messages(20))

    scene.wait(lambda: len(scene.finals()) == 10)

    asked = scene.judge.asked()
    assert {event["data"]["value"]["n"] % 2 for event in asked} == {1}
    assert {event["data"]["value"]["by"] for event in asked} == {"[email]"}


@pytest.mark.parametrize("scene", ["local", "site"], indirect=True)
def test_not_one_byte_goes_where_privacy_does_not_let_it(scene: Scene) -> None:
    scene.judge.start()
    scene.gateway.start()
    publish(scene.broker, "logs/a", *messages(20))

    scene.wait(lambda: len(scene.cloud.stored()) == 20)

    assert scene.gateway.stop() == 0
    assert scene.judge.asked() == []
    causes = Counter(event["data"].get("cause", "sure") for event in scene.cloud.stored().values())
    assert causes == {"privacy": 10, "sure": 10}
