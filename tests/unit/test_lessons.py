"""Lessons on a real disk: what is kept, within its cap, never in a message's way."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.cascade.lesson_files import Lesson, look, purge, read_lessons, segments
from gatewayd.cascade.lessons import Lessons
from gatewayd.cascade.verdict import Decision
from gatewayd.config.schema import Escalation, Route
from tests.sim.decisions import decision, verdict

CLOUD = verdict("cloud", "alert", 0.99, model="big")
UNSURE = verdict(confidence=0.6)


def taught(number: int) -> Decision:
    """A decision that the cloud has taken."""
    return decision(number, said=CLOUD, asked=(UNSURE, CLOUD), cause="last")


class Rig:
    def __init__(self, root: Path) -> None:
        self.root = root / "lessons"
        self.events: Counter[tuple[str, str]] = Counter()
        self.opened: list[Lessons] = []

    def open(self, **more: Any) -> Lessons:
        escalation = Escalation(**{"lessons": True, **more})
        routes = {"logs": Route(topics=["a"], escalation=escalation), "quiet": Route(topics=["a"])}
        lessons = Lessons(self.root, routes, self.count)
        self.opened.append(lessons)
        return lessons

    def count(self, route: str, event: str, n: int) -> None:
        self.events[route, event] += n

    def kept(self) -> list[Lesson]:
        return [lesson for lesson in read_lessons(self.root / "logs") if lesson is not None]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    for lessons in rig.opened:
        lessons.close()


def keep(lessons: Lessons, said: Decision, value: Any = "disk is full", route: str = "logs") -> None:
    lessons.keep(route, said, topic="logs/a", time=said.time, value=value)


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(4000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to be so")


def test_what_a_higher_tier_answered_is_kept_with_the_payload(rig: Rig) -> None:
    lessons = rig.open()

    keep(lessons, taught(7), {"text": "disk is full", "n": 3})
    lessons.close()

    (lesson,) = rig.kept()
    assert (lesson.value, lesson.topic, lesson.key) == ({"text": "disk is full", "n": 3}, "logs/a", "0f-0000000007")
    assert (lesson.label, lesson.tier, lesson.model) == ("alert", "cloud", "big")
    assert lesson.student == UNSURE
    assert not lesson.is_rehearsal
    assert rig.events == {("logs", "kept"): 1}


def test_nothing_is_kept_of_a_route_that_does_not_say_so(rig: Rig) -> None:
    lessons = rig.open()

    keep(lessons, taught(1), route="quiet")
    lessons.close()

    assert not rig.root.exists()


def test_an_answer_that_is_not_final_teaches_nothing(rig: Rig) -> None:
    lessons = rig.open()

    keep(lessons, decision(1, said=UNSURE, asked=(UNSURE,), next_tier="cloud", cause="unsure"))
    keep(lessons, decision(2, said=UNSURE, asked=(UNSURE,), cause="expired"))
    lessons.close()

    assert rig.kept() == []


def test_for_each_lesson_one_answer_the_student_was_sure_of_is_kept(rig: Rig) -> None:
    lessons = rig.open()

    keep(lessons, decision(1))
    for number in (2, 3):
        keep(lessons, taught(number))
    for number in range(4, 10):
        keep(lessons, decision(number))
    lessons.close()

    assert [(lesson.key[-1], lesson.is_rehearsal) for lesson in rig.kept()] == [
        ("2", False),
        ("3", False),
        ("4", True),
        ("5", True),
    ]


def test_the_oldest_lessons_are_given_up_for_new_ones(rig: Rig) -> None:
    cap = 30_000
    lessons = rig.open(max_lessons_bytes=cap)
    for number in range(90):
        keep(lessons, taught(number), "x" * 200)
        if number % 5 == 0:
            wait_until(lambda: lessons._waiting_bytes["logs"] == 0)
    lessons.close()

    (shelf,) = look(rig.root)
    kept = rig.kept()
    assert shelf.n_bytes <= cap
    assert shelf.n_taught == len(kept) > 20
    assert kept[-1].key == f"0f-{89:010x}"
    assert rig.events["logs", "oldest"] > 0
    given_up = rig.events["logs", "oldest"] + rig.events["logs", "full"]
    assert len(kept) == 90 - given_up


def test_lessons_go_on_after_a_restart_and_a_torn_line_is_cut_off(rig: Rig) -> None:
    first = rig.open()
    keep(first, taught(1))
    first.close()
    (path,) = segments(rig.root / "logs")
    with path.open("ab") as file:
        file.write(b'{"key":"half')

    second = rig.open()
    keep(second, taught(2))
    second.close()

    assert [lesson.key[-1] for lesson in rig.kept()] == ["1", "2"]
    assert look(rig.root)[0].n_damaged == 0


def test_a_folder_that_cannot_be_written_costs_lessons_and_no_message(rig: Rig) -> None:
    rig.root.write_text("a file stands where the folder should be")
    lessons = rig.open()

    keep(lessons, taught(1))
    wait_until(lambda: rig.events["logs", "failed"] == 1)
    rig.root.unlink()
    keep(lessons, taught(2))
    lessons.close()

    assert [lesson.key[-1] for lesson in rig.kept()] == ["2"]


def test_what_waits_in_memory_is_bounded(rig: Rig) -> None:
    lessons = rig.open(max_lessons_bytes=8 * 2000)

    for number in range(100):
        keep(lessons, taught(number), "x" * 500)

    assert lessons._waiting_bytes["logs"] <= 2000
    assert rig.events["logs", "full"] >= 90


def test_a_value_that_is_no_json_is_counted(rig: Rig) -> None:
    lessons = rig.open()

    keep(lessons, taught(1), object())

    assert rig.events == {("logs", "not_json"): 1}


def test_they_are_for_the_daemons_user_alone_and_can_be_purged(rig: Rig) -> None:
    lessons = rig.open()
    keep(lessons, taught(1))
    lessons.close()
    (path,) = segments(rig.root / "logs")
    modes = (path.stat().st_mode & 0o077, path.parent.stat().st_mode & 0o077)

    n_bytes = purge(rig.root, ["logs"])

    assert modes == (0, 0)
    assert n_bytes > 0
    assert look(rig.root) == []


def test_what_is_purged_beside_a_running_daemon_does_not_stop_it(rig: Rig) -> None:
    lessons = rig.open()
    keep(lessons, taught(1))
    wait_until(lambda: rig.events["logs", "kept"] == 1)

    purge(rig.root, ["logs"])
    keep(lessons, taught(2))
    lessons.close()

    assert [lesson.key[-1] for lesson in rig.kept()] == ["2"]
