"""The text encoder against a bare loop of tokenizers and onnxruntime over the same texts: for `benchmarks.batching`."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_text import ENCODER, bgl
from gatewayd.api import Model
from gatewayd.cli.models import cache_dir, fetch_with_progress
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.store import ModelStore
from gatewayd_handlers.text_encoder import TextEncoder, Vectors

Row = dict[str, Any]
Run = Callable[[Sequence[str]], Vectors]


def encoder_rows(data: Path, runs: int) -> list[Row]:
    """Without the cache (distinct texts, as they are and with numbers masked), and with it on all lines."""
    shelf = cache_dir() / "benchmark-models"
    shelf.mkdir(parents=True, exist_ok=True)
    fetch_with_progress([ENCODER], shelf)
    store = ModelStore(shelf, ModelsConfig())
    model = store.get(ENCODER)
    lines = bgl(data).lines
    distinct = list(dict.fromkeys(lines))[::6]  # some 230: a run takes seconds
    short = [" ".join(line.split()[3:9]) for line in distinct]
    try:
        return [
            _row("BGL, distinct lines, no cache", distinct, model, runs, max_cached=0, mask=False),
            _row("the first six words of them, no cache", short, model, runs, max_cached=0, mask=False),
            _row("BGL, all lines as they come, with the cache", lines, model, 1, max_cached=4096, mask=True),
        ]
    finally:
        store.close()


def _row(name: str, texts: Sequence[str], model: Model, runs: int, *, max_cached: int, mask: bool) -> Row:
    bare = bare_loop(model)
    encoder = TextEncoder(model, max_cached=max_cached, mask=mask, measure_s=0.3)
    pairs = [(_rate(bare, texts), _rate(_in_batches(encoder), texts)) for _ in range(runs)]
    _check(bare, encoder, texts[:20], mask=mask)
    return {
        "what": name,
        "texts": len(texts),
        "bare": statistics.median(one for one, _ in pairs),
        "ours": statistics.median(one for _, one in pairs),
        "ratio": statistics.median(ours / one for one, ours in pairs),
        "hit_rate": encoder.hits / (encoder.hits + encoder.misses),
        "plan": encoder.plan.why,
        "max_texts_per_call": encoder.plan.max_texts,
        "max_tokens_per_call": encoder.plan.max_tokens,
        "padding": encoder.padding / max(1, encoder.tokens),
    }


def bare_loop(model: Model) -> Run:
    """What the model card says, without gatewayd: a text a call, no padding, one thread as gatewayd has."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(model.file("tokenizer"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=128)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.file("model"), options, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}

    def run(texts: Sequence[str]) -> Vectors:
        rows = []
        for text in texts:
            encoding = tokenizer.encode(text)
            arrays = {
                "input_ids": np.array([encoding.ids], dtype=np.int64),
                "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
                "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
            }
            states = session.run(None, {name: array for name, array in arrays.items() if name in names})[0][0]
            mean = states.mean(axis=0)
            rows.append(mean / np.linalg.norm(mean))
        return np.stack(rows)

    return run


def _in_batches(encoder: TextEncoder, size: int = 64) -> Run:
    """As a route gives them to the handler."""

    def run(texts: Sequence[str]) -> Vectors:
        return np.concatenate([encoder.encode(texts[at : at + size]) for at in range(0, len(texts), size)])

    return run


def _rate(run: Run, texts: Sequence[str]) -> float:
    began = time.perf_counter()
    run(texts)
    return len(texts) / (time.perf_counter() - began)


def _check(bare: Run, encoder: TextEncoder, texts: Sequence[str], *, mask: bool) -> None:
    """Both must say the same, or the figures compare nothing."""
    if not mask and not np.allclose(bare(texts), encoder.encode(texts), atol=2e-5):
        raise RuntimeError("the encoder and the bare loop give different vectors")
