"""Texts to unit vectors, by the recipe of the all-MiniLM-L6-v2 model card: mean of the token states, L2 norm.

A text's vector does not depend on its neighbors: texts run in groups of like length only where that was found out to
be faster on this box and to give the same vectors (gatewayd_handlers.text_grouping), else one by one. Equal texts are
computed once: the vectors of the last `max_cached` texts are kept, for as long as the model is the same.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gatewayd.api import Model, ModelError, TensorSession
from gatewayd_handlers.text_grouping import ALONE, grouped, measure
from gatewayd_handlers.text_masks import mask_ids, mask_numbers

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]

# What TextEncoder.stats tells.
STATS = (
    "cache_hits_total",
    "cache_misses_total",
    "cached_texts",
    "model_calls_total",
    "tokens_total",
    "padding_tokens_total",
    "max_texts_per_call",
    "max_padding_tokens",
)

# What is measured with: words as logs have them, some hundred tokens.
_WORDS = (
    "connection from pump station closed by peer after timeout, retrying in a moment; pressure sensor reports no "
    "signal while the valve is open and the motor runs at full speed, operator notified, backup controller started, "
    "kernel module loaded, user session opened and closed again, temperature within limits"
)


class TextEncoder:
    """A sentence encoder.

    Attributes:
        plan: how texts are run, and why.
        hits: texts whose vector was still known, or that stood twice in a batch.
        misses: texts the model ran for.
        calls: runs of the model.
        tokens, padding: tokens the model read, and of them those that only filled up a group.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_tokens: int = 128,
        mask: bool = True,
        mask_more: bool = False,
        max_cached: int = 4096,
        max_chars: int = 2000,
        measure_s: float = 0.0,
    ) -> None:
        """Load the model and its tokenizer; `mask` hides numbers, `mask_more` also what else names one thing, and
        `max_chars` cuts a text before it is looked at. `measure_s`: how long it may be measured whether groups are
        faster; 0: texts run one by one.

        Raises ModelError when either file cannot be loaded.
        """
        self._model = model
        self._version = model.version
        self._session: TensorSession = model.tensors()
        self._tokenizer = _tokenizer(model, max_tokens)
        self._masked = mask_ids if mask_more else mask_numbers if mask else str
        self._max_cached = max_cached
        self._max_chars = max_chars  # also bounds the keys of the cache
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self.hits = self.misses = self.calls = self.tokens = self.padding = 0
        self.plan = ALONE
        if measure_s > 0:
            self._choose(measure_s)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text: float32 [len(texts), n_dimensions]."""
        if self._model.version != self._version:  # swapped for another one: its vectors mean something else
            self._version, self._session = self._model.version, self._model.tensors()
            self._cache.clear()
        prepared = [self._masked(text[: self._max_chars]) for text in texts]
        known = {text: vector for text in prepared if (vector := self._cache.get(text)) is not None}
        missing = [text for text in dict.fromkeys(prepared) if text not in known]
        known |= zip(missing, self._run(missing), strict=True)
        self.misses += len(missing)
        self.hits += len(prepared) - len(missing)
        self._remember(known)
        return np.stack([known[text] for text in prepared])

    def stats(self) -> Mapping[str, float]:
        """For `Handler.stats`: what the cache saved, and what groups cost in padding."""
        figures = (self.hits, self.misses, len(self._cache), self.calls, self.tokens, self.padding)
        return dict(zip(STATS, (*figures, self.plan.max_texts, self.plan.max_padding_tokens), strict=True))

    def _remember(self, used: Mapping[str, Vectors]) -> None:
        for text, vector in used.items():
            self._cache[text] = vector
            self._cache.move_to_end(text)
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)

    def _choose(self, measure_s: float) -> None:
        ids = self._tokenizer.encode(_WORDS, add_special_tokens=False).ids
        self.plan = measure(self._vectors, ids, max_s=measure_s)
        self.calls = self.tokens = self.padding = 0
        log.info(
            "texts run %s: %s (at most %d texts and %d tokens a call, %d tokens of padding a text)",
            "in groups of like length" if self.plan.max_texts > 1 else "one by one",
            self.plan.why,
            self.plan.max_texts,
            self.plan.max_tokens,
            self.plan.max_padding_tokens,
        )

    def _run(self, texts: Sequence[str]) -> list[Vectors]:
        rows = [self._tokenizer.encode(text).ids for text in texts]
        vectors: dict[int, Vectors] = {}
        for group in grouped([len(row) for row in rows], self.plan):
            vectors.update(zip(group, self._vectors([rows[index] for index in group]), strict=True))
        return [vectors[index] for index in range(len(texts))]

    def _vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """One call of the model for these token ids."""
        width = max(map(len, rows))
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        outputs = self._session.run({name: arrays[name] for name in self._session.inputs})
        self.calls += 1
        self.tokens += ids.size
        self.padding += ids.size - sum(map(len, rows))
        states = np.asarray(outputs[self._session.outputs[0]], dtype=np.float32)
        return np.stack([_unit(each, len(row)) for each, row in zip(states, rows, strict=True)])


def _unit(states: Vectors, n_tokens: int) -> Vectors:
    """[tokens, dimensions] from a plain encoder; [dimensions] from one that pools by itself."""
    pooled = states[:n_tokens].mean(axis=0) if states.ndim == 2 else states
    return np.asarray(pooled / max(float(np.linalg.norm(pooled)), 1e-12), dtype=np.float32)


def _tokenizer(model: Model, max_tokens: int) -> Any:
    from tokenizers import Tokenizer

    path = model.file("tokenizer")
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as exc:  # the library raises plain Exception for a file it cannot read
        raise ModelError(f"{model.name}: the tokenizer cannot be read: {exc}") from exc
    tokenizer.no_padding()  # the published file pads to 128: most of the work would be for nothing
    tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer
