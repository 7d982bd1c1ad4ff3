"""llama-cpp-python, inside the worker: for boards that compile their own llama.cpp (CUDA on a Jetson).

Written against https://llama-cpp-python.readthedocs.io/en/latest/api-reference/ (0.3). One completion at a time: the
library is not thread-safe. Of a prompt, what it shares with the one before is kept (`Llama.generate`), and nothing else
is: a static prompt is computed at the start, and again after a prompt that begins otherwise.
"""

import json
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gatewayd.errors import RejectedError, TransientError
from gatewayd.runtimes.label_scores import label_probabilities
from gatewayd.runtimes.protocol import (
    CallEndedError,
    Complete,
    Completed,
    IsCancelled,
    Keep,
    Kept,
    Load,
    Score,
    Scored,
)


class LlamaCppBackend:
    """Implements worker_main.Backend."""

    parallel = 1
    drafts, draft_gain = "none", 0.0  # with drafts the library keeps all logits of a context: 2 GB with Gemma
    prefixes_restored = 0  # the library's `save_state` copies the logits of every position: 1 MB a token with Gemma

    def __init__(self, library: Any, llama: Any, prefixes: Sequence[str] = ()) -> None:
        self.context_tokens: int = llama.n_ctx()
        self.prefixes_computed = 0
        self._library = library
        self._llama = llama
        self._lock = threading.Lock()
        for text in prefixes[-1:]:
            try:
                self._compute(self._checked(text))
                self.prefixes_computed += 1
            except RejectedError as exc:
                print(f"a static prompt is not computed: {exc}", file=sys.stderr)

    def complete(self, call: Complete, is_cancelled: IsCancelled) -> Completed:
        """Raises RejectedError when the prompt is too long or schema or grammar are none, TransientError when late,
        CallEndedError when cancelled."""
        grammar = self._grammar(call)
        with self._lock:
            tokens = self._checked(call.prompt)
            cached = self._shared_with_last(tokens)
            chunks = self._llama.create_completion(
                tokens,
                max_tokens=call.max_tokens,
                temperature=call.temperature,
                seed=call.seed,
                stop=list(call.stop),
                grammar=grammar,
                stream=True,
            )
            text, finish = _collect(chunks, call.deadline_s, is_cancelled)
            written = self._llama.n_tokens - len(tokens) + 1  # the last one was chosen, and not computed upon
        return Completed(
            id=call.id,
            text=text,
            tokens_in=len(tokens),
            tokens_out=max(written, 0),
            tokens_cached=cached,
            finish=finish,
        )

    def score(self, call: Score, is_cancelled: IsCancelled) -> Scored:
        """Raises RejectedError when the prompt is too long or the labels are none, and as `complete` does."""
        with self._lock:
            sequences = [self._checked(call.prompt + label) for label in call.labels]
            prompt = self._tokens(call.prompt)
            cached = self._shared_with_last(prompt)

            def ask(tokens: Sequence[int], wanted: Collection[int]) -> Mapping[int, float]:
                if is_cancelled():
                    raise CallEndedError
                if time.monotonic() > call.deadline_s:
                    raise TransientError("the labels were not scored within the time-out")
                return self._next_logprobs(tokens, wanted)

            probabilities = label_probabilities(sequences, ask)
        return Scored(id=call.id, probabilities=probabilities, tokens_in=len(prompt), tokens_cached=cached)

    def keep(self, call: Keep, is_cancelled: IsCancelled) -> Kept:
        """Raises RejectedError when the text is too long."""
        with self._lock:
            if is_cancelled():
                raise CallEndedError
            self._compute(self._checked(call.text))
        return Kept(id=call.id, is_restored=False)

    def _compute(self, tokens: Sequence[int]) -> None:
        """Read these tokens; what they share with what was read before is not read again."""
        written = self._llama.generate(list(tokens), temp=0.0)
        next(written)  # the first token it would write: with it, and not before, the prompt is read
        written.close()

    def _next_logprobs(self, tokens: Sequence[int], wanted: Collection[int]) -> Mapping[int, float]:
        """Natural logarithms of the probabilities of `wanted` as the next token: log softmax of the last logits."""
        import numpy as np

        self._compute(tokens)
        row = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        logits = np.ctypeslib.as_array(row, shape=(self._llama.n_vocab(),)).astype(np.float64)
        highest = logits.max()
        total = highest + np.log(np.exp(logits - highest).sum())
        return {token: float(logits[token] - total) for token in wanted}

    def _checked(self, text: str) -> list[int]:
        """The tokens of a prompt. Raises RejectedError when there are too many."""
        tokens = self._tokens(text)
        if len(tokens) >= self.context_tokens:
            raise RejectedError(
                f"the prompt ({len(tokens)} tokens) exceeds the context of {self.context_tokens}: "
                "shorten the prompt or raise session.context_tokens in model.toml",
                reason="context",
            )
        return tokens

    def count_tokens(self, text: str) -> int:
        return len(self._tokens(text))  # the vocabulary is only read: no need to wait for a completion

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._llama.tokenize(text.encode(), add_bos=True, special=False)
        return tokens

    def _grammar(self, call: Complete) -> Any:
        from llama_cpp.llama_grammar import json_schema_to_gbnf

        try:
            if call.json_schema is not None:
                text = json_schema_to_gbnf(json.dumps(call.json_schema))
            elif call.grammar is not None:
                text = call.grammar
            else:
                return None
        except (ValueError, KeyError, TypeError, AssertionError) as exc:
            raise RejectedError(f"schema or grammar cannot be used: {exc}", reason="grammar") from exc
        self._check_grammar(text)
        return self._library.LlamaGrammar.from_string(text, verbose=False)

    def _check_grammar(self, text: str) -> None:
        """The library does not look at what its parser answers: with 0.3.36 a grammar that is none is a SIGSEGV."""
        vocabulary = self._library.llama_model_get_vocab(self._llama.model)
        sampler = self._library.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not sampler:
            raise RejectedError("the grammar cannot be parsed: the worker's stderr says where", reason="grammar")
        self._library.llama_sampler_free(sampler)

    def _shared_with_last(self, tokens: list[int]) -> int:
        """How many tokens `Llama.generate` will reuse: the common prefix, and never the whole prompt."""
        shared = 0
        for old, new in zip(self._llama.input_ids[: self._llama.n_tokens], tokens[:-1], strict=False):
            if old != new:
                break
            shared += 1
        return shared


def open_backend(load: Load) -> LlamaCppBackend:
    """Load the model. What the library raises or prints reaches the daemon through stderr and the exit."""
    import llama_cpp

    options = load.options
    llama = llama_cpp.Llama(
        model_path=load.model_path,
        n_ctx=options.context_tokens,
        n_batch=options.batch_tokens,
        n_threads=load.threads,
        n_threads_batch=load.threads,
        n_gpu_layers=options.gpu_layers,
        use_mmap=options.memory_map,
        swa_full=options.swa_full,
        verbose=False,
    )
    return LlamaCppBackend(llama_cpp, llama, load.prefixes)


def _collect(chunks: Any, deadline_s: float, is_cancelled: IsCancelled) -> tuple[str, str]:
    """The text and why it ended. Raises TransientError when the deadline passes between two tokens, CallEndedError when
    it is cancelled there."""
    parts: list[str] = []
    finish = "stop"
    for chunk in chunks:
        choice = chunk["choices"][0]
        parts.append(choice["text"])
        finish = choice["finish_reason"] or finish
        if choice["finish_reason"] is not None:
            continue
        if is_cancelled():
            raise CallEndedError
        if time.monotonic() > deadline_s:
            raise TransientError("the language model was not done within the time-out")
    return "".join(parts), "length" if finish == "length" else "stop"
