"""ONNX graphs made by hand: window in, features, then a small head, scores out.

The features are part of the model's graph, so that what a handler computes on the gateway and what `fit` trained on are
the same operations by construction. A score depends on its own window alone, never on its neighbors in a batch: that is
why a quantized head has fixed ranges (static), not ranges taken from each batch (dynamic).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewayd.errors import ModelError

Array = NDArray[np.float32]
OPSET = 17  # ONNX 1.12: ONNX Runtime from 1.12 on reads it, so does every build for a Jetson that still gets updates
IR_VERSION = 8  # the one that belongs to opset 17; the onnx package would write a newer one that old runtimes refuse
EPSILON = 1e-6

# Features of one field, in order. `short`, `half` and `all` are the last sixth, the last half and all of the window.
FEATURES = (
    "mean_short", "mean_half", "mean_all", "short_minus_all", "half_minus_all", "slope", "block_high", "block_low",
    "std_short", "std_half", "std_all", "up_short", "up_half", "up_all", "down_short", "down_half", "down_all", "step",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dense:
    """One layer: x @ weights + bias, then ReLU but for the last one."""

    weights: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Head:
    """What turns features into scores: a standardizer, then layers, then sigmoid, softmax or a distance."""

    mean: Array  # [m]
    scale: Array  # [m]
    layers: tuple[Dense, ...]
    squash: str  # "sigmoid" (one logit, two labels), "softmax" (a logit for each label), "distance" (squared length)
    half_at: float = 1.0  # "distance": the squared length that gets a score of 0.5


class _Graph:
    """Collects nodes and constants under names that tell where they come from."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def const(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def model(self, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]]) -> Any:
        from onnx import TensorProto, checker, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            "gatewayd_series",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        checker.check_model(model)
        return model


def feature_model(n: int, n_fields: int) -> Any:
    """The graph `window` [batch, n, fields] to `features` [batch, fields * len(FEATURES)], field by field."""
    graph = _Graph()
    _add_features(graph, n, n_fields)
    return graph.model({"window": ["batch", n, n_fields]}, {"features": ["batch", n_fields * len(FEATURES)]})


def series_model(n: int, n_fields: int, head: Head) -> Any:
    """The whole graph: `window` [batch, n, fields] to `scores` [batch, labels], each row summing to 1."""
    graph = _Graph()
    _add_features(graph, n, n_fields)
    _add_head(graph, head)
    n_labels = len(head.layers[-1].bias) if head.squash == "softmax" else 2
    return graph.model({"window": ["batch", n, n_fields]}, {"scores": ["batch", n_labels]})


def head_model(head: Head) -> Any:
    """The head alone, `features` to `scores`: what quantization is calibrated on."""
    graph = _Graph()
    _add_head(graph, head)
    n_labels = len(head.layers[-1].bias) if head.squash == "softmax" else 2
    return graph.model({"features": ["batch", len(head.mean)]}, {"scores": ["batch", n_labels]})


def spans(n: int) -> tuple[int, int, int]:
    """Lengths of the sub-windows `short`, `half` and `all` of a window of n samples."""
    return max(2, n // 6), max(2, n // 2), n


def _add_features(graph: _Graph, n: int, n_fields: int) -> None:
    """All but the levels is computed around the window's own mean: so float32 keeps small changes of large values."""
    graph.add("Transpose", ["window"], "series", perm=[0, 2, 1])
    level = graph.add("ReduceMean", ["series"], "level", axes=[2], keepdims=1)
    centered = graph.add("Sub", ["series", level], "centered")
    relative = graph.add("MatMul", [centered, graph.const("linear", _linear(n))], "relative")
    differences = graph.add("Slice", [relative, *_range(graph, 0, 2)], "differences")
    slope = graph.add("Slice", [relative, *_range(graph, 2, 3)], "slope")
    means = [graph.add("Add", [differences, level], "means"), level]
    blocks = graph.add("MatMul", [centered, graph.const("block_weights", _blocks(n))], "blocks")
    last = graph.add("Slice", [blocks, *_range(graph, -1, 2**31)], "last_block")
    high = graph.add("ReduceMax", [blocks], "highest_block", axes=[2], keepdims=1)
    low = graph.add("ReduceMin", [blocks], "lowest_block", axes=[2], keepdims=1)
    shape = [graph.add("Sub", [high, last], "block_high"), graph.add("Sub", [last, low], "block_low")]
    parts = [*means, differences, slope, *shape, *_spread(graph, centered, n), _step(graph, centered)]
    stacked = graph.add("Concat", parts, "stacked", axis=2)
    flat = graph.const("flat", np.array([0, n_fields * len(FEATURES)], np.int64))
    graph.add("Reshape", [stacked, flat], "features")


def _spread(graph: _Graph, centered: str, n: int) -> list[str]:
    """Standard deviation, highest above and lowest below the mean, for each of the three spans."""
    std, up, down = [], [], []
    for span, name in zip(spans(n), ("short", "half", "all"), strict=True):
        part = graph.add("Slice", [centered, *_range(graph, -span, 2**31)], f"{name}_part")
        mean = graph.add("ReduceMean", [part], f"{name}_mean", axes=[2], keepdims=1)
        away = graph.add("Sub", [part, mean], f"{name}_away")
        square = graph.add("Mul", [away, away], f"{name}_square")
        variance = graph.add("ReduceMean", [square], f"{name}_variance", axes=[2], keepdims=1)
        std.append(graph.add("Sqrt", [variance], f"std_{name}"))
        up.append(graph.add("ReduceMax", [away], f"up_{name}", axes=[2], keepdims=1))
        lowest = graph.add("ReduceMin", [away], f"lowest_{name}", axes=[2], keepdims=1)
        down.append(graph.add("Neg", [lowest], f"down_{name}"))
    return [*std, *up, *down]


def _step(graph: _Graph, centered: str) -> str:
    """Mean absolute difference of neighboring samples."""
    later = graph.add("Slice", [centered, *_range(graph, 1, 2**31)], "later")
    earlier = graph.add("Slice", [centered, *_range(graph, 0, -1)], "earlier")
    change = graph.add("Sub", [later, earlier], "change")
    size = graph.add("Abs", [change], "change_size")
    return graph.add("ReduceMean", [size], "step", axes=[2], keepdims=1)


def _linear(n: int) -> Array:
    """Columns: mean of the last sixth, mean of the last half, slope times n (least squares)."""
    weights = np.zeros((n, 3), np.float32)
    for column, span in enumerate(spans(n)[:2]):
        weights[n - span :, column] = 1.0 / span
    time = np.arange(n) - (n - 1) / 2
    weights[:, 2] = n * time / (time**2).sum()
    return weights


def _blocks(n: int) -> Array:
    """One column a block as long as the last sixth, counted from the end; what does not fill a block is left out."""
    size = spans(n)[0]
    count = n // size
    weights = np.zeros((n, count), np.float32)
    for block in range(count):
        end = n - (count - 1 - block) * size
        weights[end - size : end, block] = 1.0 / size
    return weights


def _range(graph: _Graph, start: int, end: int) -> list[str]:
    """Constants of a Slice on the last axis."""
    return [
        graph.const(f"start_{start}", np.array([start], np.int64)),
        graph.const(f"end_{end}", np.array([end], np.int64)),
        graph.const("axis_2", np.array([2], np.int64)),
    ]


def _add_head(graph: _Graph, head: Head) -> None:
    away = graph.add("Sub", ["features", graph.const("feature_mean", head.mean)], "from_mean")
    value = graph.add("Div", [away, graph.const("feature_scale", head.scale)], "standard")
    # A feature far outside all that was seen says "far outside", not how far: one broken sensor must not overflow.
    low, high = graph.const("clip_low", np.float32(-30)), graph.const("clip_high", np.float32(30))
    value = graph.add("Clip", [value, low, high], "bounded")
    for index, layer in enumerate(head.layers):
        value = graph.add("MatMul", [value, graph.const(f"weights_{index}", layer.weights)], f"dense_{index}")
        value = graph.add("Add", [value, graph.const(f"bias_{index}", layer.bias)], f"sum_{index}")
        if index + 1 < len(head.layers):
            value = graph.add("Relu", [value], f"relu_{index}")
    if head.squash == "softmax":
        graph.add("Softmax", [value], "scores", axis=1)
        return
    positive = graph.add("Sigmoid", [value], "positive") if head.squash == "sigmoid" else _distance(graph, value, head)
    negative = graph.add("Sub", [graph.const("one", np.array([1], np.float32)), positive], "negative")
    graph.add("Concat", [negative, positive], "scores", axis=1)


def _distance(graph: _Graph, value: str, head: Head) -> str:
    """Squared length d mapped to d / (d + half_at): 0 at the center, 0.5 at the threshold, 1 far away."""
    square = graph.add("Mul", [value, value], "squared")
    length = graph.add("ReduceSum", [square, graph.const("axis_1", np.array([1], np.int64))], "length", keepdims=1)
    total = graph.add("Add", [length, graph.const("half_at", np.array([head.half_at], np.float32))], "length_and_half")
    return graph.add("Div", [length, total], "positive")


def run_model(model: Any, arrays: dict[str, Array], output: str, *, chunk: int = 4096) -> Array:
    """Run a graph in memory over the first axis, a bounded piece at a time."""
    try:
        import onnxruntime
    except ImportError as exc:
        raise ModelError("onnxruntime is not installed: pip install 'gatewayd[onnx,fit]'") from exc
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    n = len(next(iter(arrays.values())))
    pieces = [
        session.run([output], {name: value[start : start + chunk] for name, value in arrays.items()})[0]
        for start in range(0, n, chunk)
    ]
    return np.concatenate(pieces)


def quantize_head(model: Any, windows: Array, work: Path) -> Any:
    """The same graph with the head's products in int8, ranges fixed by `windows` [k, n, fields]."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.pieces = iter([windows[i : i + 256] for i in range(0, len(windows), 256)])

        def get_next(self) -> dict[str, Array] | None:
            piece = next(self.pieces, None)
            return None if piece is None else {"window": piece}

    source, target = work / "float.onnx", work / "int8.onnx"
    onnx.save(model, source)
    names = [node.name for node in model.graph.node if node.name.startswith("dense_")]
    quantize_static(
        source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8, nodes_to_quantize=names,
    )  # fmt: skip
    return onnx.load(target)
