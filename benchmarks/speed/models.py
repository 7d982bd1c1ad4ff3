"""Figures 13 and 14: what our side of a model costs, beside the bare library with the same model.

13 calls the handler of figure 1 in a loop, without queue, decoding and spool; beside it the same session of ONNX
Runtime runs the same windows, ready made. 14 asks one language model for the same completions through our worker and
through llama.cpp's engine alone (see `benchmarks.llm_speed`); its model comes from the package index, once.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed.rig import N_DEVICES, WINDOW, prepare_model
from benchmarks.speed.rows import Row, rounds
from gatewayd.api import Batch, Message, ModelError
from gatewayd.config.schema import Models
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_series import ClassifySeries, Options

_SIZES = (1, 64, 256)
_N_MESSAGES = 4096
_READING = {"vibration": 2.0, "current": 7.5, "pressure": 4.2, "n": 123456}
_N_TOKENS = 48
_N_TURNS = 3


def series(folder: Path) -> Iterator[Row]:
    """13: a message of the series handler, in batches, beside a bare onnxruntime loop with the same batches."""
    prepare_model(folder / "models")
    store = ModelStore(folder / "models", Models())
    handler = ClassifySeries(Options(model="pumps", max_gap_s=0.0))
    handler.start(store)
    messages = [
        Message(topic=f"bench/{number % N_DEVICES}", value=_READING, time=float(number), key=str(number))
        for number in range(_N_MESSAGES)
    ]
    handler.handle(Batch(route="r", messages=messages[: N_DEVICES * WINDOW], now=0.0))  # every window is full
    session = store.get("pumps").tensors()
    window = np.array([[_READING[name] for name in handler.samples_of[0]]] * WINDOW, np.float32)
    for size in _SIZES:
        batches = [Batch(route="r", messages=messages[at : at + size], now=0.0) for at in range(0, _N_MESSAGES, size)]
        windows = {session.inputs[0]: np.stack([window] * size)}
        ours, its = rounds([partial(_us, handler.handle, batches), partial(_us, session.run, [windows] * len(batches))])
        yield Row(
            id="13",
            what=f"handler of figure 1 alone, in batches of {size}",
            value=ours.median,
            unit="µs/msg",
            baseline=f"bare onnxruntime with the same batches, {its.median:.3g} µs/msg",
            ratio=ours.over(its),
            spread=ours.spread,
        )


def _us(call: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    began_s = time.perf_counter()
    for one in inputs:
        call(one)
    return (time.perf_counter() - began_s) / _N_MESSAGES * 1e6


def text(_folder: Path) -> Iterator[Row]:
    """14: tokens a second of a language model through its worker, beside the engine alone."""
    what = f"language model, {_N_TOKENS} tokens at a time, through its worker"
    try:
        found = _one_stream()
    except (ImportError, ModelError, pytest.skip.Exception) as missing:
        print(f"figure 14 is skipped, the model or its engine is not here: {missing}", file=sys.stderr, flush=True)
        yield Row(id="14", what=f"{what}: not measured, no model or no engine here", value=0, unit="tokens/s")
        return
    yield Row(
        id="14",
        what=what,
        value=found["ours_tokens_per_s"],
        unit="tokens/s",
        baseline=f"bare llama.cpp (xllamacpp), {found['bare_tokens_per_s']:.3g} tokens/s",
        ratio=found["ratio"],
        reach=">= 0.95",
        ok=found["ratio"] >= 0.95,
    )


def _one_stream() -> dict[str, float]:
    """Imported here, for the engine is an extra that a box may lack."""
    from benchmarks.llm_speed import one_stream

    return one_stream(_N_TURNS, _N_TOKENS)
