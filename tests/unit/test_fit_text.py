"""fit --text: what is learned, on what it is judged, and that the handler answers as the report says."""

import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gatewayd.api import Batch, Message
from gatewayd.config import schema
from gatewayd.errors import ConfigError
from gatewayd.models.fit_text import fit_text
from gatewayd.models.store import ModelStore
from gatewayd.models.write import write_bundle
from gatewayd_handlers.classify_text import ClassifyText
from tests.sim.models import demo_models

N_DIMENSIONS = 8


def encode(texts: Any) -> Any:
    """Vectors for tests: some words have directions of their own, the rest is noise of the text."""
    rows = []
    for text in texts:
        row = np.random.default_rng(zlib.crc32(text.encode())).normal(scale=0.2, size=N_DIMENSIONS)
        row[:3] += [2.0 * (word in text) for word in ("bad", "odd", "fine")]
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, dtype=np.float32)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_bundle(
        tmp_path, name="enc", version="1", runtime="onnx", task="text-embedding", files={"model": b"weights"}
    )


def rows(n: int) -> list[dict[str, str]]:
    words = {"bad": "alert", "odd": "odd", "fine": "normal"}
    return [{"text": f"{word} thing {'x' * i}", "label": label} for i in range(n) for word, label in words.items()]


def ndjson(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_labels_that_can_be_told_apart_are_on_texts_never_fitted_on(tmp_path: Path, encoder: Path) -> None:
    file = ndjson(tmp_path / "a.ndjson", rows(12))

    report = fit_text([file], tmp_path / "out", name="head", encoder=encoder, encode=encode)

    assert report.labels == ("alert", "normal", "odd")
    assert (report.n_texts, report.n_statements, report.n_folds) == (36, 36, 5)
    assert all(figures.f1 > 0.9 for figures in report.figures.values())


def test_repetitions_do_not_make_an_unlearnable_label_look_learned(tmp_path: Path, encoder: Path) -> None:
    draw = np.random.default_rng(0)
    labels = ["alert", "normal"] * 10
    lines = [{"text": f"thing {draw.integers(1 << 30)} {i}", "label": label} for i, label in enumerate(labels)]
    file = ndjson(tmp_path / "a.ndjson", lines * 50)

    report = fit_text([file], tmp_path / "out", name="head", encoder=encoder, encode=encode)

    assert report.n_statements == 20
    assert report.figures["normal"].f1 < 0.8  # a split by lines would say 1.0: every text stands on both sides


def test_csv_and_ndjson_say_the_same(tmp_path: Path, encoder: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("message,class\n" + "".join(f'"{r["text"]}",{r["label"]}\n' for r in rows(6)))
    lines = ndjson(tmp_path / "a.ndjson", [{"message": r["text"], "class": r["label"]} for r in rows(6)])
    options: dict[str, Any] = {"encoder": encoder, "encode": encode, "text_column": "message", "label_column": "class"}

    first = fit_text([table], tmp_path / "out", name="head", **options)
    one = (first.folder / "model.onnx").read_bytes()
    second = fit_text([lines], tmp_path / "out", name="head", **options)

    assert first == second
    assert one == (second.folder / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], "two labels"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], "one kind of text"),
        ([{"text": "a"}], "row 1"),
        ([{"text": "a", "label": 3}], "row 1"),
    ],
)
def test_files_that_cannot_be_fitted_on_say_why(
    tmp_path: Path, encoder: Path, lines: list[dict[str, Any]], problem: str
) -> None:
    file = ndjson(tmp_path / "a.ndjson", lines)

    with pytest.raises(ConfigError, match=problem):
        fit_text([file], tmp_path / "out", name="head", encoder=encoder, encode=encode)


@pytest.mark.parametrize(("name", "content"), [("a.ndjson", b"{"), ("a.ndjson", b"\xff"), ("none.csv", None)])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, encoder: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=name):
        fit_text([tmp_path / name], tmp_path / "out", name="head", encoder=encoder, encode=encode)


@pytest.mark.model
def test_a_fitted_head_answers_in_the_handler(tmp_path: Path) -> None:
    models = demo_models("minilm-int8")
    words = {
        "fire": ["smoke in the hall", "the shed burns", "flames above the stove", "a fire in room 4"],
        "water": ["the cellar is flooded", "a pipe has burst", "water drips from the wall", "the tank leaks"],
    }
    file = ndjson(tmp_path / "a.ndjson", [{"text": t, "label": label} for label, texts in words.items() for t in texts])
    (tmp_path / "minilm-int8").symlink_to(models / "minilm-int8")
    store = ModelStore(tmp_path, schema.Models())
    real = ClassifyText.encoder(store, "minilm-int8")
    fit_text([file], tmp_path, name="wet", encoder=models / "minilm-int8", encode=real, version="2")
    handler = ClassifyText(msgspec.convert({"head": "wet"}, ClassifyText.Config))
    handler.start(store)

    texts = ["the roof is on fire", "the floor is under water"]
    messages = [Message(topic="t", value=text, time=0.0, key=text) for text in texts]
    answers = handler.handle(Batch(route="r", messages=messages, now=0.0))

    assert [answer.data["label"] for answer in answers] == ["fire", "water"]
    assert [(a.data["model"], a.data["model_version"]) for a in answers] == [("wet", "2")] * 2
    store.close()
