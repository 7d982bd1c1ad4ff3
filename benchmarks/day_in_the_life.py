"""Figure 5: a day in the life of a cascade, time compressed: real daemon, Mosquitto, result cloud and far tier.

    python -m benchmarks.day_in_the_life --data DIR [--seconds 120]

A day of 24 h passes in `--seconds`. BGL log lines come in all day, labeled by BGL itself (`-` or an alert). A student
(`models fit --text`, `models calibrate`) was made of the first part of the log; the rest is the traffic, in order,
several times over. The far tier (the true labels) and the cloud are away from 8 to 16 h, the daemon is killed at 12 h.
Escalations older than 3.5 h are settled with the local answer; the far tier's calls are limited to six tenths of what
the day would take; a second route's messages and results expire after 3 h. A listener on the local bus notes every
live result.

Held against the cloud-only alternative in the same run: every message sent to the far tier.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import line_chart
from benchmarks.day_parts import Day, Live, Sender, Student, fit_student, messages_of
from benchmarks.quality_text import bgl
from gatewayd.api import Batch, Message, Result
from gatewayd.cascade.policy import DEFAULT_ACCEPT, TierView, doubt
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_text import ClassifyText, Options
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.judge import JudgeProcess
from tests.sim.mosquitto import Mosquitto

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "day_in_the_life.json"
PICTURE = ROOT / "docs" / "guides" / "pictures" / "day-in-the-life.svg"
AWAY, BACK, KILL = 8.0, 16.0, 12.0
MAX_AGE_H, TTL_H = 3.5, 3.0
FIT_ON, CALIBRATE_ON, TRAFFIC = range(300), range(300, 700), range(700, 2000)  # lines of the log, in its order
BUDGET = 0.6  # of the calls that the day would take
_SETTLE_S = 120.0

CONFIG = """
[source]
port = {port}
client_id = "day"
[sinks.cloud]
type = "http"
url = "{cloud}"
retry_max_s = 0.5
[models]
dir = "{models}"
[tiers.student]
type = "handler"
handler = "classify_text"
[tiers.student.options]
field = "text"
head = "{head}"
[tiers.expert]
type = "http"
url = "{judge}"
retry_max_s = 0.5
max_calls_per_day = {max_calls}
[routes.logs]
topics = ["logs/+"]
tiers = ["student", "expert"]
sinks = ["cloud"]
payload = {{ format = "json", id = "id" }}
include_input = true
[routes.logs.escalation]
privacy = "cloud"
redact = ["ip", "email"]
max_age_s = {max_age_s}
[routes.passing]
topics = ["passing/+"]
tiers = ["student", "expert"]
sinks = ["cloud"]
payload = {{ format = "json", id = "id" }}
ttl_s = {ttl_s}
[routes.passing.escalation]
privacy = "cloud"
"""


class Scene:
    """All processes of the day."""

    def __init__(self, folder: Path, student: Student, labels: Sequence[str], day: Day, max_calls: int) -> None:
        (folder / "labels.json").write_text(json.dumps(labels))
        self.broker = Mosquitto(folder / "broker", persistence=True)
        self.cloud = CloudProcess(folder)
        self.judge = JudgeProcess(folder, labels=folder / "labels.json")
        self.live = Live(folder / "live.txt")
        text = CONFIG.format(
            port=self.broker.port,
            cloud=self.cloud.url,
            judge=self.judge.url,
            models=student.models,
            head=student.name,
            max_calls=max_calls,
            max_age_s=day.seconds_of(MAX_AGE_H),
            ttl_s=day.seconds_of(TTL_H),
        )
        self.gateway = Gateway(folder / "gateway", text, name="day")

    def start(self) -> None:
        self.broker.start()
        self.cloud.start()
        self.judge.start()
        self.live.start(self.broker.port)
        self.gateway.start()

    def end(self) -> None:
        self.gateway.end()
        self.live.stop()
        self.judge.stop()
        self.cloud.stop()
        self.broker.stop()

    def waiting(self) -> int:
        """Messages whose better answer is missing, on both routes."""
        status = self.gateway.get("/status")
        return 0 if status is None else sum(each["waiting"] for each in status["cascades"].values())


def play(scene: Scene, day: Day, messages: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The day itself; what was seen every half hour."""
    main, passing = Sender(scene.broker.port, "logs/bgl"), Sender(scene.broker.port, "passing/bgl")
    seen: list[dict[str, float]] = []
    day.begin()
    events = [(AWAY, _leave), (KILL, _kill), (BACK, _return)]
    for index, message in enumerate(messages):
        hour = 24.0 * index / len(messages)
        day.wait_until(hour)
        while events and hour >= events[0][0]:
            events.pop(0)[1](scene)
        if hour >= 0.5 * len(seen):
            provisional, corrected = map(len, scene.live.ids("logs"))
            seen.append({"hour": hour, "waiting": scene.waiting(), "provisional": provisional, "corrected": corrected})
        (passing if index % 10 == 9 else main).send(message)
    main.close()
    passing.close()
    return seen


def _leave(scene: Scene) -> None:
    scene.judge.stop()
    scene.cloud.stop()


def _return(scene: Scene) -> None:
    scene.judge.start()
    scene.cloud.start()


def _kill(scene: Scene) -> None:
    scene.gateway.kill()
    scene.gateway.start(ready=False)  # the day does not wait for it: what comes meanwhile waits at the broker


def settle(scene: Scene, n_messages: int) -> None:
    """The night: until everything is handled or expired, and delivered."""

    def is_over() -> bool:
        books = scene.gateway.books()
        received = sum(book["received"] for book in books.messages.values())
        journaled = sum(book["journaled"] for book in books.messages.values())
        return received >= n_messages and not journaled and not scene.gateway.n_pending()

    wait_until(is_over, _SETTLE_S, scene.gateway.describe)


def report(scene: Scene, labels: Sequence[str]) -> dict[str, Any]:
    """The figures."""
    books = scene.gateway.books()
    book, passing = books.messages["logs"], books.messages["passing"]
    n_asked, n_all = len(scene.judge.asked()), book["received"] + passing["received"]
    command = [sys.executable, "-m", "gatewayd", "spool", "audit", "--config", str(scene.gateway.config)]
    audited = subprocess.run(command, capture_output=True, check=False)
    return {
        "messages": n_all,
        "logs": {"received": book["received"], **_logs(scene, labels)},
        "passing": {line: n for line, n in passing.items() if n},
        "passing_results": {line: n for line, n in books.results["passing"]["cloud"].items() if n},
        "far_tier": {"asked": n_asked, "cloud_only_would_ask": n_all, "fewer": round(1 - n_asked / n_all, 4)},
        "books_balanced": books.balanced and audited.returncode == 0,
    }


def _logs(scene: Scene, labels: Sequence[str]) -> dict[str, Any]:
    """Of the route whose results do not expire: everything that it said is in the cloud."""
    stored = {id_: event["data"] for (source, id_), event in scene.cloud.stored().items() if source.endswith("/logs")}
    first = {id_: data for id_, data in stored.items() if "corrects" not in data}
    finals = {data["corrects"]: data for data in stored.values() if "corrects" in data}
    provisional = {id_ for id_, data in first.items() if data["provisional"]}
    truth = {id_: labels[data["input"]["n"]] for id_, data in first.items()}
    live, corrected_live = scene.live.ids("logs")
    return {
        "provisional": len(provisional),
        "corrected": len(finals),
        "changed": sum(data["changed"] for data in finals.values()),
        "never_corrected": len(provisional - finals.keys()),
        "corrected_twice": len(stored) - len(first) - len(finals),
        "live_provisional": len(live),
        "live_never_corrected": len(live.keys() - corrected_live.keys()),
        "final_causes": dict(Counter(data["cause"] for data in finals.values())),
        "first_causes": dict(Counter(data.get("cause", "sure") for data in first.values())),
        "escalation_rate": round(len(provisional) / max(1, len(first)), 4),
        "accuracy_local": _accuracy({id_: data["label"] for id_, data in first.items()}, truth),
        "accuracy_final": _accuracy({id_: finals.get(id_, first[id_])["label"] for id_ in first}, truth),
    }


def _accuracy(said: dict[str, str], truth: dict[str, str]) -> float:
    return round(sum(truth[id_] == label for id_, label in said.items()) / max(1, len(said)), 4)


def problems(figures: dict[str, Any], n_messages: int) -> list[str]:
    """What must not be; none: the day went by the rules."""
    logs = figures["logs"]
    checks = {
        "messages are missing": figures["messages"] < n_messages,
        "provisional answers were never corrected": logs["never_corrected"] > 0,
        "answers were corrected twice": logs["corrected_twice"] != 0,
        "the books do not balance": not figures["books_balanced"],
        "nothing expired by max_age_s": "expired" not in logs["final_causes"],
        "no budget was spent": "budget" not in {**logs["final_causes"], **logs["first_causes"]},
    }
    return [name for name, is_wrong in checks.items() if is_wrong]


def draw(seen: Sequence[dict[str, float]]) -> str:
    """The day as a picture."""
    names = {
        "provisional answers so far": "provisional",
        "corrections so far": "corrected",
        "waiting for a better answer": "waiting",
    }
    lines = {name: [(row["hour"], row[key]) for row in seen] for name, key in names.items()}
    return line_chart("A day: cloud and far tier away 8–16 h, kill -9 at 12 h", "hour", "messages", lines)


def unsure(student: Student, corpus: Any, part: range) -> int:
    """How many of these lines the student would hand on, found out beside the daemon: what the budget is made of."""
    models = Calibrations(ModelStore(student.models, ModelsConfig()))
    handler = ClassifyText(Options(head=student.name, field="text"))
    handler.start(models)
    tier = TierView(name="student", accept=models.accept or DEFAULT_ACCEPT)
    batch = [Message(topic="t", value={"text": corpus.lines[n]}, time=0.0, key=str(n)) for n in part]
    answers = handler.handle(Batch(route="r", messages=batch, now=0.0))
    verdicts = [verdict_of("student", one.kind, one.data, models) for one in answers if isinstance(one, Result)]
    return sum(verdict is None or doubt(tier, verdict) is not None for verdict in verdicts)


def run(data: Path, seconds: float, n_rounds: int) -> tuple[dict[str, Any], list[dict[str, float]], list[str]]:
    """One day."""
    corpus, day = bgl(data), Day(seconds)
    with tempfile.TemporaryDirectory(prefix="gatewayd-day-") as name:
        folder = Path(name)
        student = fit_student(folder, corpus, FIT_ON, CALIBRATE_ON)
        n_unsure = unsure(student, corpus, TRAFFIC)
        messages = messages_of(corpus, TRAFFIC, n_rounds)
        scene = Scene(folder, student, corpus.labels, day, max_calls=max(1, int(BUDGET * n_unsure * n_rounds)))
        try:
            scene.start()
            seen = play(scene, day, messages)
            settle(scene, len(messages))
            seen.append({"hour": 24.0, "waiting": scene.waiting(), **_counts(scene)})
            assert scene.gateway.stop() == 0, scene.gateway.describe()
            figures = report(scene, corpus.labels)
        finally:
            scene.end()
        figures["student"] = {"unsure_offline": n_unsure, "of": len(TRAFFIC), "calibration": student.calibration}
        return figures, seen, problems(figures, len(messages))


def _counts(scene: Scene) -> dict[str, int]:
    provisional, corrected = scene.live.ids("logs")
    return {"provisional": len(provisional), "corrected": len(corrected)}


def show(figures: dict[str, Any]) -> None:
    """The table."""
    logs, passing, far = figures["logs"], figures["passing"], figures["far_tier"]
    rows = [
        ("messages", figures["messages"]),
        ("of them on the route `logs`", logs["received"]),
        ("answered for now (provisional)", f"{logs['provisional']} ({logs['escalation_rate']:.1%})"),
        ("corrected, exactly once each", logs["corrected"]),
        ("  by", ", ".join(f"{cause} {n}" for cause, n in sorted(logs["final_causes"].items()))),
        ("  to another label", logs["changed"]),
        ("never corrected", logs["never_corrected"]),
        ("corrected twice", logs["corrected_twice"]),
        ("`passing` (TTL): messages", ", ".join(f"{line} {n}" for line, n in passing.items())),
        ("  results", ", ".join(f"{line} {n}" for line, n in figures["passing_results"].items())),
        (
            "calls of the far tier",
            f"{far['asked']}; cloud-only {far['cloud_only_would_ask']}: {far['fewer']:.1%} fewer",
        ),
        ("accuracy, local answers", f"{logs['accuracy_local']:.4f}"),
        ("accuracy, final answers", f"{logs['accuracy_final']:.4f}; cloud-only 1 (it is the truth)"),
        ("books balanced", figures["books_balanced"]),
    ]
    for name, value in rows:
        print(f"{name:34} {value}")


def main() -> None:
    """Play the day, print and keep what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    figures, seen, wrong = run(given.data, given.seconds, given.rounds)
    show(figures)
    if not given.no_write:
        kept = {"seconds": given.seconds, "when": time.strftime("%Y-%m-%d"), **figures, "day": seen, "problems": wrong}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        PICTURE.write_text(draw(seen))
    if wrong:
        raise SystemExit("PROBLEMS: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
