"""summarize_text: what the model may write, what becomes of it, and what happens when it cannot."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from gatewayd.api import Batch, Completion, Message, ModelError, Rejection, TransientError, Window, WorkerCrashed
from gatewayd.config import schema
from gatewayd.models.store import ModelStore
from gatewayd_handlers.summarize_text import Options, SummarizeText
from gatewayd_handlers.summary_form import check
from gatewayd_handlers.summary_prompt import EXAMPLES, static_part
from tests.sim.models import demo_models

GOOD = '{"headline": "Pump pump-3 failed 2 times", "what_happened": "The pump pump-3 failed 2 times. It runs again."}'


class ScriptedSession:
    """A TextSession that answers from a script: texts are written, errors are raised."""

    def __init__(self, *script: str | Exception, context_tokens: int = 4096, tokens_a_line: int = 0) -> None:
        self.script = list(script)
        self.tokens_a_line = tokens_a_line  # of a digest; 0: three letters are a token
        self.timeouts_s: list[float] = []
        self.prompts: list[str] = []
        self.context_tokens = context_tokens

    def count_tokens(self, text: str) -> int:
        return text.count("\n- ") * self.tokens_a_line or len(text) // 3

    def keep_prefix(self, text: str) -> None:
        self.kept = text

    def complete(self, prompt: str, *, max_tokens: int, timeout_s: float, **_: Any) -> Completion:
        self.prompts.append(prompt)
        self.timeouts_s.append(timeout_s)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return Completion(text=step, tokens_in=len(prompt) // 3, tokens_out=10, tokens_cached=5)


class Box:
    """Models with one language model, which may be missing for a while."""

    name, version = "scripted", "7"

    def __init__(self, session: ScriptedSession, *, missing: int = 0) -> None:
        self.session = session
        self.missing = missing

    def get(self, name: str) -> Any:
        if self.missing:
            self.missing -= 1
            raise ModelError("no such model")
        return self

    def text(self) -> ScriptedSession:
        return self.session


def started(session: ScriptedSession, *, missing: int = 0, **options: Any) -> SummarizeText:
    handler = SummarizeText(msgspec.convert({"model": "scripted", **options}, Options))
    handler.start(Box(session, missing=missing))
    return handler


SHORT = {"digest": ["1x all fine"], "headline": "All is fine", "what_happened": "All is fine."}
TEXTS = ("pump-3 failed: pressure 7", "pump-3 failed: pressure 9", "pump-3 runs", "valve_2 open")


def window(*values: Any, now: float = 3600.0) -> Batch:
    messages = [Message(topic=f"plant/{i}", value=v, time=float(i), key=str(i)) for i, v in enumerate(values or TEXTS)]
    return Batch(route="r", messages=messages, now=now, window=Window(key="", start=0.0, end=3600.0))


def data(handler: SummarizeText, batch: Batch | None = None) -> Any:
    result = handler.handle(batch or window())[0]
    check(result.data["summary"])
    return result.data


def test_a_grounded_answer_becomes_the_summary_and_counts_are_facts() -> None:
    answer = data(started(ScriptedSession(GOOD)))

    assert answer["method"] == "model"
    assert answer["summary"] == {
        "headline": "Pump pump-3 failed 2 times",
        "what_happened": "The pump pump-3 failed 2 times. It runs again.",
        "severity": "warning",
        "devices": ["pump-3", "valve_2"],
        "counts": [
            {"what": "pump-* failed: pressure *", "n": 2},
            {"what": "pump-3 runs", "n": 1},
            {"what": "valve_2 open", "n": 1},
        ],
    }
    assert (answer["messages"], answer["window_start"], answer["window_end"]) == (4, 0.0, 3600.0)
    assert (answer["model"], answer["model_version"], answer["provisional"], answer["unsupported"]) == (
        "scripted",
        "7",
        False,
        [],
    )


def test_the_prompt_begins_alike_for_every_window() -> None:
    session = ScriptedSession(GOOD, GOOD)
    handler = started(session)

    handler.handle(window())
    handler.handle(window("quite another text"))

    static = static_part(EXAMPLES, "")
    assert all(prompt.startswith(static) for prompt in session.prompts)
    assert "quite another text" in session.prompts[1][len(static) :]


@pytest.mark.parametrize(
    ("headline", "invented"),
    [
        ("Door door-7 failed", "door-7"),
        ("Pump failed 41 times", "41"),
        ("Compressor sensor failed", "Compressor"),
        ("Pump crashed", "crash"),
    ],
)
def test_what_the_window_does_not_say_is_found_out(headline: str, invented: str) -> None:
    said = f'{{"headline": "{headline}", "what_happened": "The pump failed."}}'

    answer = data(started(ScriptedSession(said)))

    assert invented in [span["text"] for span in answer["unsupported"]]
    assert (answer["method"], answer["reason"], answer["provisional"]) == ("extractive", "ungrounded", False)
    assert answer["summary"]["headline"].startswith("2 times: pump-")


def test_a_sentence_that_invents_is_left_out_and_the_others_stay() -> None:
    said = '{"headline": "Pump failed", "what_happened": "The pump failed. Door door-7 was open."}'

    answer = data(started(ScriptedSession(said)))

    assert answer["method"] == "model"
    assert answer["summary"]["what_happened"] == "The pump failed."
    assert answer["unsupported"] == [{"field": "what_happened", "start": 22, "end": 28, "text": "door-7"}]


def test_an_invention_can_be_kept_and_marked() -> None:
    said = '{"headline": "Door door-7 failed", "what_happened": "The pump failed."}'

    answer = data(started(ScriptedSession(said), ungrounded="mark"))

    assert answer["method"] == "model"
    assert answer["unsupported"] == [{"field": "headline", "start": 5, "end": 11, "text": "door-7"}]
    assert answer["summary"]["headline"] == "Door door-7 failed"


def test_an_answer_that_was_cut_off_is_asked_for_once_more_and_both_are_counted() -> None:
    answer = data(started(ScriptedSession(GOOD[:40], GOOD)))

    assert answer["method"] == "model"
    assert (answer["tokens_out"], answer["tokens_cached"]) == (20, 10)


def test_two_answers_cut_off_quote_the_window() -> None:
    answer = data(started(ScriptedSession(GOOD[:40], GOOD[:30])))

    assert (answer["method"], answer["reason"], answer["provisional"]) == ("extractive", "cut_off", False)


def test_a_crash_is_followed_by_one_more_attempt() -> None:
    answer = data(started(ScriptedSession(WorkerCrashed("gone"), GOOD)))

    assert answer["method"] == "model"


@pytest.mark.parametrize(
    ("script", "reason", "asked"),
    [
        ([WorkerCrashed("gone"), WorkerCrashed("gone")], "worker_crashed", 2),
        ([TransientError("slow")], "timeout", 1),
        ([ModelError("damaged")], "model_error", 1),
    ],
)
def test_a_model_that_cannot_answer_gives_a_provisional_quote(script: list[Exception], reason: str, asked: int) -> None:
    session = ScriptedSession(*script)
    handler = started(session)

    answer = data(handler)

    assert (answer["method"], answer["reason"], answer["provisional"]) == ("extractive", reason, True)
    assert len(session.prompts) == asked
    assert handler.summaries == {reason: 1}


def test_a_missing_model_is_looked_for_again_later_and_not_for_every_window() -> None:
    handler = started(ScriptedSession(GOOD), missing=2, retry_model_s=60.0)

    assert data(handler, window(now=0.0))["reason"] == "model_error"
    assert data(handler, window(now=59.0))["reason"] == "model_error"
    assert data(handler, window(now=60.0))["method"] == "model"


def test_a_required_model_that_is_missing_stops_the_start() -> None:
    with pytest.raises(ModelError):
        started(ScriptedSession(), missing=1, require_model=True)


def test_without_a_model_the_window_is_quoted_for_good() -> None:
    answer = data(started(ScriptedSession(), model=""))

    assert (answer["method"], answer["reason"], answer["provisional"]) == ("extractive", "no_model", False)


def test_a_context_too_small_for_the_prompt_quotes_the_window() -> None:
    answer = data(started(ScriptedSession(context_tokens=200)))

    assert answer["reason"] == "prompt_too_long"


def test_messages_without_text_are_rejected_and_the_others_summarized() -> None:
    handler = started(ScriptedSession(GOOD), field="log.message")

    answers = handler.handle(window({"log": {"message": TEXTS[0]}}, {"log": {}}, 5, {"log": {"message": " "}}))

    assert [a.reason for a in answers if isinstance(a, Rejection)] == ["missing_field", "missing_field", "empty_text"]
    assert answers[0].data["messages"] == 1
    assert handler.handle(window(7))[0].reason == "missing_field"


MANY = tuple(f"{name} sensor failed: no signal" for name in ("boiler", "fan", "kiln", "lamp", "mill", "oven", "press"))


def told(headline: str) -> str:
    return f'{{"headline": "{headline}", "what_happened": "{headline} with no signal."}}'


def test_what_does_not_fit_one_prompt_is_reported_in_parts_and_then_as_a_whole() -> None:
    names = ("Boiler", "Lamp", "Oven", "Sensors")
    session = ScriptedSession(*(told(f"{name} failed") for name in names), tokens_a_line=100)
    handler = started(session, max_prompt_tokens=400, max_lines=50, examples=[SHORT])

    answer = data(handler, window(*MANY))

    assert answer["summary"]["headline"] == "Sensors failed"
    assert (answer["method"], answer["parts"], answer["tokens_out"]) == ("model", 3, 40)
    assert all(f"{name} failed with no signal." in session.prompts[-1] for name in names[:-1])
    digests = [{name for name in MANY if name in prompt} for prompt in session.prompts[:-1]]
    assert set.union(*digests) == set(MANY)
    assert all(len(first & second) == 1 for first, second in pairwise(digests))
    assert handler.stats()["summarized_parts_total"] == 3


def test_no_more_parts_are_reported_than_allowed_and_the_first_are_what_matters_most() -> None:
    session = ScriptedSession(*(told(f"{name} failed") for name in ("Pump", "Boiler", "Both")), tokens_a_line=100)
    handler = started(session, max_prompt_tokens=400, max_lines=50, max_parts=2, examples=[SHORT])

    answer = data(handler, window(*MANY, "pump on fire: no signal, failed"))

    assert answer["parts"] == 2
    assert "pump on fire" in session.prompts[0]
    assert len(session.prompts) == 3


@pytest.mark.parametrize(
    "script",
    [
        [told("Boiler failed"), TransientError("slow")],
        [told("Boiler failed"), told("Lamp failed"), told("Oven failed"), TransientError("slow")],
        [told("Boiler failed"), told("Lamp failed"), told("Oven failed"), told("Door-7 failed")],
        [told("Boiler failed"), told("Lamp failed"), told("Oven failed"), "{", "{"],
        [told("Boiler failed"), "{", "{", told("Door-7 failed")],
    ],
    ids=["a part takes too long", "the whole takes too long", "the whole invents", "it is cut off", "no other part"],
)
def test_whatever_goes_wrong_after_the_first_part_that_is_the_summary(script: list[str | Exception]) -> None:
    handler = started(
        ScriptedSession(*script, tokens_a_line=100), max_prompt_tokens=400, max_lines=50, examples=[SHORT]
    )

    answer = data(handler, window(*MANY))

    assert (answer["summary"]["headline"], answer["method"], answer["parts"]) == ("Boiler failed", "model", 1)


def test_the_time_for_a_window_is_divided_over_its_parts() -> None:
    session = ScriptedSession(
        *(told(f"{name} failed") for name in ("Boiler", "Lamp", "Oven", "All")), tokens_a_line=100
    )

    data(started(session, max_prompt_tokens=400, max_lines=50, timeout_s=100.0, examples=[SHORT]), window(*MANY))

    assert [round(each) for each in session.timeouts_s] == [25, 33, 50, 100]  # a fourth of it, a third of what is left


def test_a_headline_is_carried_to_the_devices_next_window_and_is_no_source() -> None:
    session = ScriptedSession(told("Boiler failed"), told("Boiler failed"), told("Lamp on"))
    handler = started(session, carry=True)

    first = data(handler, window("boiler failed with no signal"))
    second = data(handler, window("lamp on with no signal"))
    other = Window(key="other", start=0.0, end=3600.0)
    handler.handle(msgspec.structs.replace(window("lamp on with no signal"), window=other))

    assert first["method"] == "model"
    assert "for context only: Boiler failed\n" in session.prompts[1]
    assert second["reason"] == "ungrounded"
    assert "Boiler" in [span["text"] for span in second["unsupported"]]
    assert "context" not in session.prompts[2]
    assert handler.stats()["carried_headlines"] == 2


def test_nothing_is_carried_unless_that_is_asked_for() -> None:
    session = ScriptedSession(GOOD, GOOD)
    handler = started(session)

    handler.handle(window())
    handler.handle(window())

    assert "context" not in session.prompts[1]


def test_what_was_never_said_before_comes_first() -> None:
    handler = started(ScriptedSession(), model="")
    usual = ("door open in hall", "door open in hall", "door shut in yard")

    first = data(handler, window(*usual))
    second = data(handler, window(*usual, "boat seen at sea"))

    assert first["summary"]["headline"] == "2 times: door open in hall"
    assert second["summary"]["headline"] == "boat seen at sea"


@pytest.mark.parametrize("piece", ["x", "1.", "a-", "1,111,", " 1"])
def test_a_text_of_any_form_is_summarized_and_checked_in_linear_time(piece: str) -> None:
    answer = data(started(ScriptedSession(GOOD)), window(piece * (300_000 // len(piece)), TEXTS[0]))

    assert answer["messages"] == 2


@pytest.fixture(scope="module")
def gemma() -> Iterator[Any]:
    store = ModelStore(demo_models("gemma3-270m"), schema.Models())
    yield store
    store.close()


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_model_summarizes_within_the_form_and_reuses_the_static_part(gemma: Any) -> None:
    handler = SummarizeText(Options(model="gemma3-270m"))
    handler.start(gemma)

    first, second = data(handler), data(handler, window("freezer-2 temperature high: -3 C", "freezer-2 door open"))

    assert first["reason"] in {"", "ungrounded"}
    assert 0 < first["tokens_out"] <= 320
    assert second["tokens_cached"] > 200


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_model_reports_a_long_window_in_parts_within_its_time(gemma: Any) -> None:
    handler = SummarizeText(Options(model="gemma3-270m", max_prompt_tokens=350, max_lines=40, max_parts=3))
    handler.start(gemma)

    answer = data(handler, window(*MANY))

    assert answer["reason"] in {"", "ungrounded"}
    assert answer["parts"] >= 1
    assert answer["tokens_in"] > 700  # three prompts were read, or more
