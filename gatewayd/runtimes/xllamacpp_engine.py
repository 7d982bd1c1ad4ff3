"""llama.cpp's server engine in this process, as xllamacpp has it: what is asked of one slot, and of its socket.

Invariant: every answer of the engine is either what was asked for or one of our errors; a call ends between two tokens
or two batches of the prompt when its deadline passes or it is cancelled.
The engine insists on listening somewhere. It gets a Unix socket in the worker's own folder: no port is opened, and its
tokenizer and the files of its slots' states cannot be had in another way. Its calls are described in
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

import http.client
import json
import math
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatewayd.errors import RejectedError, TransientError
from gatewayd.runtimes.protocol import CallEndedError, IsCancelled

_SMALL_CALL_S = 30.0  # the tokenizer, reading and writing a state
_N_BEST = 256  # tokens whose probabilities the engine tells with a question: as good as free, and mostly enough
_BIAS = 100.0  # added to the logits of those that were not among the best: nothing else is then left beside them


class XllamacppEngine:
    """Implements slot_cache.SlotEngine. Every method may be called from any thread; a slot by one at a time."""

    def __init__(self, server: Any, socket_path: Path) -> None:
        self._server = server
        self._socket_path = socket_path

    def write(
        self, request: Mapping[str, Any], deadline_s: float, is_cancelled: IsCancelled
    ) -> tuple[str, dict[str, Any]]:
        """The whole text and the last chunk.

        Raises RejectedError, TransientError when late, CallEndedError when cancelled; the slot is then free again.
        """
        parts: list[str] = []
        last: dict[str, Any] = {}

        def take(chunk: dict[str, Any]) -> bool:
            nonlocal last
            last = chunk
            if chunk.get("choices"):
                parts.append(chunk["choices"][0]["text"])
            return "usage" not in chunk and (is_cancelled() or time.monotonic() > deadline_s)

        # `return_progress`: a chunk after each batch of the prompt, so that `take` can end that, too.
        answer = self._server.handle_completions({**request, "stream": True, "return_progress": True}, take)
        if isinstance(answer, dict) and "error" in answer:
            last = answer
        if "error" in last:
            raise error_of(last["error"])
        if "usage" not in last:
            if is_cancelled():
                raise CallEndedError
            raise TransientError("the language model was not done within the time-out")
        return "".join(parts), last

    def first_text(self, slot: int, prompt: str, schema: Mapping[str, Any]) -> str:
        """The first token after `prompt` under a JSON schema. Raises RejectedError, TransientError."""
        answer = self._ask({"prompt": prompt, "n_predict": 1, "temperature": 0.0, "json_schema": schema}, slot)
        return str(answer["choices"][0]["text"])

    def tokens(self, text: str) -> list[int]:
        """As the engine reads a prompt, the mark of its beginning included. Raises TransientError."""
        status, answer = self._post("/tokenize", {"content": text, "add_special": True})
        if status != 200:
            raise TransientError(f"the tokenizer answered {status}")
        return list(answer["tokens"])

    def next_logprobs(
        self, slot: int, tokens: Sequence[int], wanted: Collection[int]
    ) -> tuple[dict[int, float], dict[str, Any]]:
        """Natural logarithms of the probabilities of `wanted` as the next token, and the engine's account of it.

        What is not among the best is asked for again, with its logit raised beside that of the very best: the
        difference between the two stays what it was. Raises RejectedError, TransientError.
        """
        asked = {"prompt": list(tokens), "n_predict": 1, "temperature": 0.0, "cache_prompt": True}
        answer = self._ask({**asked, "n_probs": _N_BEST}, slot)
        best = {entry["id"]: float(entry["logprob"]) for entry in _content(answer)["top_logprobs"]}
        missing = [token for token in wanted if token not in best]
        found = {token: best[token] for token in wanted if token in best}
        if missing:
            reference = max(best, key=lambda token: best[token])
            raised = [reference, *missing]
            biased = {
                "temperature": 1.0,
                "samplers": ["temperature"],  # no other, so that the probabilities are the model's
                "post_sampling_probs": True,
                "n_probs": len(raised),
                "logit_bias": [[token, _BIAS] for token in raised],
            }
            again = self._ask({**asked, **biased}, slot)
            shares = {entry["id"]: float(entry["prob"]) for entry in _content(again)["top_probs"]}
            base = best[reference] - _log(shares.get(reference, 0.0))
            found |= {token: base + _log(shares.get(token, 0.0)) for token in missing}
        return found, dict(answer["usage"])

    def compute(self, slot: int, text: str) -> None:
        """See slot_cache.SlotEngine."""
        self._ask({"prompt": text, "n_predict": 0, "temperature": 0.0, "cache_prompt": True}, slot)

    def save(self, slot: int, name: str) -> bool:
        """See slot_cache.SlotEngine."""
        return self._state(slot, "save", name)

    def restore(self, slot: int, name: str) -> bool:
        """See slot_cache.SlotEngine."""
        return self._state(slot, "restore", name)

    def _state(self, slot: int, action: str, name: str) -> bool:
        status, _ = self._post(f"/slots/{slot}?action={action}", {"filename": name})
        return status == 200

    def _ask(self, request: Mapping[str, Any], slot: int) -> dict[str, Any]:
        answer: dict[str, Any] = self._server.handle_completions({**request, "id_slot": slot})
        if "error" in answer:
            raise error_of(answer["error"])
        return answer

    def _post(self, path: str, content: Mapping[str, Any]) -> tuple[int, Any]:
        connection = _UnixConnection(self._socket_path, _SMALL_CALL_S)
        try:
            connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise TransientError(f"the engine does not answer {path}: {exc}") from exc
        finally:
            connection.close()


def error_of(error: Mapping[str, Any]) -> Exception:
    """What the engine's error means; its codes are those of HTTP."""
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        return RejectedError(
            f"{message}: shorten the prompt or raise session.context_tokens in model.toml", reason="context"
        )
    if 400 <= int(error.get("code", 500)) < 500:
        return RejectedError(f"the language model refused the call: {message}", reason="grammar")
    return TransientError(f"the language model failed: {message}")


def _content(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the answer says about its one token."""
    content: Mapping[str, Any] = answer["choices"][0]["logprobs"]["content"][0]
    return content


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
