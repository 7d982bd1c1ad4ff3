"""Linux and OpenSSH logs through the gateway: lines with their own time, an hourly summary of each, from the cloud.

The hours are cut by the lines' own time, which lies years back: a window ends when a later line says so. Every summary
must have the form that the handler promises, every hour of the log exactly one, and every line stand in one of them.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.quality_rig import Event, Feed, Findings, Plan, toml
from benchmarks.quality_text import hourly_windows
from gatewayd_handlers.summary_form import check

MODEL = "gemma3-270m"
ROUTE = "hours"
LOGS = ("Linux_2k.log", "OpenSSH_2k.log")  # in the order of their time: the hours of a route go forward
SHOWN = 5

_ROUTES = """
[routes.hours]
topics = ["logs/+"]
handler = "summarize_text"
sinks = ["cloud"]
payload = {{ format = "json", time = "time" }}
window = {{ every_s = 3600.0, key = "topic", idle_close_s = 10.0 }}
[routes.hours.options]
model = {model}
field = "text"
require_model = true
"""

Hours = Mapping[tuple[str, float], int]  # topic and start of the hour: lines in it


def prepare(data: Path, max_hours: int, model: str = MODEL) -> Plan:
    """The first `max_hours` hours of the Linux log with lines in them, then all of OpenSSH."""
    hours: dict[tuple[str, float], int] = {}
    waves = []
    for name, limit in zip(LOGS, (max_hours, None), strict=True):
        messages: list[dict[str, Any]] = []
        topic = f"logs/{Path(name).stem}"
        for batch in list(hourly_windows(data / name))[:limit]:
            assert batch.window is not None
            hours[topic, batch.window.start] = len(batch.messages)
            messages += [{"time": message.time, "text": message.value} for message in batch.messages]
        waves.append([Feed(topic, messages)])
    routes = _ROUTES.format(model=toml(model))
    return Plan(routes, waves, {ROUTE: sum(hours.values())}, lambda events: judge(events[ROUTE], hours))


def judge(events: Sequence[Event], hours: Hours) -> Findings:
    """Whether every hour has one summary in form; how they came about, and how long they took."""
    summaries = [event["data"] for event in events]
    problems = wrong_forms(summaries) + wrong_hours(events, hours)
    by_model = [one for one in summaries if one["method"] == "model"]
    chosen = spread(by_model, SHOWN)
    figures: dict[str, Any] = {
        "hours": len(hours),
        "lines": sum(hours.values()),
        "summaries": len(summaries),
        "valid": len(summaries) - len(wrong_forms(summaries)),
        "by_method": dict(Counter(one["method"] for one in summaries)),
        "by_reason": dict(Counter(one["reason"] or "written by the model" for one in summaries)),
        "sentences_left_out": sum(bool(one["unsupported"]) for one in by_model),
        "tokens_in": sum(one["tokens_in"] for one in summaries),
        "tokens_out": sum(one["tokens_out"] for one in summaries),
        "tokens_cached": sum(one["tokens_cached"] for one in summaries),
        **seconds_each(events),
        "headlines": [one["summary"]["headline"] for one in chosen],
    }
    return Findings(figures, problems, [_shown(one) for one in chosen])


def wrong_forms(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A problem for each summary without the promised form."""
    problems = []
    for one in summaries:
        try:
            check(one["summary"])
        except (msgspec.ValidationError, KeyError) as exc:
            problems.append(f"the summary of the hour from {_clock(one['window_start'])} is not valid: {exc}")
    return problems


def wrong_hours(events: Sequence[Event], hours: Hours) -> list[str]:
    """A problem for each hour that has no summary or several, or one of another number of lines."""
    found: dict[tuple[str, float], list[int]] = {}
    for event in events:
        data = event["data"]
        found.setdefault((event["subject"], data["window_start"]), []).append(data["messages"])
    return [
        f"{topic}, hour from {_clock(start)}: {hours.get((topic, start), 0)} lines, summaries of {counts or 'none'}"
        for (topic, start), counts in sorted({**{hour: [] for hour in hours}, **found}.items())
        if counts != [hours.get((topic, start))]
    ]


def seconds_each(events: Sequence[Event]) -> dict[str, float]:
    """Seconds a summary, median and most: between the ends of one and the next, for the route works without a pause."""
    ends = sorted(datetime.fromisoformat(event["time"]).timestamp() for event in events)
    took = [later - earlier for earlier, later in pairwise(ends)]
    return {"seconds_median": round(statistics.median(took), 2), "seconds_most": round(max(took), 2)} if took else {}


def spread(summaries: Sequence[Mapping[str, Any]], n: int) -> list[Mapping[str, Any]]:
    """`n` of them, evenly spread from the first to the last: nobody has chosen them."""
    if len(summaries) <= n:
        return list(summaries)
    return [summaries[index * (len(summaries) - 1) // (n - 1)] for index in range(n)]


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%b %d %H:%M")


def _shown(data: Mapping[str, Any]) -> str:
    summary = data["summary"]
    counts = ", ".join(f"{count['n']} x {count['what']}" for count in summary["counts"][:4])
    return (
        f"{_clock(data['window_start'])}, {data['messages']} lines, severity {summary['severity']}\n"
        f"  {summary['headline']}\n  {summary['what_happened']}\n  counted: {counts}"
    )
