"""How texts are run through an encoder: groups only where they pay and change nothing."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gatewayd_handlers.text_grouping import ALONE, Plan, Vectors, grouped, measure

TOKENS = list(range(1, 90))
PLAN = Plan(why="a batch is faster", max_texts=8, max_tokens=128, call_s=0.002, token_s=0.00025)


class Box:
    """An encoder that takes `call_s` a call and `token_s` a token on a clock of its own."""

    def __init__(self, call_s: float, token_s: float) -> None:
        self.call_s, self.token_s = call_s, token_s
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def run(self, rows: Sequence[Sequence[int]]) -> Vectors:
        self.now_s += self.call_s + self.token_s * len(rows) * max(map(len, rows))
        return np.array([[len(row), sum(row)] for row in rows], np.float32)

    def measure(self, max_s: float = 0.3) -> Plan:
        return measure(self.run, TOKENS, max_s=max_s, clock=self.clock)


def test_groups_are_chosen_where_calls_cost_and_the_costs_are_found() -> None:
    plan = Box(call_s=0.002, token_s=0.00025).measure()

    assert (plan.why, plan.max_texts, plan.max_tokens) == ("a batch is faster", 16, 128)
    assert np.allclose([plan.call_s, plan.token_s], [0.002, 0.00025], rtol=0.1)
    assert plan.max_padding_tokens in (7, 8)


def test_texts_run_alone_where_a_call_costs_nothing() -> None:
    assert Box(call_s=0.0, token_s=0.001).measure() == Plan(why="a batch is no faster")


def test_a_box_too_slow_to_measure_runs_texts_alone_and_is_not_kept_busy() -> None:
    box = Box(call_s=0.02, token_s=0.01)

    plan = box.measure(max_s=0.3)

    assert plan == Plan(why="too slow to measure")
    assert box.now_s < 0.6  # the first call, and one of each text


def test_a_slower_box_measures_less_and_makes_smaller_groups() -> None:
    plan = Box(call_s=0.01, token_s=0.001).measure(max_s=0.3)

    assert (plan.why, plan.max_tokens) == ("a batch is faster", 32)


def test_a_model_whose_scales_come_from_the_whole_batch_runs_texts_alone() -> None:
    session = onnxruntime.InferenceSession(quantized_by_batch(), providers=["CPUExecutionProvider"])

    def run(rows: Sequence[Sequence[int]]) -> Vectors:
        inputs = np.zeros((len(rows), 4), np.float32)
        for index, row in enumerate(rows):
            inputs[index] = [sum(row), row[0], len(row), max(row)]
        return session.run(None, {"x": inputs})[0] / 1e4

    assert measure(run, TOKENS, max_s=10.0) == Plan(why="in a batch a text gets another vector")


def quantized_by_batch() -> bytes:
    """y = x @ w, x quantized to 8 bits with one scale for the whole of it: what quantize_dynamic makes of MatMul."""
    weights = numpy_helper.from_array(np.arange(16, dtype=np.uint8).reshape(4, 4), "w")
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "w", "zero"], ["product"]),
            helper.make_node("Cast", ["product"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["wide", "scale"], ["y"]),
        ],
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_texts_of_like_length_go_together_and_a_long_one_alone() -> None:
    groups = grouped([9, 60, 10, 9, 100], PLAN)

    assert [sorted(group) for group in groups] == [[0, 2, 3], [1], [4]]


def test_without_a_plan_each_text_goes_alone() -> None:
    assert grouped([5, 3, 4], ALONE) == [[1], [2], [0]]
    assert grouped([], ALONE) == []


@given(lengths=st.lists(st.integers(0, 200), max_size=60))
def test_every_text_is_in_one_call_within_the_limits_and_none_costs_more_than_alone(lengths: list[int]) -> None:
    groups = grouped(lengths, PLAN)

    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    cost_s = 0.0
    for group in groups:
        width = max(lengths[index] for index in group)
        padding = sum(width - lengths[index] for index in group)
        cost_s += PLAN.call_s + len(group) * width * PLAN.token_s
        assert len(group) == 1 or (len(group) <= 8 and len(group) * width <= 128)
        assert padding <= 0.25 * len(group) * width
    assert cost_s <= sum(PLAN.call_s + length * PLAN.token_s for length in lengths) + 1e-9
