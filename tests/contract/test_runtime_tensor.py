"""What every runtime of tensor models must do; today that is ONNX Runtime."""

import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from gatewayd import api
from gatewayd.config import schema
from gatewayd.errors import ModelError, RejectedError, TransientError
from gatewayd.models.store import ModelStore
from tests.sim.models import affine_onnx, demo_models, mlp_onnx, onnx_bundle


@pytest.fixture
def session(tmp_path: Path) -> api.TensorSession:
    onnx_bundle(tmp_path, affine_onnx([[1, 2], [3, 4]], [10, 20]))
    return ModelStore(tmp_path, schema.Models()).get("tiny").tensors()


def test_it_is_a_tensor_session(session: api.TensorSession) -> None:
    assert isinstance(session, api.TensorSession)


def test_the_batch_may_have_any_length(session: api.TensorSession) -> None:
    for n_rows in (1, 2, 7, 0):
        answers = session.run({"x": np.ones((n_rows, 2), np.float32)})
        assert answers["y"].tolist() == [[14, 26]] * n_rows


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.ones((1, 3), np.float32)},
        {"x": np.ones((1, 2), np.float64)},
        {"x": np.ones(2, np.float32)},
        {"x": np.array([["a", "b"]])},
        {"z": np.ones((1, 2), np.float32)},
        {"x": np.ones((1, 2), np.float32), "more": np.ones(1, np.float32)},
        {"x": None},
        {"x": "text"},
        {},
    ],
)
def test_an_input_the_model_does_not_take_is_rejected_and_the_next_one_is_answered(
    session: api.TensorSession, arrays: dict[str, object]
) -> None:
    with pytest.raises(RejectedError) as caught:
        session.run(arrays)

    assert caught.value.reason == "model_input"
    assert session.run({"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[10, 20]]


@pytest.mark.parametrize(
    "content", [b"", b"not a model at all, 37 bytes of prose", mlp_onnx()[:-200], b"\x08\x08" * 99]
)
def test_a_file_that_is_no_model_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    onnx_bundle(tmp_path, content)
    events: list[tuple[str, str]] = []
    store = ModelStore(tmp_path, schema.Models(), lambda *event: events.append(event))

    with pytest.raises(ModelError, match='model "tiny"'):
        store.get("tiny").tensors()

    assert events == [("tiny", "load_failed")]


def test_a_provider_this_box_lacks_is_passed_over(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, mlp_onnx(), session={"providers": ["NoSuchExecutionProvider"], "threads": 2})

    session = ModelStore(tmp_path, schema.Models()).get("tiny").tensors()

    assert session.run({"x": np.zeros((3, 32), np.float32)})["probabilities"].shape == (3, 3)


def test_threads_that_call_at_once_get_their_own_answers(session: api.TensorSession) -> None:
    wrong: list[object] = []
    together = threading.Barrier(4)

    def call(value: int) -> None:
        together.wait(10)
        for _ in range(200):
            answer = session.run({"x": np.full((1, 2), value, np.float32)})["y"].tolist()
            if answer != [[10 + 4 * value, 20 + 6 * value]]:
                wrong.append(answer)

    threads = [threading.Thread(target=call, args=[value]) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert wrong == []


def test_the_store_counts_the_calls_of_a_session(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, mlp_onnx())
    store = ModelStore(tmp_path, schema.Models())
    session = store.get("tiny").tensors()
    for _ in range(3):
        session.run({"x": np.zeros((1, 32), np.float32)})

    assert store.stats()["tiny"]["calls"] == 3.0


@pytest.mark.model
def test_sentences_of_like_meaning_get_like_vectors() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = ModelStore(demo_models("minilm-int8"), schema.Models()).get("minilm-int8")
    tokenizer = tokenizers.Tokenizer.from_file(model.file("tokenizer"))

    def vector(text: str) -> np.ndarray:
        encoding = tokenizer.encode(text)
        arrays = {
            "input_ids": np.array([encoding.ids], np.int64),
            "attention_mask": np.array([encoding.attention_mask], np.int64),
            "token_type_ids": np.array([encoding.type_ids], np.int64),
        }
        states = model.tensors().run(arrays)["last_hidden_state"][0]
        mask = np.array(encoding.attention_mask)[:, None]
        mean = (states * mask).sum(0) / mask.sum()
        return mean / np.linalg.norm(mean)

    pump, motor, recipe = map(vector, ["The pump is overheating", "Motor temperature too high", "Stir in the flour"])

    assert pump @ motor > pump @ recipe + 0.2


def test_a_session_is_tried_on_zeros_of_the_shape_it_asks_for(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, mlp_onnx())
    model = ModelStore(tmp_path, schema.Models()).get("tiny")

    model.warm()

    assert model.resident.stats()["loads"] == 1.0
    assert model.resident.is_idle


def test_a_model_that_cannot_be_run_on_its_own_shape_is_a_model_error(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, gather_onnx(index=7))
    model = ModelStore(tmp_path, schema.Models()).get("tiny")

    with pytest.raises(ModelError, match="zeros"):
        model.warm()

    assert model.resident.is_idle


def test_a_closed_session_lets_go_of_the_model_and_says_so(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, mlp_onnx())
    model = ModelStore(tmp_path, schema.Models()).get("tiny")
    inner = model.resident.take()
    model.resident.give_back()

    inner.close()

    with pytest.raises(TransientError, match="unloaded"):
        inner.run({})  # type: ignore[attr-defined]


def gather_onnx(index: int) -> bytes:
    """Takes the column `index` of four: beyond them it loads and does not run."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "index"], ["y"], axis=1)],
        "gather",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.array(index, np.int64), "index")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
