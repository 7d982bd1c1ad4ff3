"""Drafts with a real model: measured once at a load, remembered, and of no influence on what is written."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd.config import schema
from gatewayd.runtimes.drafts import PROMPT
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import Load
from gatewayd.runtimes.worker import WorkerTextSession
from tests.sim.models import demo_models

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    pytest.importorskip("xllamacpp")
    model = str(demo_models("gemma3-270m") / "gemma3-270m" / "model.gguf")
    return Load(
        runtime="xllamacpp",
        model_path=model,
        options=TextOptions(context_tokens=512),
        threads=1,
        max_memory_bytes=0,
        scratch_dir="",
        identity="gemma3-270m",
        cache_dir=str(tmp_path / "cache"),
        draft_path=model,  # it may guess for itself: never faster, and always right
        draft_measure_s=180.0,
    )


@pytest.fixture
def session(load: Load) -> Iterator[WorkerTextSession]:
    session = WorkerTextSession("gemma3-270m", lambda: load, schema.Models(worker_start_s=300.0))
    yield session
    session.close()


def test_they_are_measured_at_the_first_load_and_remembered(session: WorkerTextSession, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "drafts.json"
    (first,) = json.loads(path.read_bytes()).values()
    assert set(first["seconds"]) == {"none", "ngram", "model"}
    assert first["kind"] in {"none", "ngram"}
    worker = session._supervisor._worker
    assert worker is not None
    assert worker.ready is not None
    assert (worker.ready.drafts, worker.ready.draft_gain > 0) == (first["kind"], True)
    written = path.stat().st_mtime_ns
    worker.kill()

    assert session.complete(PROMPT, max_tokens=2).tokens_out == 2

    (second,) = json.loads(path.read_bytes()).values()
    assert second["seconds"] == first["seconds"]
    assert path.stat().st_mtime_ns >= written
