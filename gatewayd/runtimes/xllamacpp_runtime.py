"""xllamacpp (llama.cpp's server engine in-process), inside the worker: several completions side by side.

The engine insists on listening somewhere. It gets a Unix socket in the worker's own folder: no port is opened, and
its tokenizer cannot be had in another way.
"""

import http.client
import json
import socket
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from gatewayd.errors import RejectedError, TransientError
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import CallEndedError, Complete, Completed, IsCancelled, Load

_LOG_ERRORS = 1  # llama.cpp's levels: 1 error, 2 warning, 3 info; higher ones print prompts
_TOKENIZE_S = 30.0
_MAX_KNOWN_SCHEMAS = 64
_JSON_STARTS = tuple('{["-0123456789tfn')
# Between tokens of a JSON answer exactly what json.dumps writes: free to choose, a small model fills its budget with
# blanks. https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
_JSON_BLANKS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class XllamacppBackend:
    """Implements worker_main.Backend."""

    def __init__(self, server: Any, socket_path: Path, options: TextOptions) -> None:
        self.context_tokens = options.context_tokens
        self.parallel = options.parallel
        self._server = server
        self._socket_path = socket_path
        self._known_schemas: OrderedDict[str, None] = OrderedDict()
        self._probing = threading.Lock()

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
        text, last = self._stream(request, call.deadline_s, is_cancelled)
        usage = last["usage"]
        return Completed(
            id=call.id,
            text=text,
            tokens_in=usage["prompt_tokens"],
            tokens_out=usage["completion_tokens"],
            tokens_cached=usage["prompt_tokens_details"]["cached_tokens"],
            finish="length" if last["choices"][0]["finish_reason"] == "length" else "stop",
        )

    def count_tokens(self, text: str) -> int:
        """As many as the same text takes as a prompt, the mark of its beginning included."""
        body = json.dumps({"content": text, "add_special": True})
        connection = _UnixConnection(self._socket_path, _TOKENIZE_S)
        try:
            connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise TransientError(f"the tokenizer answered {response.status}")
        return len(json.loads(content)["tokens"])

    def _stream(
        self, request: dict[str, Any], deadline_s: float, is_cancelled: IsCancelled
    ) -> tuple[str, dict[str, Any]]:
        """The whole text and the last chunk. Deadline and cancellation can end it between two tokens and between two
        batches of the prompt (`return_progress`); the slot is then free again."""
        parts: list[str] = []
        last: dict[str, Any] = {}

        def take(chunk: dict[str, Any]) -> bool:
            nonlocal last
            last = chunk
            if chunk.get("choices"):
                parts.append(chunk["choices"][0]["text"])
            return "usage" not in chunk and (is_cancelled() or time.monotonic() > deadline_s)

        answer = self._server.handle_completions({**request, "stream": True, "return_progress": True}, take)
        if isinstance(answer, dict) and "error" in answer:
            last = answer
        if "error" in last:
            raise _error(last["error"])
        if "usage" not in last:
            if is_cancelled():
                raise CallEndedError
            raise TransientError("the language model was not done within the time-out")
        return "".join(parts), last

    def _check_schema(self, schema: dict[str, Any]) -> None:
        """Prove once that this schema binds the answer: the engine drops one it cannot compile, and says nothing.

        One token is asked for where plain text would go on with a word; only a bound answer begins as JSON does.
        """
        key = json.dumps(schema, sort_keys=True)
        with self._probing:
            if key in self._known_schemas:
                self._known_schemas.move_to_end(key)
                return
            probe = {"prompt": "Dear Sir or Madam, thank", "n_predict": 1, "temperature": 0.0, "json_schema": schema}
            answer = self._server.handle_completions(probe)
            if "error" in answer:
                raise _error(answer["error"])
            if not answer["choices"][0]["text"].startswith(_JSON_STARTS):
                raise RejectedError(
                    "the JSON schema cannot be compiled: the worker's stderr says why", reason="grammar"
                )
            self._known_schemas[key] = None
            if len(self._known_schemas) > _MAX_KNOWN_SCHEMAS:
                self._known_schemas.popitem(last=False)


def open_backend(load: Load) -> XllamacppBackend:
    """Load the model. What the library raises or prints reaches the daemon through stderr and the exit."""
    import xllamacpp

    socket_path = Path(load.scratch_dir) / "llama.sock"
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
    return XllamacppBackend(xllamacpp.Server(params), socket_path, options)


def _error(error: dict[str, Any]) -> Exception:
    """What the engine's error means; its codes are those of HTTP."""
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        return RejectedError(
            f"{message}: shorten the prompt or raise session.context_tokens in model.toml", reason="context"
        )
    if 400 <= int(error.get("code", 500)) < 500:
        return RejectedError(f"the language model refused the call: {message}", reason="grammar")
    return TransientError(f"the language model failed: {message}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
