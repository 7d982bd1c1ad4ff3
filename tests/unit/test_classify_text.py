"""classify_text: with the real encoder, zero-shot; heads by hand where the numbers matter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gatewayd.api import Batch, ConfigError, Message, ModelError, Rejection
from gatewayd.config import schema
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_text import ClassifyText
from gatewayd_handlers.text_encoder import TextEncoder
from gatewayd_handlers.text_grouping import Plan
from gatewayd_handlers.text_heads import FittedHead
from tests.sim.models import demo_models

LABELS = {
    "fire": {"description": "something burns", "examples": ["smoke in the kitchen"]},
    "water": {"description": "water is leaking", "examples": ["the cellar is flooded"]},
}


@pytest.fixture(scope="session")
def store() -> Iterator[ModelStore]:
    models = ModelStore(demo_models("minilm-int8"), schema.Models())
    yield models
    models.close()


def started(store: ModelStore, **options: Any) -> ClassifyText:
    handler = ClassifyText(msgspec.convert({"labels": LABELS, **options}, ClassifyText.Config))
    handler.start(store)
    return handler


def ask(handler: ClassifyText, *values: Any) -> list[Any]:
    messages = [Message(topic="t", value=value, time=0.0, key=str(i)) for i, value in enumerate(values)]
    answers = handler.handle(Batch(route="r", messages=messages, now=0.0))
    return [a.reason if isinstance(a, Rejection) else a.data for a in answers]


@pytest.mark.model
def test_a_text_gets_the_label_it_means_without_sharing_a_word(store: ModelStore) -> None:
    answers = ask(started(store), "flames on the roof", "a pipe has burst", "flames on the roof")

    assert [answer["label"] for answer in answers] == ["fire", "water", "fire"]
    assert answers[0] == answers[2]
    assert sum(answers[0]["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    assert answers[0]["score"] == answers[0]["scores"]["fire"]
    assert answers[0]["model"] == "minilm-int8"


@pytest.mark.model
def test_an_answer_does_not_depend_on_its_neighbors(store: ModelStore) -> None:
    long = "the report of last night says " * 40 + "flames on the roof"

    handler = started(store, max_measure_ms=10_000)

    alone = ask(started(store, max_measure_ms=0), "flames on the roof")
    among = ask(handler, long, "a pipe has burst", "flames on the roof", "x", "water on the floor")

    assert among[2]["scores"] == pytest.approx(alone[0]["scores"], abs=2e-5)  # float noise
    assert alone[0]["label"] == among[2]["label"]


@pytest.mark.model
def test_groups_of_texts_give_the_vectors_of_texts_alone(store: ModelStore) -> None:
    plan = Plan(why="a batch is faster", max_texts=16, max_tokens=256, call_s=1.0, token_s=0.001)
    alone, together = TextEncoder(store.get("minilm-int8")), TextEncoder(store.get("minilm-int8"))
    together.plan = plan
    texts = [f"pump {'is hot and ' * (index % 5)} broken by {name}" for index, name in enumerate("abcdefghijk")]

    vectors = together.encode(texts)

    assert vectors == pytest.approx(alone.encode(texts), abs=2e-5)
    assert together.calls < alone.calls == len(texts)
    assert together.padding > 0


@pytest.mark.model
def test_vectors_of_another_version_are_forgotten(store: ModelStore) -> None:
    model = Versioned(store.get("minilm-int8"))
    encoder = TextEncoder(model)

    encoder.encode(["a pipe has burst"])
    model.version = "2"
    encoder.encode(["a pipe has burst"])

    assert (encoder.hits, encoder.misses) == (0, 2)


class Versioned:
    """A model whose version can be changed, as by a reload."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.version = "1"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.model
def test_what_the_cache_saved_is_told(store: ModelStore) -> None:
    handler = started(store)
    assert handler.stats()["cache_hits_total"] == 0

    ask(handler, "pump 1 leaks", "pump 2 leaks", "pump 3 leaks")

    stats = handler.stats()
    assert stats["cache_hits_total"] == 2
    assert stats["cached_texts"] == 5  # this one and four of the labels


@pytest.mark.model
def test_vectors_follow_the_recipe_of_the_model_card(store: ModelStore) -> None:
    encode = ClassifyText.encoder(store, "minilm-int8", mask_numbers=False)

    vectors = encode(["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."])

    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.6 > 0.2 > far  # the float model says 0.755 and 0.001


@pytest.mark.model
def test_equal_texts_and_lines_of_one_statement_cost_one_run(store: ModelStore) -> None:
    handler = started(store)
    before = handler.encoder_misses

    ask(handler, "pump 1 at 0x1f leaks", "pump 2 at 0xaa01 leaks", "pump 1 at 0x1f leaks")

    assert handler.encoder_misses - before == 1
    assert handler.encoder_hits == 2


@pytest.mark.model
def test_numbers_count_when_they_are_not_masked(store: ModelStore) -> None:
    handler = started(store, mask_numbers=False, max_cached_texts=0)
    before = handler.encoder_misses

    ask(handler, "pump 1", "pump 2")
    ask(handler, "pump 1")

    assert handler.encoder_misses - before == 3


@pytest.mark.model
def test_an_unsure_answer_is_unknown_and_its_scores_stay(store: ModelStore) -> None:
    answer = ask(started(store, min_score=1.0), "the invoice was paid")[0]

    assert answer["label"] == "unknown"
    assert set(answer["scores"]) == {"fire", "water"}


@pytest.mark.model
def test_what_is_no_text_is_rejected_and_its_neighbors_are_not(store: ModelStore) -> None:
    handler = started(store, field="log.message")

    answers = ask(
        handler, {"log": {"message": "flames"}}, {"log": {"message": 7}}, {"log": 1}, {"log": {"message": ""}}
    )

    assert answers[0]["label"] == "fire"
    assert answers[1:] == ["not_text", "missing_field", "empty_text"]
    assert ask(handler) == []


@pytest.mark.model
def test_a_huge_text_is_cut_before_it_is_read(store: ModelStore) -> None:
    handler = started(store, max_chars=100)

    short, huge = ask(handler, "flames " * 100, "flames " * 100_000)

    assert short == huge
    assert handler.encoder_hits == 1


@pytest.mark.parametrize("options", [{}, {"labels": LABELS, "head": "h"}, {"labels": {"a": {"description": "x"}}}])
def test_options_that_leave_no_choice_or_two_ways_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ClassifyText(msgspec.convert(options, ClassifyText.Config))


class Bundle:
    """A model whose head says what it is told: vectors [n, 2] are the probabilities."""

    name, version, labels = "head", "3", ["alert", "normal"]
    outputs = ("probabilities",)

    def __init__(self, path: Path, **tables: Any) -> None:
        self.input: dict[str, Any] = tables.get("input", {})
        self.calibration: dict[str, Any] = tables.get("calibration", {})
        self._path = path

    def file(self, role: str) -> str:
        return str(self._path)

    def tensors(self) -> Any:
        return self

    def run(self, arrays: Any) -> Any:
        return {"probabilities": arrays["embedding"]}


DIGEST = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256 of "hello"


def test_the_positive_label_wins_from_its_threshold_on(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("hello")
    encoder = Bundle(tmp_path / "model")
    calibration = {"positive": "alert", "threshold": 0.25}
    head = FittedHead(Bundle(tmp_path / "model", input={"encoder_sha256": DIGEST}, calibration=calibration), encoder)

    judged = head.judge(np.array([[0.25, 0.75], [0.24, 0.76], [0.9, 0.1]], dtype=np.float32))

    assert [judgment.label for judgment in judged] == ["alert", "normal", "alert"]


def test_a_head_of_another_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("hello!")
    other = Bundle(tmp_path / "model", input={"encoder": "minilm", "encoder_sha256": DIGEST})

    with pytest.raises(ModelError, match="fit it again"):
        FittedHead(other, Bundle(tmp_path / "model"))
