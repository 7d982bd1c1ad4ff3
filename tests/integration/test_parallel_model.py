"""Windows of a route with `parallel`, decoded side by side by a real language model with as many slots."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from gatewayd.answer import HandlerRunner
from gatewayd.api import Completion
from gatewayd.runtimes.worker import WorkerTextSession
from gatewayd.wiring import build_handlers
from tests.sim.handlers import Scripted
from tests.sim.models import demo_models, gguf_bundle
from tests.sim.stages import stages

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

ROUTE = {
    "handler": "summarize_text",
    "options": {"model": "llm", "timeout_s": 300.0, "max_tokens_out": 32},
    "mode": "auto",
    "parallel": 2,
    "window": {"key": "topic", "max_messages": 3},
}


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first completion of each thread waits until another thread has begun one, and breaks where none does."""
    barrier, thread = threading.Barrier(2, timeout=200), threading.local()
    complete = WorkerTextSession.complete

    def meet(session: WorkerTextSession, prompt: str, **options: Any) -> Completion:
        if not hasattr(thread, "place"):
            thread.place = barrier.wait()
        return complete(session, prompt, **options)

    monkeypatch.setattr(WorkerTextSession, "complete", meet)


@pytest.mark.usefixtures("meeting")
async def test_two_windows_are_summarized_at_the_same_time(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = demo_models("gemma3-270m") / "gemma3-270m" / "model.gguf"
    gguf_bundle(tmp_path / "models", model, "llm", session={"parallel": 2, "context_tokens": 1024})
    models = {"dir": str(tmp_path / "models"), "llm_threads": 1, "llm_draft_measure_s": 0.0}
    async with stages(tmp_path, {"r": Scripted()}, {"r": ROUTE}, started=False, models=models) as rig:
        rig.part().context.runner = HandlerRunner("r", build_handlers(rig.parts.running_config, tmp_path)["r"])
        rig.start()
        for topic in ("t/pump", "t/fan"):
            rig.send("bearing too hot", "stopped by relay K7", "acknowledged", topic=topic)

        async with asyncio.timeout(360):
            while await rig.message_book() != {"received": 6, "handled": 6}:
                await asyncio.sleep(0.05)

        answers = await rig.data()
        assert len(answers) == 2
        assert all(answer["tokens_out"] > 0 for answer in answers)
        assert all(answer["tokens_cached"] >= 0.8 * answer["tokens_in"] for answer in answers)
