"""Which drafts are chosen, from what was measured, remembered, or went wrong; and tries in a process of their own."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from gatewayd.runtimes.drafts import Drafts, Memory, Tried, choose, in_child


class Bench:
    """Measures from a table of seconds; `asked` are the kinds in order."""

    def __init__(self, seconds: Mapping[str, float | None]) -> None:
        self.asked: list[str] = []
        self._seconds = seconds

    def measure(self, kind: Drafts, limit_s: float) -> float | None:
        self.asked.append(kind)
        return self._seconds[kind]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "drafts.json", "model a")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"none": 2.0, "ngram": 1.0, "model": 1.5}, "ngram"),
        ({"none": 2.0, "ngram": 1.9, "model": 1.5}, "model"),
        ({"none": 2.0, "ngram": 1.9, "model": 2.4}, "none"),
        ({"none": 2.0, "ngram": None, "model": 1.0}, "model"),
        ({"none": 2.0, "ngram": None, "model": None}, "none"),
    ],
)
def test_what_was_clearly_faster_is_chosen(memory: Memory, seconds: dict[str, float | None], chosen: str) -> None:
    assert choose(["ngram", "model"], memory, Bench(seconds).measure, 60.0).kind == chosen


def test_a_choice_is_remembered_and_nothing_measured_again(tmp_path: Path) -> None:
    choose(["ngram"], Memory(tmp_path / "d.json", "a"), Bench({"none": 2.0, "ngram": 1.0}).measure, 60.0)
    again = Bench({"none": 1.0, "ngram": 9.0})

    chosen = choose(["ngram"], Memory(tmp_path / "d.json", "a"), again.measure, 60.0)

    assert (chosen.kind, again.asked) == ("ngram", [])
    assert chosen.gain == pytest.approx(2.0)


def test_another_model_is_measured_for_itself(tmp_path: Path) -> None:
    choose(["ngram"], Memory(tmp_path / "d.json", "a"), Bench({"none": 2.0, "ngram": 1.0}).measure, 60.0)
    other = Bench({"none": 1.0, "ngram": 9.0})

    assert choose(["ngram"], Memory(tmp_path / "d.json", "b"), other.measure, 60.0).kind == "none"
    assert other.asked == ["none", "ngram"]


def test_a_model_that_is_too_slow_to_measure_is_used_without_drafts_and_never_measured_again(memory: Memory) -> None:
    first = Bench({"none": None})
    choose(["ngram", "model"], memory, first.measure, 60.0)
    second = Bench({})

    chosen = choose(["ngram", "model"], memory, second.measure, 60.0)

    assert (chosen.kind, chosen.gain) == ("none", 0.0)
    assert (first.asked, second.asked) == (["none"], [])


def test_what_the_worker_ended_with_is_not_tried_again(memory: Memory) -> None:
    memory.put(Tried(seconds={"none": 2.0}, trying="ngram"))
    bench = Bench({"model": 1.0})

    assert choose(["ngram", "model"], memory, bench.measure, 60.0).kind == "model"
    assert bench.asked == ["model"]


def test_a_damaged_memory_is_measured_anew(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_bytes(b'{"x": 7')

    assert choose(["ngram"], Memory(tmp_path / "d.json", "a"), Bench({"none": 2.0, "ngram": 1.0}).measure, 60.0).kind


def test_only_so_many_choices_are_remembered(tmp_path: Path) -> None:
    for number in range(70):
        Memory(tmp_path / "d.json", f"model {number}").put(Tried(seconds={"none": 1.0}))

    assert Memory(tmp_path / "d.json", "model 0").get() is None
    assert Memory(tmp_path / "d.json", "model 69").get() is not None


def test_a_try_tells_its_number() -> None:
    assert in_child(lambda: 0.25, 30.0) == 0.25


def test_a_try_that_fails_dies_or_hangs_tells_nothing() -> None:
    def fail() -> float:
        raise ValueError("no such model")

    def die() -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    def hang() -> float:
        time.sleep(600)
        return 1.0

    assert in_child(fail, 30.0) is None
    assert in_child(die, 30.0) is None
    assert in_child(hang, 0.05) is None
    assert in_child(lambda: 1.0, 0.0) is None
