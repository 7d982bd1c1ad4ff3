"""The quality benchmark finds what is missing or wrong: it would be worthless if it could not fail."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import quality, quality_lines, quality_readings, quality_summaries
from benchmarks.quality_report import markdown
from benchmarks.quality_rig import Feed, Findings, Plan, missing, run_plan
from benchmarks.quality_text import Bgl
from gatewayd.spool.books import MESSAGE_LINES, RESULT_LINES, Books

SUMMARY = {
    "headline": "Two logins failed",
    "what_happened": "Two logins failed.",
    "severity": "warning",
    "devices": [],
    "counts": [{"what": "login failed", "n": 2}],
}


def books(*, received: int = 3, handled: int = 3, produced: int = 3, delivered: int = 3) -> Books:
    messages = {**dict.fromkeys(MESSAGE_LINES, 0), "received": received, "handled": handled}
    results = {**dict.fromkeys(RESULT_LINES, 0), "produced": produced, "delivered": delivered}
    return Books(messages={"r": messages}, results={"r": {"cloud": results}}, reasons={})


def summary_event(start: float, n_messages: int, **changes: Any) -> dict[str, Any]:
    data = {
        "summary": SUMMARY,
        "method": "model",
        "reason": "",
        "unsupported": [],
        "tokens_in": 10,
        "tokens_out": 5,
        "tokens_cached": 4,
        "window_start": start,
        "messages": n_messages,
    }
    return {"subject": "logs/a", "time": "2026-01-01T00:00:00Z", "data": {**data, **changes}}


def test_books_in_which_all_came_and_went_are_no_problem() -> None:
    assert missing({"r": 3}, books(), {"r": 3}) == []


@pytest.mark.parametrize(
    ("found", "stored"),
    [
        (books(received=2, handled=2), 3),  # a message never arrived
        (books(handled=2), 3),  # one was received and is nowhere
        (books(produced=4), 3),  # a result was not delivered
        (books(), 2),  # a result was delivered and the cloud has not got it
    ],
)
def test_a_message_or_result_that_is_missing_is_a_problem(found: Books, stored: int) -> None:
    assert missing({"r": 3}, found, {"r": stored}) != []


def test_a_row_is_due_a_result_when_the_ring_is_full_and_not_after_a_gap() -> None:
    due = quality_readings.ready([0, 1, 2, 3, 50, 51, 52], window=3, max_gap_s=10)

    assert due == [False, False, True, True, False, False, True]


def test_a_row_with_a_result_too_few_or_too_many_is_a_problem() -> None:
    score = (0.5, False)

    assert quality_readings.wrong_rows("f", [None, score], [False, True]) == []
    assert quality_readings.wrong_rows("f", [None, None], [False, True]) != []
    assert quality_readings.wrong_rows("f", [score, score], [False, True]) != []


def test_rows_without_a_result_are_judged_both_ways() -> None:
    scores = [None, None, (0.1, False), (0.9, True)]

    line = quality_readings.both_ways("f", scores, [True, False, False, True])

    assert (line["no_result"], line["no_result_anomalies"]) == (2, 1)
    assert line["left_out"]["f1"] == 1.0
    assert line["as_normal"]["f1"] == pytest.approx(2 / 3, abs=1e-3)
    assert line["as_normal"]["auc"] < line["left_out"]["auc"]


def test_scores_are_laid_to_the_rows_they_answer() -> None:
    data = {"label": "anomaly", "scores": {"normal": 0.2, "anomaly": 0.8}}
    events = [{"data": {**data, "input": {"device": device, "row": 1}}} for device in ("mine", "other")]

    assert quality_readings.scores_of(events[1:], "mine", 2) == [None, None]
    assert quality_readings.scores_of(events, "mine", 2) == [None, (0.8, True)]


def test_a_line_without_an_answer_is_a_problem() -> None:
    corpus = Bgl(["fan failed", "all well"], ["alert", "normal"], ["fan failed", "all well"])
    events = [{"data": {"label": label, "input": {"n": n}}} for n, label in enumerate(corpus.labels)]
    route = "zero_shot_generic"

    assert quality_lines.judge({route: events}, corpus, {route: [0, 1]}).figures[route]["by_line"]["f1"] == 1.0
    assert quality_lines.judge({route: events[:1]}, corpus, {route: [0, 1]}).problems != []


def test_runs_of_one_kind_of_head_are_averaged() -> None:
    corpus = Bgl(["fan failed", "all well"], ["alert", "normal"], ["fan failed", "all well"])
    right = [{"data": {"label": label, "input": {"n": n}}} for n, label in enumerate(corpus.labels)]
    wrong = [{"data": {"label": "normal", "input": {"n": n}}} for n in range(2)]

    found = quality_lines.judge({"head_0": right, "head_1": wrong}, corpus, {"head_0": [0, 1], "head_1": [0, 1]})

    line = found.figures["head"]["by_line"]
    assert (line["f1"], line["f1_least"], line["base_rate"]) == (0.5, 0.0, 0.5)
    assert line["always_f1"] == pytest.approx(2 / 3, abs=1e-3)


def test_one_valid_summary_an_hour_is_no_problem() -> None:
    hours = {("logs/a", 0.0): 2, ("logs/a", 3600.0): 5}
    events = [summary_event(0.0, 2), summary_event(3600.0, 5, method="extractive", reason="timeout")]

    found = quality_summaries.judge(events, hours)

    assert found.problems == []
    assert found.figures["by_reason"] == {"written by the model": 1, "timeout": 1}
    assert found.figures["headlines"] == ["Two logins failed"]


@pytest.mark.parametrize(
    "events",
    [
        [],  # no summary
        [summary_event(0.0, 2), summary_event(0.0, 2)],  # two
        [summary_event(0.0, 1)],  # a line is missing
        [summary_event(0.0, 2), summary_event(3600.0, 1)],  # an hour that the log has not
        [summary_event(0.0, 2, summary={**SUMMARY, "headline": ""})],  # not in form
        [summary_event(0.0, 2, summary={**SUMMARY, "mood": "good"})],
    ],
)
def test_a_summary_that_is_missing_or_wrong_is_a_problem(events: list[dict[str, Any]]) -> None:
    assert quality_summaries.judge(events, {("logs/a", 0.0): 2}).problems != []


def test_missing_recordings_are_named(tmp_path: Path) -> None:
    with pytest.raises(quality.MissingError, match=r"BGL_2k\.log"):
        quality.recordings(tmp_path, "text")


def test_the_report_says_what_went_wrong() -> None:
    results = {
        "date": "2026-01-01",
        "commit": "0" * 40,
        "machine": {"cores": 2, "python": "3.11", "system": "x86_64"},
        "seconds": 1,
        "parts": {},
        "problems": ["series: the books do not balance"],
    }

    assert "PROBLEM: series: the books do not balance" in markdown(results)


ROUTE = """
[routes.r]
topics = ["devices/+"]
handler = "threshold"
sinks = ["cloud"]
[routes.r.options]
on = "every"
[[routes.r.options.rules]]
field = "value"
above = 1.0
label = "high"
"""


@pytest.mark.broker
@pytest.mark.parametrize(("n_expected", "n_problems"), [(20, 0), (21, 2)])
def test_what_is_published_comes_back_from_the_cloud_and_what_does_not_is_missed(
    mosquitto_binary: str, tmp_path: Path, n_expected: int, n_problems: int
) -> None:
    feeds = [Feed(f"devices/{name}", [{"value": n} for n in range(10)]) for name in "ab"]
    plan = Plan(ROUTE, [feeds], {"r": n_expected}, lambda events: Findings({}, []))

    outcome = run_plan(plan, tmp_path, "test", stall_s=3.0)

    assert len(outcome.events["r"]) == 20
    assert len(outcome.problems) == n_problems
