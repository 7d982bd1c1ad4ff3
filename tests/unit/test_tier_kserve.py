"""The kserve tier against a server of the protocol with real models behind it."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from gatewayd.cascade.verdict import Refusal, Verdict
from gatewayd.config.tiers import KServeTier
from gatewayd.errors import TierMisconfigured, TierUnavailable
from tests.sim.kserve_server import KServeServer
from tests.sim.models import affine_onnx, mlp_onnx
from tests.sim.tier_servers import Scripted, TierRig, asking, question

LABELS = ["ok", "faulty", "on fire"]
IDENTITY = affine_onnx(np.eye(3).tolist(), [0.0, 0.0, 0.0])  # three numbers in, the same three out


@pytest.fixture
async def server() -> AsyncIterator[KServeServer]:
    server = KServeServer()
    server.serve("same", IDENTITY)
    await server.start()
    yield server
    await server.stop()


def config(server: KServeServer, model: str = "same", **options: Any) -> KServeTier:
    return KServeTier(url=server.url, **{"model": model, "labels": LABELS, "max_batch": 4, **options})


@pytest.fixture
async def rig(server: KServeServer) -> AsyncIterator[TierRig]:
    async with asking(config(server)) as rig:
        yield rig


def verdict(answer: Verdict | Refusal) -> Verdict:
    assert isinstance(answer, Verdict), answer
    return answer


def asked(*values: Any) -> list[Any]:
    return [question(f"m-{index}", value, LABELS) for index, value in enumerate(values)]


def graph(inputs: Sequence[tuple[str, int, Sequence[Any]]], nodes: Sequence[Any], n_out: int, **weights: Any) -> bytes:
    """A model with these inputs (name, type, shape) and the float output "y" with a row of `n_out` a batch."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", n_out])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model: bytes = helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()
    return model


async def test_scores_by_label_for_a_batch_in_one_request(server: KServeServer, rig: TierRig) -> None:
    answers = await rig.client.ask(asked([0.7, 0.2, 0.1], [0.1, 0.1, 0.8]))

    assert server.requests == [
        {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [0.7, 0.2, 0.1, 0.1, 0.1, 0.8]}]}
    ]
    first, second = (verdict(answer) for answer in answers)
    assert (first.label, second.label) == ("ok", "on fire")
    assert first.scores == pytest.approx({"ok": 0.7, "faulty": 0.2, "on fire": 0.1}, abs=1e-6)
    assert (first.confidence, first.model, first.model_version) == (pytest.approx(0.7, abs=1e-6), "same", "1")


async def test_a_real_network_gives_the_scores_it_gives_here(server: KServeServer) -> None:
    server.serve("mlp", mlp_onnx(n_features=8, n_labels=3))
    rows = np.random.default_rng(1).normal(size=(10, 8)).tolist()
    async with asking(config(server, "mlp")) as rig:
        answers = await rig.client.ask(asked(*rows))

    [expected] = server.sessions["mlp"].run(None, {"x": np.asarray(rows, np.float32)})
    got = [[verdict(answer).scores[label] for label in LABELS] for answer in answers]
    assert np.allclose(got, expected, atol=1e-5)
    assert [each["inputs"][0]["shape"] for each in server.requests] == [[4, 8], [4, 8], [2, 8]]


async def test_metadata_is_read_once_and_again_after_an_outage(server: KServeServer, rig: TierRig) -> None:
    await rig.client.ask(asked([0.7, 0.2, 0.1]))
    await rig.client.ask(asked([0.7, 0.2, 0.1]))
    assert server.n_metadata == 1
    await server.stop()
    with pytest.raises(TierUnavailable):
        await rig.client.ask(asked([0.7, 0.2, 0.1]))
    server.serve("same", affine_onnx(np.eye(2, 3).tolist(), [0.0, 0.0, 0.5]))  # takes two numbers now
    await server.start()
    await rig.clock.advance(1.0)

    [answer] = await rig.client.ask(asked([0.3, 0.2]))

    assert verdict(answer).label == "on fire"


@pytest.mark.parametrize(("version", "path"), [("", "/v2/models/same"), ("1", "/v2/models/same/versions/1")])
async def test_the_version_is_in_the_path(server: KServeServer, version: str, path: str) -> None:
    async with asking(config(server, version=version)) as rig:
        await rig.client.ask(asked([0.7, 0.2, 0.1]))

    assert server.paths == [path, f"{path}/infer"]


@pytest.mark.parametrize("options", [{"model": "another"}, {"version": "7"}, {"input": "z"}, {"output": "z"}])
async def test_a_model_that_is_not_as_the_config_says_is_told(server: KServeServer, options: dict[str, str]) -> None:
    async with asking(config(server, **options)) as rig:
        with pytest.raises(TierMisconfigured) as caught:
            await rig.client.ask(asked([0.7, 0.2, 0.1]))

    assert caught.value.hint
    assert rig.report.turns == ["down: misconfigured"]


@pytest.mark.parametrize(
    "value", [{"t": 0.7, "p": 0.2, "v": 0.1}, [[0.7, 0.2, 0.1]], [0.7, 0.2, 0.1], {"row": [0.7, 0.2, 0.1]}]
)
async def test_lists_rows_and_mappings_in_their_order_are_the_same(rig: TierRig, value: Any) -> None:
    [answer] = await rig.client.ask(asked(value))

    assert verdict(answer).scores["ok"] == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("text", "text where the model takes FP32"),
        ([0.7, 0.2], r"the shape \[2\] where the model takes \[-1, 3\]"),
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "a batch of its own"),
        ([0.7, None, 0.1], "null where"),
        ([[1.0], [2.0, 3.0]], "rows of different lengths"),
        ([], "an empty list"),
        ([0.7, float("inf"), 0.1], "not finite"),
        (7.0, "the shape"),
    ],
)
async def test_what_is_no_tensor_for_the_model_is_refused_alone(rig: TierRig, value: Any, detail: str) -> None:
    answers = await rig.client.ask(asked([0.7, 0.2, 0.1], value, [0.2, 0.7, 0.1]))

    assert isinstance(answers[1], Refusal)
    assert answers[1].reason == "bad_input"
    assert re.search(detail, answers[1].detail)
    assert [verdict(answers[index]).label for index in (0, 2)] == ["ok", "faulty"]


async def test_a_field_of_the_value_may_be_what_is_sent(server: KServeServer) -> None:
    async with asking(config(server, field="data.rows[0]")) as rig:
        answers = await rig.client.ask(asked({"data": {"rows": [[0.7, 0.2, 0.1]]}}, {"data": {}}))

    assert verdict(answers[0]).label == "ok"
    assert isinstance(answers[1], Refusal)
    assert answers[1].reason == "missing_field"


async def test_texts_are_sent_as_bytes(server: KServeServer) -> None:
    known = {"keys_strings": ["hot"], "values_floats": [1.0], "default_float": 0.5}
    nodes = [
        helper.make_node("LabelEncoder", ["text"], ["number"], domain="ai.onnx.ml", **known),
        helper.make_node("MatMul", ["number", "weights"], ["y"]),
    ]
    weights = {"weights": np.array([[0.0, 0.25, 0.75]], np.float32)}
    server.serve("text", graph([("text", TensorProto.STRING, ["batch", 1])], nodes, 3, **weights))
    async with asking(config(server, "text")) as rig:
        answers = await rig.client.ask(asked("hot", "cold", {"a": 1}, 7))

    assert server.requests[0]["inputs"] == [
        {"name": "text", "shape": [3, 1], "datatype": "BYTES", "data": ["hot", "cold", '{"a":1}']}
    ]
    assert verdict(answers[0]).label == "on fire"
    assert isinstance(answers[3], Refusal)


@pytest.mark.parametrize(
    ("kind", "datatype", "value", "sent"),
    [
        (TensorProto.DOUBLE, "FP64", [1, 0.5, 0], [1, 0.5, 0]),
        (TensorProto.INT64, "INT64", [1, 0.0, True], [1, 0, 1]),
    ],
)
async def test_numbers_are_sent_as_the_model_takes_them(
    server: KServeServer, kind: int, datatype: str, value: list[Any], sent: list[Any]
) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    server.serve("cast", graph([("x", kind, ["batch", 3])], nodes, 3))
    async with asking(config(server, "cast")) as rig:
        answers = await rig.client.ask(asked(value, [0.5, 0.25, 0.25]))

    assert server.requests[0]["inputs"][0]["datatype"] == datatype
    assert server.requests[0]["inputs"][0]["data"][:3] == sent
    assert isinstance(answers[1], Refusal) == (datatype == "INT64")


async def test_several_inputs_are_keys_of_the_value(server: KServeServer) -> None:
    nodes = [helper.make_node("Concat", ["heat", "noise"], ["y"], axis=1)]
    inputs = [("heat", TensorProto.FLOAT, ["batch", 1]), ("noise", TensorProto.FLOAT, ["batch", 2])]
    server.serve("two", graph(inputs, nodes, 3))
    async with asking(config(server, "two")) as rig:
        answers = await rig.client.ask(asked({"noise": [0.1, 0.2], "heat": 0.7, "more": "x"}, {"heat": 0.7}))

    assert verdict(answers[0]).scores["ok"] == pytest.approx(0.7)
    assert answers[1] == Refusal(reason="bad_input", detail="there is no `noise`, which is an input of the model")


async def test_a_model_without_a_batch_gets_one_question_a_request(server: KServeServer) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    server.serve("one", graph([("x", TensorProto.FLOAT, [1, 3])], nodes, 3))
    async with asking(config(server, "one")) as rig:
        answers = await rig.client.ask(asked([0.7, 0.2, 0.1], [0.1, 0.8, 0.1]))

    assert [verdict(answer).label for answer in answers] == ["ok", "faulty"]
    assert [each["inputs"][0]["shape"] for each in server.requests] == [[1, 3], [1, 3]]


async def test_inputs_of_different_lengths_do_not_share_a_request(server: KServeServer) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["mean", "weights"], ["y"]),
    ]
    weights = {"weights": np.array([[1.0, 0.0, 0.0]], np.float32)}
    server.serve("mean", graph([("x", TensorProto.FLOAT, ["batch", "n"])], nodes, 3, **weights))
    async with asking(config(server, "mean")) as rig:
        answers = await rig.client.ask(asked([0.5], [0.2, 0.4], [0.75], [0.6, 0.8]))

    assert [each["inputs"][0]["shape"] for each in server.requests] == [[2, 1], [2, 2]]
    assert [verdict(answer).scores["ok"] for answer in answers] == pytest.approx([0.5, 0.3, 0.75, 0.7])


async def test_logits_become_probabilities(server: KServeServer) -> None:
    async with asking(config(server, scores="logits")) as rig:
        [answer] = await rig.client.ask(asked([2.0, 1000.0, -1000.0]))

    assert verdict(answer).scores == pytest.approx({"ok": 0.0, "faulty": 1.0, "on fire": 0.0})


@pytest.mark.parametrize(("scores", "number", "expected"), [("probabilities", 0.8, 0.8), ("logits", -1000.0, 0.0)])
async def test_of_two_labels_one_number_may_be_there(
    server: KServeServer, scores: Any, number: float, expected: float
) -> None:
    server.serve("single", affine_onnx([[1.0]], [0.0]))
    async with asking(config(server, "single", labels=["ok", "faulty"], scores=scores)) as rig:
        [answer] = await rig.client.ask([question("m-1", number, ("ok", "faulty"))])

    assert verdict(answer).scores == pytest.approx({"ok": 1 - expected, "faulty": expected})


async def test_scores_that_are_no_probabilities_are_refused(server: KServeServer, rig: TierRig) -> None:
    answers = await rig.client.ask(asked([2.0, 1.0, 0.0], [0.7, 0.2, 0.1]))

    assert answers[0] == Refusal(reason="bad_scores", detail='scores are no probabilities: set scores = "logits"?')
    assert verdict(answers[1]).label == "ok"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "0.7"])
async def test_a_score_that_is_no_number_refuses_its_question_alone(
    server: KServeServer, rig: TierRig, bad: Any
) -> None:
    output = {"name": "y", "shape": [2, 3], "datatype": "FP32", "data": [[bad, 0.1, 0.1], [0.7, 0.2, 0.1]]}
    await rig.client.ask(asked([0.7, 0.2, 0.1]))
    server.script.append(Scripted(body=json.dumps({"model_name": "same", "outputs": [output]})))

    answers = await rig.client.ask(asked([1, 0, 0], [0.7, 0.2, 0.1]))

    assert answers[0] == Refusal(reason="bad_scores", detail="a score is no finite number")
    assert verdict(answers[1]).label == "ok"


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"outputs": []}',
        '{"outputs": [{"name": "y", "data": [0.7, 0.2]}]}',
        '{"outputs": [{"name": "y", "data": []}]}',
        "<html>",
    ],
)
async def test_an_answer_of_another_form_refuses_nothing(server: KServeServer, rig: TierRig, body: str) -> None:
    await rig.client.ask(asked([0.7, 0.2, 0.1]))
    server.script.append(Scripted(body=body))

    with pytest.raises(TierMisconfigured):
        await rig.client.ask(asked([0.7, 0.2, 0.1]))


async def test_what_the_server_refuses_is_halved_until_it_stands_alone(server: KServeServer, rig: TierRig) -> None:
    server.fault = lambda body: Scripted(400, '{"error": "no"}') if 0.75 in body["inputs"][0]["data"] else None

    answers = await rig.client.ask(asked([1, 0, 0], [0, 1, 0], [0.75, 0.25, 0], [0, 0, 1]))

    assert [answer.label if isinstance(answer, Verdict) else answer.reason for answer in answers] == [
        "ok",
        "faulty",
        "refused",
        "on fire",
    ]
