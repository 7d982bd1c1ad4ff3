"""An OpenAI-compatible server on loopback: a simulator that is as sure as a test says, and llama.cpp's own."""

import math
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from tests.sim.tier_servers import TierServer

Form = Literal["chat", "completions", "legacy", "none"]


class OpenAIServer(TierServer):
    """Says each letter with the probability in `sure`. `form`: how probabilities are told.

    "completions" is llama.cpp's form of them (as in chat), "legacy" OpenAI's, "none" tells none.
    """

    path = "/v1"

    def __init__(self) -> None:
        super().__init__()
        self.form: Form = "chat"
        self.sure: Mapping[str, float] = {"B": 0.9, "A": 0.08}
        self.written: str | None = None  # in place of the most probable letter
        self.usage: Mapping[str, int] | None = {"prompt_tokens": 40, "completion_tokens": 1}
        self.unknown: set[str] = set()  # keys of a request that are answered 400

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._post)
        app.router.add_post("/v1/completions", self._post)

    async def _answer(self, request: web.Request, raw: bytes, asked: Any) -> web.StreamResponse:
        for key in sorted(self.unknown & set(asked)):
            hint = "use 'max_completion_tokens' instead" if key == "max_tokens" else "is not supported by this model"
            return web.json_response({"error": {"message": f"'{key}' {hint}"}}, status=400)
        return await super()._answer(request, raw, asked)

    async def answer(self, asked: Any) -> Any:
        letter = max(self.sure, key=self.sure.__getitem__) if self.written is None else self.written
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": letter}} if "messages" in asked else {"text": letter}
        if "logprobs" in asked and self.form != "none":
            choice["logprobs"] = self._told()
        answer = {"id": "1", "object": "completion", "model": "tiny-2026-01", "choices": [choice]}
        return answer | ({"usage": self.usage} if self.usage is not None else {})

    def _told(self) -> Any:
        logprobs = {token: math.log(p) for token, p in self.sure.items()}
        if self.form == "legacy":
            return {"tokens": ["B"], "top_logprobs": [logprobs]}
        tops = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
        return {"content": [{**tops[0], "top_logprobs": tops}]}

    @property
    def prompts(self) -> list[str]:
        return [asked["messages"][0]["content"] if "messages" in asked else asked["prompt"] for asked in self.requests]


@contextmanager
def llama_server(model: Path, *, context_tokens: int = 1024) -> Iterator[str]:
    """llama.cpp's HTTP server with this model; its base URL."""
    import xllamacpp

    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = 2 * context_tokens
    params.n_parallel = 2
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.swa_full = True
    params.cache_ram_mib = 64
    params.offline = True
    params.fit_params = False
    params.ui = False
    params.verbosity = 1
    server = xllamacpp.Server(params)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        del server
