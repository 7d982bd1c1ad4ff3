"""A language model as a tier: the millisecond answer goes out at once, the model's follows from the journal."""

import json
from pathlib import Path

import pytest

from tests.integration.test_main_job import publish
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.models import demo_models
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
[source]
port = {port}
client_id = '{name}'
[sinks.cloud]
type = "http"
url = "{cloud}"
retry_max_s = 0.5
[models]
dir = "{models}"
[tiers.encoder]
type = "handler"
handler = "classify_text"
accept = 1.0
[tiers.encoder.options]
labels = {{ alert = {{ description = "a failure that needs an operator" }}, normal = {{ description = "routine" }} }}
[tiers.llm]
type = "handler"
handler = "classify_llm"
[tiers.llm.options]
model = "gemma3-270m"
labels = {{ alert = {{ description = "a failure that needs an operator" }}, normal = {{ description = "routine" }} }}
[routes.logs]
topics = ["llm/#"]
tiers = ["encoder", "llm"]
sinks = ["cloud"]
payload = {{ format = "text" }}
"""
TEXTS = [f"fan {n} turns at {1000 + n} rpm" if n % 2 else f"disk {n} does not answer any more" for n in range(20)]
_PATIENCE_S = 240


def test_a_language_model_corrects_from_the_journal_over_a_kill(tmp_path: Path, mosquitto: Mosquitto) -> None:
    models = demo_models("minilm-int8", "gemma3-270m")
    cloud = CloudProcess(tmp_path)
    name = tmp_path.name.replace("_", "-")[:60]
    text = CONFIG.format(port=mosquitto.port, name=name, cloud=cloud.url, models=models)
    gateway = Gateway(tmp_path / "gateway", text, name=name)

    def finals() -> dict[str, dict[str, object]]:
        stored = [event["data"] for event in cloud.stored().values()]
        return {data["corrects"]: data for data in stored if "corrects" in data}

    try:
        cloud.start()
        gateway.start()
        publish(mosquitto, "llm/a", *TEXTS)
        wait_until(lambda: len(finals()) >= 1, _PATIENCE_S, gateway.describe)
        gateway.kill()
        gateway.start()

        wait_until(lambda: len(finals()) == len(TEXTS), _PATIENCE_S, gateway.describe)
        wait_until(lambda: gateway.n_pending() == 0, _PATIENCE_S, gateway.describe)
        # A stop while a model is being loaded is another test's subject.
        wait_until(
            lambda: gateway.get("/status")["routes"]["logs"]["state"] == "running", _PATIENCE_S, gateway.describe
        )
        assert gateway.stop() == 0
        first = {id_: event["data"] for (_, id_), event in cloud.stored().items() if "corrects" not in event["data"]}
        assert finals().keys() == first.keys()
        assert {data["provisional"] for data in first.values()} == {True}
        assert {data["tier"] for data in finals().values()} == {"llm"}
        assert {data["cause"] for data in finals().values()} <= {"sure", "last"}
        assert {json.dumps(data["asked"]) for data in finals().values()} == {'["encoder", "llm"]'}
        assert gateway.books().balanced
    finally:
        gateway.end()
        cloud.stop()
