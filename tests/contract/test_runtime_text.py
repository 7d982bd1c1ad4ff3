"""What every runtime of language models must do, asked of each through a real worker with a real model."""

import importlib.util
import json
import threading
from collections.abc import Iterator

import pytest

from gatewayd import api
from gatewayd.config import schema
from gatewayd.errors import RejectedError, TransientError
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import Load
from gatewayd.runtimes.worker import WorkerTextSession
from tests.sim.models import demo_models

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

EXAMPLES = (
    "Log lines and their level, as JSON.\n\n"
    'Line: pump-1 started without complaints after the service of this morning\n{"level": "info"}\n\n'
    'Line: pump-2 stopped because its bearing was overheated for a quarter of an hour\n{"level": "error"}\n\n'
)
SCHEMA = {
    "type": "object",
    "properties": {"level": {"enum": ["info", "warning", "error"]}},
    "required": ["level"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["xllamacpp", "llama_cpp"])
def session(request: pytest.FixtureRequest) -> Iterator[WorkerTextSession]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"the runtime {request.param} is not installed")
    load = Load(
        runtime=request.param,
        model_path=str(demo_models("gemma3-270m") / "gemma3-270m" / "model.gguf"),
        options=TextOptions(context_tokens=512, parallel=2),
        threads=1,
        max_memory_bytes=0,
        scratch_dir="",
    )
    session = WorkerTextSession("gemma3-270m", lambda: load, schema.Models())
    yield session
    session.close()


def test_it_is_a_text_session(session: WorkerTextSession) -> None:
    assert isinstance(session, api.TextSession)
    assert session.context_tokens == 512


def test_tokens_are_counted_as_a_prompt_takes_them(session: WorkerTextSession) -> None:
    completion = session.complete(EXAMPLES, max_tokens=1)

    assert session.count_tokens(EXAMPLES) == completion.tokens_in


def test_an_answer_ends_with_its_budget(session: WorkerTextSession) -> None:
    completion = session.complete("One, two, three, four,", max_tokens=6)

    assert (completion.finish, completion.tokens_out) == ("length", 6)


def test_an_answer_ends_before_a_stop_text(session: WorkerTextSession) -> None:
    completion = session.complete("One, two, three, four, five,", max_tokens=30, stop=[" seven"])

    assert completion.finish == "stop"
    assert "six" in completion.text
    assert "seven" not in completion.text


def test_the_same_call_gets_the_same_answer(session: WorkerTextSession) -> None:
    answers = {session.complete(EXAMPLES, max_tokens=12, temperature=0.0, seed=7).text for _ in range(3)}

    assert len(answers) == 1


def test_a_schema_binds_the_answer(session: WorkerTextSession) -> None:
    prompt = EXAMPLES + "Line: the door of the cabinet is open\n"

    completion = session.complete(prompt, max_tokens=40, json_schema=SCHEMA)

    assert completion.finish == "stop"
    answer = json.loads(completion.text)
    assert list(answer) == ["level"]
    assert answer["level"] in {"info", "warning", "error"}


def test_a_schema_binds_what_the_model_would_never_write(session: WorkerTextSession) -> None:
    odd = {**SCHEMA, "properties": {"zzyzx": {"const": 41}}, "required": ["zzyzx"]}

    completion = session.complete("Once upon a time", max_tokens=40, json_schema=odd)

    assert json.loads(completion.text) == {"zzyzx": 41}


def test_a_grammar_binds_the_answer(session: WorkerTextSession) -> None:
    completion = session.complete("The weather is", max_tokens=20, grammar='root ::= "blue" | "green"')

    assert completion.text in {"blue", "green"}


@pytest.mark.parametrize(
    "binding",
    [{"json_schema": {"type": "nonsense"}}, {"json_schema": {"$ref": "#/nowhere"}}, {"grammar": "root ::= (("}],
)
def test_a_form_that_cannot_be_used_is_rejected_never_dropped(session: WorkerTextSession, binding: dict) -> None:
    with pytest.raises(RejectedError) as caught:
        session.complete("The weather is", max_tokens=5, **binding)

    assert caught.value.reason == "grammar"


def test_a_prompt_beyond_the_context_is_rejected(session: WorkerTextSession) -> None:
    with pytest.raises(RejectedError) as caught:
        session.complete("word " * 600, max_tokens=5)

    assert caught.value.reason == "context"


def test_the_static_part_of_a_prompt_is_computed_once(session: WorkerTextSession) -> None:
    session.complete(EXAMPLES + "Line: fan-3 is noisy\n", max_tokens=4)

    second = session.complete(EXAMPLES + "Line: valve-9 reports nothing for an hour\n", max_tokens=4)

    static_tokens = session.count_tokens(EXAMPLES)
    assert second.tokens_cached >= static_tokens - 2  # the last may join with what follows
    assert second.tokens_cached < second.tokens_in


def test_a_late_answer_is_transient_and_the_worker_stays(session: WorkerTextSession) -> None:
    pid = session.pid

    with pytest.raises(TransientError) as caught:
        session.complete("One, two, three,", max_tokens=450, timeout_s=0.2)

    assert "time-out" in str(caught.value)
    assert session.complete("One, two,", max_tokens=2).tokens_out == 2
    assert session.pid == pid


def test_threads_that_call_at_once_get_their_own_answers(session: WorkerTextSession) -> None:
    answers: dict[str, str] = {}

    def call(color: str) -> None:
        answers[color] = session.complete(f"{color} is", max_tokens=10, grammar=f'root ::= " {color}"').text

    threads = [threading.Thread(target=call, args=[color]) for color in ("red", "blue", "green", "black")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert answers == {color: f" {color}" for color in ("red", "blue", "green", "black")}


def test_unicode_goes_there_and_back(session: WorkerTextSession) -> None:
    completion = session.complete("Grüße: ", max_tokens=20, grammar='root ::= "Überdruck ≥ 5 bar 🚰"')

    assert completion.text == "Überdruck ≥ 5 bar 🚰"


def test_labels_share_one_and_the_likeliest_is_the_one_that_goes_on(session: WorkerTextSession) -> None:
    found = session.label_scores("One, two, three,", [" four", " eleven hundred", " purple"])

    assert list(found.scores) == [" four", " eleven hundred", " purple"]
    assert sum(found.scores.values()) == pytest.approx(1.0)
    assert found.scores[" four"] > 0.9
    assert found.tokens_in == session.count_tokens("One, two, three,")


def test_how_two_labels_compare_does_not_depend_on_a_third(session: WorkerTextSession) -> None:
    prompt = EXAMPLES + 'Line: the door is open\n{"level": "'

    two = session.label_scores(prompt, ["info", "error"]).scores
    three = session.label_scores(prompt, ["warning sign", "error", "info"]).scores

    assert two["info"] / two["error"] == pytest.approx(three["info"] / three["error"], rel=0.02)


def test_labels_the_model_would_never_write_are_scored_too(session: WorkerTextSession) -> None:
    found = session.label_scores("One, two, three,", ["\U0001f6b0 qzx", " zzyzx 41"])

    assert sum(found.scores.values()) == pytest.approx(1.0)
    assert all(0 <= score <= 1 for score in found.scores.values())


def test_a_label_that_begins_another_is_rejected(session: WorkerTextSession) -> None:
    with pytest.raises(RejectedError) as caught:
        session.label_scores("The level is", [" error", " error 5"])

    assert caught.value.reason == "labels"


def test_labels_after_a_prompt_beyond_the_context_are_rejected(session: WorkerTextSession) -> None:
    with pytest.raises(RejectedError) as caught:
        session.label_scores("word " * 600, [" a", " b"])

    assert caught.value.reason == "context"


def test_labels_that_come_too_late_are_transient(session: WorkerTextSession) -> None:
    with pytest.raises(TransientError):
        session.label_scores("word " * 300, [" a", " b"], timeout_s=0.0)


def test_what_was_done_is_counted(session: WorkerTextSession) -> None:
    before = session.stats()

    completion = session.complete("One, two,", max_tokens=3)

    after = session.stats()
    assert after["calls"] - before.get("calls", 0) == 1
    assert after["tokens_out"] - before.get("tokens_out", 0) == completion.tokens_out
    assert after["resident_bytes"] > 100_000_000
