"""Texts to unit vectors, by the recipe of the all-MiniLM-L6-v2 model card: mean of the token states, L2 norm.

A text's vector does not depend on its neighbors: texts run one by one, because padding a mixed batch made an int8
model slower, and because dynamic quantization takes its scales from the whole batch. Equal texts are computed once:
the vectors of the last `max_cached` texts are kept.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gatewayd.api import Model, ModelError, TensorSession
from gatewayd_handlers.text_masks import mask_numbers

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]


class TextEncoder:
    """A sentence encoder.

    Attributes:
        hits: texts whose vector was still known.
        misses: texts the model ran for.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_tokens: int = 128,
        mask: bool = True,
        max_cached: int = 4096,
        max_chars: int = 2000,
    ) -> None:
        """Load the model and its tokenizer; `mask` hides numbers, `max_chars` cuts a text before it is looked at.

        Raises ModelError when either file cannot be loaded.
        """
        self._session: TensorSession = model.tensors()
        self._tokenizer = _tokenizer(model, max_tokens)
        self._mask = mask
        self._max_cached = max_cached
        self._max_chars = max_chars  # also bounds the keys of the cache
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text: float32 [len(texts), n_dimensions]."""
        return np.stack([self._one(self._prepared(text)) for text in texts])

    def _prepared(self, text: str) -> str:
        text = text[: self._max_chars]
        return mask_numbers(text) if self._mask else text

    def _one(self, text: str) -> Vectors:
        known = self._cache.get(text)
        if known is not None:
            self.hits += 1
            self._cache.move_to_end(text)
            return known
        self.misses += 1
        vector = self._run(text)
        self._cache[text] = vector
        if len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return vector

    def _run(self, text: str) -> Vectors:
        encoding = self._tokenizer.encode(text)
        arrays = {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
        }
        outputs = self._session.run({name: arrays[name] for name in self._session.inputs})
        states = np.asarray(outputs[self._session.outputs[0]], dtype=np.float32)
        # [1, tokens, dimensions] from a plain encoder; [1, dimensions] from one that pools by itself.
        pooled = states[0].mean(axis=0) if states.ndim == 3 else states[0]
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
