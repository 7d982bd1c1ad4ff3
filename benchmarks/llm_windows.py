"""Windows of log lines for benchmarks.llm_speed: the prompts that summarize_text makes, and how much of them is cached.

    python -m benchmarks.llm_windows CACHE_DIR

Prints, as JSON, the share of a prompt's tokens that were computed before it came, once the handler had started: of the
first window, of those after it, and of the first after the worker was killed. With a CACHE_DIR that an earlier run
left, the first one is what a daemon finds after its restart.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.quality_text import hourly_windows
from gatewayd.api import TextSession, WorkerCrashed
from gatewayd.config import schema
from gatewayd.models.factories import factories
from gatewayd.models.store import ModelStore
from gatewayd_handlers import summary_prompt
from gatewayd_handlers.summarize_text import SummarizeText
from gatewayd_handlers.summary_facts import mine
from tests.sim.models import demo_models

_N_WINDOWS = 20
_MAX_LINES = 6  # as summarize_text tells by default
_DEVICES = ("pump", "fan", "valve", "press", "mixer", "oven", "belt", "crane")
_EVENTS = (
    "bearing temperature {} C above limit",
    "motor stopped by protection relay K{}",
    "pressure {} bar, ok",
    "started by operator {}",
    "vibration {} mm/s above limit",
    "no answer from drive {} for 10 s",
)


def lines(number: int) -> list[str]:
    """The log of one window: what happens to one device, some of it several times."""
    device = f"{_DEVICES[number % len(_DEVICES)]}-{number + 1}"
    return [
        f"{device} {event.format(10 * number + times)}"
        for place, event in enumerate(_EVENTS)
        for times in range(1 + (number + place) % 4)
    ]


def prompts(n: int) -> list[str]:
    """What summarize_text asks a language model for `n` windows: hours of a recorded Linux log where the recordings are
    (GATEWAYD_DATA), else windows of our own making, which have more to say."""
    static = summary_prompt.static_part(list(summary_prompt.EXAMPLES), "")
    texts = _recorded(n) or [lines(number) for number in range(n)]
    facts = [mine([(float(i), line) for i, line in enumerate(window)], 0.0, 3600.0, []) for window in texts]
    return [static + summary_prompt.variable_part(summary_prompt.digest(one, _MAX_LINES)) for one in facts]


def _recorded(n: int) -> list[list[str]]:
    path = Path(os.environ.get("GATEWAYD_DATA", "")) / "text" / "Linux_2k.log"
    if not path.is_file():
        return []
    hours = [[str(message.value) for message in batch.messages] for batch in hourly_windows(path)]
    return hours[:n] if len(hours) >= n else []


def ask_window(cache_dir: Path) -> dict[str, float]:
    """What this module prints, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.llm_windows", str(cache_dir)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    config = schema.Models(llm_draft_measure_s=0.0, worker_start_s=600.0)
    models = ModelStore(demo_models("gemma3-270m"), config, factories=factories(Path(sys.argv[1])))
    handler = SummarizeText(msgspec.convert({"model": "gemma3-270m"}, SummarizeText.Config))  # type: ignore[arg-type]
    try:
        handler.start(models)
        session: Any = models.get("gemma3-270m").text()
        *windows, last = prompts(_N_WINDOWS)
        shares = [_share(session, prompt) for prompt in windows]
        os.kill(session.pid, signal.SIGKILL)
        killed = _share(session, last)
    finally:
        models.close()
    told = {"first window": shares[0], "warm windows, median": statistics.median(shares[1:]), "after a kill": killed}
    print(json.dumps(told))


def _share(session: TextSession, prompt: str) -> float:
    """Of one prompt's tokens; once more where the worker is found dead."""
    try:
        completion = session.complete(prompt, max_tokens=1, timeout_s=600.0)
    except WorkerCrashed:
        completion = session.complete(prompt, max_tokens=1, timeout_s=600.0)
    return completion.tokens_cached / completion.tokens_in


if __name__ == "__main__":
    main()
