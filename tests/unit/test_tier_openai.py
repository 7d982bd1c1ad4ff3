"""The openai tier against a simulator: letters, their probabilities, and every server that lacks something."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gatewayd.cascade.verdict import Refusal, Verdict
from gatewayd.config.tiers import OpenAITier
from gatewayd.errors import TierMisconfigured
from tests.sim.openai_server import Form, OpenAIServer
from tests.sim.tier_servers import NEVER, Scripted, TierRig, asking, question, questions

LABELS = {"ok": "works as it should", "faulty": "", "on fire": "smoke or flames"}


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    server = OpenAIServer()
    await server.start()
    yield server
    await server.stop()


def config(server: OpenAIServer, **options: Any) -> OpenAITier:
    return OpenAITier(url=server.url, **{"model": "tiny", "labels": LABELS, "max_batch": 3, **options})


@pytest.fixture
async def rig(server: OpenAIServer) -> AsyncIterator[TierRig]:
    async with asking(config(server)) as rig:
        yield rig


def verdict(answer: Verdict | Refusal) -> Verdict:
    assert isinstance(answer, Verdict), answer
    return answer


async def test_labels_are_offered_as_letters_and_one_token_is_asked_for(server: OpenAIServer, rig: TierRig) -> None:
    await rig.client.ask([question()])

    prompt = (
        "Which of these labels fits the text best?\n\n"
        "A) ok: works as it should\nB) faulty\nC) on fire: smoke or flames\n\n"
        "Text:\nbearing 7 is hot\n\nThe letter of the answer:"
    )
    assert server.requests == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        }
    ]


async def test_probabilities_of_letters_are_the_scores_and_the_rest_is_divided_evenly(
    server: OpenAIServer, rig: TierRig
) -> None:
    server.sure = {"B": 0.6, " B": 0.1, "A": 0.1, "\u2581C)": 0.05, "The": 0.1, "b": 0.01}

    [answer] = await rig.client.ask([question()])

    answer = verdict(answer)
    assert answer.label == "faulty"
    assert answer.scores == pytest.approx({"ok": 0.15, "faulty": 0.75, "on fire": 0.1})
    assert answer.confidence == pytest.approx(0.75)
    assert (answer.model, answer.model_version) == ("tiny", "tiny-2026-01")


async def test_a_model_that_does_not_speak_of_letters_is_not_sure(server: OpenAIServer, rig: TierRig) -> None:
    server.sure = {"The": 0.9, "A": 0.03, "B": 0.001}

    [answer] = await rig.client.ask([question()])

    assert verdict(answer).confidence < 0.37


@pytest.mark.parametrize(
    ("form", "endpoint"), [("chat", "chat"), ("completions", "completions"), ("legacy", "completions")]
)
async def test_every_form_of_probabilities_is_read(server: OpenAIServer, form: Form, endpoint: Any) -> None:
    server.form = form
    async with asking(config(server, endpoint=endpoint)) as rig:
        [answer] = await rig.client.ask([question()])

    assert verdict(answer).scores == pytest.approx(
        {"ok": 0.08 + 0.02 / 3, "faulty": 0.9 + 0.02 / 3, "on fire": 0.02 / 3}
    )
    assert ("prompt" in server.requests[0]) == (endpoint == "completions")


@pytest.mark.parametrize(
    ("written", "label"),
    [("B", "faulty"), (" (C) on fire", "on fire"), ("**A**", "ok"), ("It is Faulty.", "faulty"), ("B)", "faulty")],
)
async def test_without_probabilities_what_is_written_counts_with_one_half(
    server: OpenAIServer, rig: TierRig, written: str, label: str
) -> None:
    server.form, server.written = "none", written

    [answer] = await rig.client.ask([question()])

    assert (verdict(answer).label, verdict(answer).confidence, verdict(answer).scores) == (label, 0.5, {})
    await rig.client.ask([question("m-2")])
    assert "logprobs" not in server.requests[1]
    assert server.requests[1]["max_tokens"] == 8


@pytest.mark.parametrize("written", ["", "Both are faulty and on fire", "I cannot say", "BOTH"])
async def test_what_names_no_label_is_refused(server: OpenAIServer, rig: TierRig, written: str) -> None:
    server.form, server.written = "none", written

    [answer] = await rig.client.ask([question()])

    assert answer == Refusal(reason="unknown_label", detail="what it wrote is neither a letter nor a label")


@pytest.mark.parametrize(
    ("unknown", "endpoint", "left", "n_requests"),
    [
        ({"logprobs"}, "chat", {"model", "messages", "max_tokens", "temperature"}, 2),
        ({"top_logprobs"}, "chat", {"model", "messages", "max_tokens", "temperature"}, 2),
        ({"logprobs"}, "completions", {"model", "prompt", "max_tokens", "temperature"}, 3),  # first fewer of them
        ({"temperature"}, "chat", {"model", "messages", "max_tokens", "logprobs", "top_logprobs"}, 2),
        (
            {"max_tokens", "temperature"},
            "chat",
            {"model", "messages", "max_completion_tokens", "logprobs", "top_logprobs"},
            3,
        ),
    ],
)
async def test_what_a_server_does_not_know_is_left_out_and_not_tried_again(
    server: OpenAIServer, unknown: set[str], endpoint: Any, left: set[str], n_requests: int
) -> None:
    server.unknown = unknown
    async with asking(config(server, endpoint=endpoint, max_calls_per_day=100)) as rig:
        answers = await rig.client.ask([question()])
        await rig.client.ask([question("m-2")])

        assert verdict(answers[0]).label == "faulty"
        assert len(server.requests) == n_requests + 1
        assert set(server.requests[-1]) == left
        assert rig.client.budget.spent().n_calls == 2  # what was objected to cost nothing


async def test_a_server_that_objects_to_the_question_refuses_it(server: OpenAIServer, rig: TierRig) -> None:
    body = '{"error": {"message": "request (5002 tokens) exceeds the available context size (1024 tokens)"}}'
    server.script.append(Scripted(400, body))

    [answer] = await rig.client.ask([question()])

    assert isinstance(answer, Refusal)
    assert answer.reason == "refused"
    assert "exceeds the available context size" in answer.detail


async def test_questions_go_side_by_side_one_a_request(server: OpenAIServer, rig: TierRig) -> None:
    server.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(rig.client.ask(questions(10)))
        while server.n_at_once < 3:
            await asyncio.sleep(0.001)
        server.gate.set()

    assert [verdict(answer).label for answer in asked.result()] == ["faulty"] * 10
    assert (len(server.requests), server.most_at_once) == (10, 3)
    assert all(f"text {index}" in "".join(server.prompts) for index in range(10))


async def test_the_prompts_of_a_tier_differ_in_their_end_alone(server: OpenAIServer, rig: TierRig) -> None:
    await rig.client.ask([question("m-1", "one"), question("m-2", "two")])

    first, second = (prompt.partition("Text:\n") for prompt in server.prompts)
    assert first[0] == second[0]
    assert len(first[0]) > 100


@pytest.mark.parametrize(
    ("value", "text"),
    [("as it is", "as it is"), ({"t": 71.5, "u": [1, 2]}, '{"t":71.5,"u":[1,2]}'), (7, "7"), ("x" * 100, "x" * 20)],
)
async def test_what_is_asked_is_text_and_not_too_long(server: OpenAIServer, value: Any, text: str) -> None:
    async with asking(config(server, max_chars=20)) as rig:
        await rig.client.ask([question(value=value)])

    assert f"Text:\n{text}\n\nThe letter" in server.prompts[0]


async def test_only_the_labels_of_the_question_are_offered(server: OpenAIServer, rig: TierRig) -> None:
    [answer] = await rig.client.ask([question(labels=("on fire", "ok", "unheard of"))])

    assert "A) ok: works as it should\nB) on fire: smoke or flames\n\n" in server.prompts[0]
    assert verdict(answer).label == "on fire"


async def test_a_question_without_two_known_labels_is_not_put(server: OpenAIServer, rig: TierRig) -> None:
    [answer] = await rig.client.ask([question(labels=("ok", "unheard of"))])

    assert answer == Refusal(reason="no_labels", detail="fewer than two of its labels are in tiers.far.labels")
    assert server.requests == []


async def test_tokens_and_money_are_counted(server: OpenAIServer) -> None:
    prices: Mapping[str, float] = {"cost_per_call": 0.001, "cost_per_1k_tokens_in": 0.5, "cost_per_1k_tokens_out": 2.0}
    async with asking(config(server, **prices)) as rig:
        [answer] = await rig.client.ask([question()])

        assert (verdict(answer).tokens_in, verdict(answer).tokens_out) == (40, 1)
        assert verdict(answer).cost == pytest.approx(0.001 + 0.02 + 0.002)
        spent = rig.client.budget.spent()
        assert (spent.n_calls, spent.n_tokens, spent.cost) == (1, 41, pytest.approx(0.023))
        assert rig.report.tokens == (40, 1)


async def test_a_server_that_counts_no_tokens_is_believed_to_take_none(server: OpenAIServer, rig: TierRig) -> None:
    server.usage = None

    [answer] = await rig.client.ask([question()])

    assert verdict(answer).tokens_in == 0


@pytest.mark.parametrize(
    "body", ['{"choices": 1}', '{"object": "list"}', "null", '{"choices": [{"logprobs": {"content": 5}}]}']
)
async def test_what_is_no_completion_refuses_nothing(server: OpenAIServer, rig: TierRig, body: str) -> None:
    server.script.append(Scripted(body=body))

    with pytest.raises(TierMisconfigured):
        await rig.client.ask([question()])


async def test_no_choice_is_no_answer_and_asked_again(server: OpenAIServer, rig: TierRig) -> None:
    server.script.append(Scripted(body='{"choices": []}'))

    [answer] = await rig.client.ask([question()])

    assert verdict(answer).label == "faulty"


async def test_one_that_hangs_takes_the_others_answers_from_nobody(server: OpenAIServer, rig: TierRig) -> None:
    server.fault = lambda asked: NEVER if "text 2" in asked["messages"][0]["content"] else None
    async with asyncio.TaskGroup() as tasks:
        hanging = tasks.create_task(rig.client.ask(questions(3)))
        while rig.report.n_answered < 2 or len(server.requests) < 3:
            await asyncio.sleep(0.001)
        hanging.cancel()
    server.fault = lambda asked: None

    answers = await rig.client.ask(questions(3))

    assert [verdict(answer).label for answer in answers] == ["faulty"] * 3
    assert len(server.requests) == 4


@pytest.mark.parametrize(("base", "query"), [("/v1", ""), ("/v1/", ""), ("/v1", "?api-version=3")])
async def test_the_base_url_is_kept(server: OpenAIServer, base: str, query: str) -> None:
    async with asking(OpenAITier(url=server.root + base + query, model="m", labels=LABELS)) as rig:
        await rig.client.ask([question()])

    assert server.paths == [f"/v1/chat/completions{query}"]
