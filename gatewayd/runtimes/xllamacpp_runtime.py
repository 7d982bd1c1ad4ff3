"""xllamacpp (llama.cpp's server engine in-process), inside the worker: several calls side by side, each in a slot.

Invariant: which slot answers is decided here (slot_cache), never by the engine, so that what is kept computed is found.
"""

import json
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gatewayd.errors import GatewaydError, RejectedError, TransientError
from gatewayd.runtimes.drafts import N_RUNS, N_TOKENS, PROMPT, Drafts, Memory, Tried, choose, in_child, processor_s
from gatewayd.runtimes.label_scores import label_probabilities
from gatewayd.runtimes.prefix_files import PrefixFiles
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
from gatewayd.runtimes.slot_cache import SlotCache
from gatewayd.runtimes.xllamacpp_engine import XllamacppEngine

_LOG_ERRORS = 1  # llama.cpp's levels: 1 error, 2 warning, 3 info; higher ones print prompts
_MAX_KNOWN_SCHEMAS = 64
_NGRAM, _NGRAM_DRAFT = 6, 16  # tokens that must have stood in the prompt before, and how many of what followed to guess
_JSON_STARTS = tuple('{["-0123456789tfn')
_PROBE = "Dear Sir or Madam, thank"
# Between tokens of a JSON answer exactly what json.dumps writes: free to choose, a small model fills its budget with
# blanks. https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
_JSON_BLANKS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class XllamacppBackend:
    """Implements worker_main.Backend."""

    def __init__(self, engine: XllamacppEngine, cache: SlotCache, load: Load, tried: Tried) -> None:
        self.context_tokens = load.options.context_tokens
        self.parallel = load.options.parallel
        self.drafts, self.draft_gain = tried.kind, tried.gain
        self._engine = engine
        self._cache = cache
        self._known_schemas: OrderedDict[str, None] = OrderedDict()
        self._probing = threading.Lock()
        for text in load.prefixes:
            try:
                cache.keep(text)
            except GatewaydError as exc:  # one that is too long for the context, say: calls go on without it
                print(f"a static prompt is not kept computed: {exc}", file=sys.stderr)
        cache.fill()
        self.prefixes_restored, self.prefixes_computed = cache.n_restored, cache.n_computed

    def complete(self, call: Complete, is_cancelled: IsCancelled) -> Completed:
        """Raises RejectedError when the prompt is too long or schema or grammar are none, TransientError when late,
        CallEndedError when cancelled."""
        request: dict[str, Any] = {
            "prompt": call.prompt,
            "n_predict": call.max_tokens,
            "temperature": call.temperature,
            "seed": call.seed,
            "stop": call.stop,
            "cache_prompt": True,
        }
        if call.json_schema is not None:
            request["json_schema"] = {"x-guidance": _JSON_BLANKS, **call.json_schema}
            self._check_schema(request["json_schema"])
        elif call.grammar is not None:
            request["grammar"] = call.grammar
        with self._cache.slot(call.prompt) as slot:
            text, last = self._engine.write({**request, "id_slot": slot}, call.deadline_s, is_cancelled)
        usage = last["usage"]
        return Completed(
            id=call.id,
            text=text,
            tokens_in=usage["prompt_tokens"],
            tokens_out=usage["completion_tokens"],
            tokens_cached=usage["prompt_tokens_details"]["cached_tokens"],
            finish="length" if last["choices"][0]["finish_reason"] == "length" else "stop",
        )

    def score(self, call: Score, is_cancelled: IsCancelled) -> Scored:
        """Raises RejectedError when the prompt is too long or the labels are none, and as `complete` does."""
        sequences = [self._engine.tokens(call.prompt + label) for label in call.labels]
        usages: list[Mapping[str, Any]] = []

        def ask(tokens: Sequence[int], wanted: Collection[int]) -> Mapping[int, float]:
            if is_cancelled():
                raise CallEndedError
            if time.monotonic() > call.deadline_s:
                raise TransientError("the labels were not scored within the time-out")
            found, usage = self._engine.next_logprobs(slot, tokens, wanted)
            usages.append(usage)
            return found

        with self._cache.slot(call.prompt) as slot:
            probabilities = label_probabilities(sequences, ask)
        return Scored(
            id=call.id,
            probabilities=probabilities,
            tokens_in=usages[0]["prompt_tokens"],
            tokens_cached=usages[0]["prompt_tokens_details"]["cached_tokens"],
        )

    def keep(self, call: Keep, is_cancelled: IsCancelled) -> Kept:
        """Raises RejectedError when the text is too long, TransientError when the engine failed."""
        if is_cancelled():
            raise CallEndedError
        return Kept(id=call.id, is_restored=self._cache.keep(call.text))

    def count_tokens(self, text: str) -> int:
        """As many as the same text takes as a prompt, the mark of its beginning included."""
        return len(self._engine.tokens(text))

    def _check_schema(self, schema: dict[str, Any]) -> None:
        """Prove once that this schema binds the answer: the engine drops one it cannot compile, and says nothing.

        One token is asked for where plain text would go on with a word; only a bound answer begins as JSON does.
        """
        key = json.dumps(schema, sort_keys=True)
        with self._probing:
            if key in self._known_schemas:
                self._known_schemas.move_to_end(key)
                return
            with self._cache.slot(_PROBE) as slot:
                first = self._engine.first_text(slot, _PROBE, schema)
            if not first.startswith(_JSON_STARTS):
                raise RejectedError(
                    "the JSON schema cannot be compiled: the worker's stderr says why", reason="grammar"
                )
            self._known_schemas[key] = None
            if len(self._known_schemas) > _MAX_KNOWN_SCHEMAS:
                self._known_schemas.popitem(last=False)


def open_backend(load: Load) -> XllamacppBackend:
    """Load the model. What the library raises or prints reaches the daemon through stderr and the exit."""
    tried = _drafts(load)  # first: it runs in processes of its own, which are forked while we have one thread
    import xllamacpp

    files = _files(load, xllamacpp.__version__)
    engine = _open_engine(load, tried.kind, files)
    cache = SlotCache(engine, load.options.parallel, files, load.max_prefixes)
    return XllamacppBackend(engine, cache, load, tried)


def _open_engine(load: Load, drafts: Drafts, files: PrefixFiles | None) -> XllamacppEngine:
    import xllamacpp

    socket_path = Path(load.scratch_dir) / "llama.sock"
    socket_path.unlink(missing_ok=True)  # of a try that was ended
    options = load.options
    params = xllamacpp.CommonParams()
    params.model.path = load.model_path
    params.hostnames = [str(socket_path)]
    params.n_ctx = options.context_tokens * options.parallel  # the engine divides it among its slots
    params.n_parallel = options.parallel
    params.n_batch = params.n_ubatch = min(options.batch_tokens, options.context_tokens)
    params.n_gpu_layers = options.gpu_layers
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = load.threads
    params.swa_full = options.swa_full
    params.cache_ram_mib = options.prompt_cache_bytes >> 20  # the engine's own default is 8 GiB
    params.fit_params = False  # what the bundle says, or nothing: no silent change of the context's size
    params.offline = True
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.verbosity = _LOG_ERRORS
    if not options.memory_map:
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    if files is not None:
        params.slot_save_path = f"{files.folder}/"  # it puts folder and name together as they are
    kinds = xllamacpp.common_speculative_type
    if drafts == "ngram":
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K]
        params.speculative.ngram_map_k.size_n, params.speculative.ngram_map_k.size_m = _NGRAM, _NGRAM_DRAFT
    elif drafts == "model":
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.mparams.path = load.draft_path
        params.speculative.draft.n_gpu_layers = options.gpu_layers
        threads = params.speculative.draft.cpuparams, params.speculative.draft.cpuparams_batch
        threads[0].n_threads = threads[1].n_threads = load.threads
    return XllamacppEngine(xllamacpp.Server(params), socket_path)


def _drafts(load: Load) -> Tried:
    """What is to guess tokens ahead: what was measured to be fastest, now or by an earlier worker."""
    if load.options.drafts == "none" or not load.draft_measure_s or not load.cache_dir:
        return Tried()

    def measure(kind: Drafts, limit_s: float) -> float | None:
        return in_child(lambda: _write_summary(load, kind, limit_s), limit_s)

    return choose(draft_candidates(load), draft_memory(load), measure, load.draft_measure_s)


def draft_candidates(load: Load) -> list[Drafts]:
    """What may guess tokens ahead."""
    return ["ngram", "model"] if load.draft_path else ["ngram"]


def draft_memory(load: Load) -> Memory:
    """Where it is remembered what was measured for this load. Makes the folder."""
    folder = Path(load.cache_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = f"xllamacpp {version('xllamacpp')} {load.identity} {load.threads} {draft_candidates(load)}"
    return Memory(folder / "drafts.json", identity)


def _write_summary(load: Load, drafts: Drafts, limit_s: float) -> float:
    """Seconds that drafts.PROMPT's answer takes, the prompt being read. Processor time: a box has other things to do at
    its start; with a GPU that would not show its work."""
    now_s = time.monotonic if load.options.gpu_layers else processor_s
    deadline_s = time.monotonic() + limit_s
    engine = _open_engine(load, drafts, None)
    request = {"prompt": PROMPT, "temperature": 0.0, "ignore_eos": True, "cache_prompt": True, "id_slot": 0}
    engine.write({**request, "n_predict": 1}, deadline_s, lambda: False)
    took_s = []
    for _ in range(N_RUNS):
        began_s = now_s()
        engine.write({**request, "n_predict": N_TOKENS}, deadline_s, lambda: False)
        took_s.append(now_s() - began_s)
    return min(took_s)


def _files(load: Load, library: str) -> PrefixFiles | None:
    """Where states are kept: over restarts where a folder is given, else in the worker's own, for its slots."""
    if not load.max_cache_bytes:
        return None
    folder = Path(load.cache_dir or Path(load.scratch_dir) / "states")
    try:
        return PrefixFiles(folder, f"xllamacpp {library} {load.identity}", load.max_cache_bytes)
    except OSError as exc:
        print(f"states of static prompts are not kept: {exc}", file=sys.stderr)
        return None
