"""The openai tier against llama.cpp's own HTTP server, with a real model of 270 million parameters."""

import importlib.util
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gatewayd.cascade.verdict import Question, Refusal, Verdict
from gatewayd.config.tiers import OpenAITier
from tests.sim.models import demo_models
from tests.sim.openai_server import llama_server
from tests.sim.tier_servers import TierRig, asking, question

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(180),
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"),
]

# A base model follows examples better than orders.
INSTRUCTION = (
    "Every log line has one kind.\nA) ok\nB) faulty\n\n"
    "Text:\npump 1 started, pressure normal\n\nThe letter of the answer: A\n\n"
    "Text:\npump 2 stopped: bearing overheated, fire\n\nThe letter of the answer: B\n\n"
    "Text:\nself test passed without complaints\n\nThe letter of the answer: A\n\n"
    "Text:\nvalve is broken and leaks oil\n\nThe letter of the answer: B\n\n"
    "The kinds again:"
)
LABELS = {"ok": "", "faulty": ""}
ASK_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with llama_server(demo_models("gemma3-270m") / "gemma3-270m" / "model.gguf") as url:
        yield url


@pytest.fixture
async def rig(url: str) -> AsyncIterator[TierRig]:
    async with asking(config(url, endpoint="completions")) as rig:
        yield rig


def config(url: str, **options: Any) -> OpenAITier:
    plain = {"model": "gemma3-270m", "labels": LABELS, "instruction": INSTRUCTION, "timeout_s": ASK_TIMEOUT_S}
    return OpenAITier(url=url, **{**plain, "max_batch": 2, **options})


def asked(key: str, text: str) -> Question:
    return question(key, text, labels=("ok", "faulty"))


def verdict(answer: Verdict | Refusal) -> Verdict:
    assert isinstance(answer, Verdict), answer
    return answer


async def test_a_model_scores_the_labels_by_the_probabilities_of_their_letters(rig: TierRig) -> None:
    answers = await rig.client.ask(
        [asked("m-1", "motor burned out, shaft broken"), asked("m-2", "all values normal, test passed")]
    )

    broken, fine = (verdict(answer) for answer in answers)
    assert sum(broken.scores.values()) == pytest.approx(1.0)
    assert broken.scores["faulty"] > fine.scores["faulty"]  # which of them is above one half is the model's business
    assert broken.confidence == max(broken.scores.values()) > 0.5
    assert (broken.tokens_out, broken.tokens_in) == (1, pytest.approx(110, abs=40))
    assert rig.client.budget.spent().n_tokens == sum(each.tokens_in + 1 for each in (broken, fine))


async def test_the_same_question_gets_the_same_scores(rig: TierRig) -> None:
    [first] = await rig.client.ask([asked("m-1", "motor burned out, shaft broken")])
    [again] = await rig.client.ask([asked("m-1", "motor burned out, shaft broken")])

    assert verdict(first).scores == pytest.approx(verdict(again).scores, abs=0.02)


async def test_its_chat_endpoint_tells_probabilities_too(url: str) -> None:
    async with asking(config(url)) as rig:
        [answer] = await rig.client.ask([asked("m-1", "motor burned out, shaft broken")])

    assert sum(verdict(answer).scores.values()) == pytest.approx(1.0)


async def test_a_text_beyond_the_models_context_is_refused_and_the_tier_stays_up(url: str) -> None:
    async with asking(config(url, max_chars=100_000)) as rig:
        answers = await rig.client.ask([asked("m-1", "word " * 5000), asked("m-2", "test passed")])

        assert isinstance(answers[0], Refusal)
        assert answers[0].reason == "refused"
        assert "context" in answers[0].detail
        assert isinstance(answers[1], Verdict)
        assert rig.client.state == "up"
