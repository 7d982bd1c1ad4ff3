"""What batches bring, through the real stages: a series model at batch 1 and batched, and the text encoder.

    python -m benchmarks.batching [--data DIR] [--out benchmarks/results] [--runs 5] [--seconds 2]

Series: the demo's model (fitted here), its route with the real intake, queue, spool and live results; messages come
from memory, and as soon as some are answered as many new ones arrive (`--waiting` in all): saturation. Time in queue
plus call is taken for each message, from its arrival until the handler has answered it. A second pair of rows offers
half of what the batches managed, where a batch may wait a second to fill: with the budget, and without. What batch 1
costs through the stages is more than the model's calls: few messages share a commit. So the handler's calls alone, at
both sizes, stand beside it.

Texts: BGL_2k.log of DIR (or $GATEWAYD_DATA), by the encoder and by a bare loop over the same texts (tokenizers and
onnxruntime, a text a call), in turn. Without the cache: the distinct texts, nothing remembered. With it: all lines, as
they come. Everything is the median of --runs runs; the encoder's package is fetched like the demo's.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from benchmarks.batching_texts import encoder_rows
from benchmarks.speed.rig import prepare_model
from gatewayd.api import Batch, Message, Models, Rejection, Result
from gatewayd.clock import SystemClock
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_series import ClassifySeries, Options
from tests.sim.stages import Rig, stages

Row = dict[str, Any]

BUDGET_MS = 50.0
N_DEVICES = 10
_PAYLOAD = b'{"vibration":2.0,"current":7.5,"pressure":4.2,"n":123456}'


class Timed:
    """classify_series, with a record of how long each message took from its arrival to its answer."""

    Config = Options
    journaled = False
    inline = True

    def __init__(self) -> None:
        self._handler = ClassifySeries(Options(model="pumps"))
        self.began: dict[str, float] = {}  # by key
        self.took_s: list[float] = []
        self.sizes: list[int] = []
        self.answered = asyncio.Event()

    def start(self, models: Models) -> None:
        self._handler.start(models)

    def stop(self) -> None:
        self._handler.stop()

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        results = self._handler.handle(batch)
        now = time.monotonic()
        self.took_s += [now - self.began.pop(message.key) for message in batch.messages]
        self.sizes.append(len(batch.messages))
        self.answered.set()
        return results


def offer(rig: Rig, handler: Timed, n: int) -> None:
    """`n` messages arrive, from each device in turn."""
    for index in range(n):
        message = rig.source.offer(f"t/{index % N_DEVICES}", _PAYLOAD)
        handler.began[message.key] = time.monotonic()


async def saturate(rig: Rig, handler: Timed, n_waiting: int, seconds: float) -> None:
    """As many arrive as are answered."""
    offer(rig, handler, n_waiting)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        handler.answered.clear()
        await handler.answered.wait()
        offer(rig, handler, n_waiting - len(handler.began))


async def at_rate(rig: Rig, handler: Timed, rate: float, seconds: float) -> None:
    """`rate` messages a second, whatever is answered."""
    began = time.monotonic()
    sent = 0
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * rate)
        offer(rig, handler, due - sent)
        sent = due
        await asyncio.sleep(0.002)


async def run_series(models: Path, batch: Mapping[str, float], *, seconds: float, n_waiting: int, rate: float) -> Row:
    """One run; the first fifth of the messages warms up and does not count. `rate` 0: saturation."""
    handler = Timed()
    route = {"batch": dict(batch), "live": True, "sinks": [], "max_queue": 100_000, "payload": {"format": "json"}}
    with tempfile.TemporaryDirectory() as folder:
        running = stages(Path(folder), {"r": handler}, {"r": route}, clock=SystemClock(), models={"dir": str(models)})
        async with running as rig:
            while rig.part().state != "running":
                await asyncio.sleep(0.01)
            began = time.monotonic()
            await (at_rate(rig, handler, rate, seconds) if rate else saturate(rig, handler, n_waiting, seconds))
            elapsed_s = time.monotonic() - began
            n_answered = len(handler.took_s)
    took_ms = np.array(handler.took_s[n_answered // 5 : n_answered]) * 1e3
    return {
        "messages_a_second": n_answered / elapsed_s,
        "batch": statistics.mean(handler.sizes),
        "p50_ms": float(np.percentile(took_ms, 50)),
        "p95_ms": float(np.percentile(took_ms, 95)),
    }


def call_alone(models: Path, size: int, n_messages: int = 4096) -> Row:
    """The handler in a loop: no queue, no decoding, no spool."""
    store = ModelStore(models, ModelsConfig())
    handler = ClassifySeries(Options(model="pumps"))
    handler.start(store)
    value = json.loads(_PAYLOAD)
    messages = [Message(topic=f"t/{n % N_DEVICES}", value=value, time=float(n), key=str(n)) for n in range(n_messages)]
    handler.handle(Batch(route="r", messages=messages[:256], now=0.0))
    took_ms = []
    for at in range(0, n_messages, size):
        began = time.perf_counter()
        handler.handle(Batch(route="r", messages=messages[at : at + size], now=0.0))
        took_ms.append((time.perf_counter() - began) * 1e3)
    store.close()
    return {
        "messages_a_second": n_messages / sum(took_ms) * 1e3,
        "batch": size,
        "p50_ms": float(np.percentile(took_ms, 50)),
        "p95_ms": float(np.percentile(took_ms, 95)),
    }


def series_rows(runs: int, seconds: float, n_waiting: int) -> list[Row]:
    """Batch 1 and batched in turn, at saturation; then at half of what the batches managed."""
    alone = {"max_messages": 1}
    batched = {"max_messages": 256, "budget_ms": BUDGET_MS}
    patient = {"max_messages": 4096, "max_age_ms": 1000.0}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        prepare_model(models)

        def once(batch: Mapping[str, float], rate: float = 0.0) -> Row:
            run = run_series(models, batch, seconds=seconds, n_waiting=n_waiting, rate=rate)
            return asyncio.run(run)

        pairs = [(once(alone), once(batched)) for _ in range(runs)]
        rows = [median("series, batch 1, saturated", [one for one, _ in pairs])]
        rows.append(median(f"series, batches within {BUDGET_MS:g} ms, saturated", [one for _, one in pairs]))
        rows[1]["ratio"] = statistics.median(b["messages_a_second"] / a["messages_a_second"] for a, b in pairs)
        calls = [(call_alone(models, 1), call_alone(models, 256)) for _ in range(runs)]
        rows.append(median("the handler's calls alone, batch 1", [one for one, _ in calls]))
        rows.append(median("the handler's calls alone, batch 256", [one for _, one in calls]))
        rows[3]["ratio"] = statistics.median(b["messages_a_second"] / a["messages_a_second"] for a, b in calls)
        half = rows[1]["messages_a_second"] / 2
        late = [once(patient, half) for _ in range(runs)]
        rows.append(median("series, half the load, may wait 1 s to fill", late))
        kept = [once({**patient, "budget_ms": BUDGET_MS}, half) for _ in range(runs)]
        rows.append(median(f"series, the same within {BUDGET_MS:g} ms", kept))
    return rows


def median(name: str, runs: Sequence[Row]) -> Row:
    """The median of each figure."""
    return {"what": name, **{key: statistics.median(run[key] for run in runs) for key in runs[0]}, "runs": len(runs)}


def table(series: Sequence[Row], texts: Sequence[Row]) -> str:
    """Both as Markdown."""
    lines = [
        "| what | messages/s | messages a batch | p50 | p95, queue and call | of batch 1 |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in series:
        ratio = f"{row['ratio']:.1f} x" if "ratio" in row else ""
        lines.append(
            f"| {row['what']} | {row['messages_a_second']:,.0f} | {row['batch']:.1f} | {row['p50_ms']:.2f} ms "
            f"| {row['p95_ms']:.2f} ms | {ratio} |"
        )
    lines += [
        "",
        "| what | texts | bare loop, texts/s | gatewayd, texts/s | ratio | hit rate |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['what']} | {row['texts']} | {row['bare']:.0f} | {row['ours']:.0f} | {row['ratio']:.2f} "
        f"| {row['hit_rate']:.0%} |"
        for row in texts
    ]
    return "\n".join(lines)


def main() -> int:
    """The command. Exit status 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("GATEWAYD_DATA"), help="folder of the recordings")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a run of the series model")
    parser.add_argument("--waiting", type=int, default=256, help="messages that wait or are handled, at saturation")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    series = series_rows(arguments.runs, arguments.seconds, arguments.waiting)
    texts = encoder_rows(Path(arguments.data), arguments.runs) if arguments.data else []
    kept = {
        "batches at least 3 x batch 1": series[1]["ratio"] >= 3,
        "p95 within the budget": series[1]["p95_ms"] <= BUDGET_MS,
    }
    if texts:
        kept["texts without the cache at least 0.9 x the bare loop"] = all(row["ratio"] >= 0.9 for row in texts)
    print(table(series, texts))
    for promise, is_kept in kept.items():
        print(f"{'kept' if is_kept else 'NOT KEPT'}: {promise}")
    results = {
        "what": "batching",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "series": series,
        "texts": texts,
        "kept": kept,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "batching.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
