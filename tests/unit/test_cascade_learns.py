"""What a running cascade leaves behind: lessons of what higher tiers answered, and a trail that verifies."""

import json
from pathlib import Path
from typing import Any

from gatewayd.cascade.chain_files import examine, lines, trail_files
from gatewayd.cascade.lesson_files import Lesson, read_lessons
from tests.sim.tiers import CLOUD, STUDENT, FarTier, cascade

SURE = {"student": ["a", 0.95]}
UNSURE = {"student": ["a", 0.6], "text": "joe@example.com"}
LEARNS = {"escalation": {"privacy": "cloud", "lessons": True, "redact": ["email"]}}


def lessons(folder: Path) -> list[Lesson]:
    return [each for each in read_lessons(folder / "state/lessons/r") if each is not None]


def trail(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for path in trail_files(folder / "state/audit") for line in lines(path)]
    return [record for record in found if "event" not in record]


def far(label: str = "b") -> FarTier:
    one = FarTier()
    one.answer = lambda _: one.say(label)
    return one


async def test_what_the_cloud_answered_is_a_lesson_with_the_payload_as_it_came(tmp_path: Path) -> None:
    cloud = far()
    async with cascade(tmp_path, [cloud], route=LEARNS) as rig:
        keys = rig.send(UNSURE, SURE, SURE)
        await rig.settled(received=3, handled=3)

    taught = [each for each in lessons(tmp_path) if not each.is_rehearsal]
    assert [(each.key, each.label, each.tier, each.student.label) for each in taught] == [(keys[0], "b", "cloud", "a")]
    assert taught[0].value == UNSURE  # not redacted: it stays here
    assert cloud.asked[0][0].value["text"] == "[email]"


async def test_a_sure_answer_is_rehearsed_once_for_each_lesson(tmp_path: Path) -> None:
    async with cascade(tmp_path, [far()], route=LEARNS) as rig:
        rig.send(UNSURE)
        await rig.settled(received=1, handled=1)
        rig.send(SURE, SURE, SURE)
        await rig.settled(received=4, handled=4)

    assert [each.is_rehearsal for each in lessons(tmp_path)] == [False, True]


async def test_a_series_is_learned_from_by_its_window(tmp_path: Path) -> None:
    tiers = {"student": {**STUDENT, "handler": "stateful"}, "cloud": CLOUD}
    async with cascade(tmp_path, [far()], route=LEARNS, tiers=tiers) as rig:
        (key,) = rig.send(UNSURE)
        await rig.settled(received=1, handled=1)

    (lesson,) = lessons(tmp_path)
    assert (lesson.is_evidence, lesson.value) == (True, {"window": [1.0, 2.0], "of": key})


async def test_without_the_routes_word_nothing_is_kept_to_learn_from(tmp_path: Path) -> None:
    async with cascade(tmp_path, [far()]) as rig:
        rig.send(UNSURE)
        await rig.settled(received=1, handled=1)

    assert not (tmp_path / "state/lessons").exists()


async def test_the_trail_of_a_run_links_a_correction_to_the_first_answer_and_verifies(tmp_path: Path) -> None:
    async with cascade(tmp_path, [far()], route=LEARNS) as rig:
        (key,) = rig.send(UNSURE)
        await rig.settled(received=1, handled=1)

    first, second = trail(tmp_path)
    assert (first["key"], first["tier"], first["next_tier"], first["cause"]) == (key, "student", "cloud", "unsure")
    assert (second["corrects"], second["tier"], second["label"]) == (key, "cloud", "b")
    assert [each["tier"] for each in second["asked"]] == ["student"]
    assert examine(tmp_path / "state/audit").problem == ""
    assert "joe" not in "".join(path.read_text() for path in trail_files(tmp_path / "state/audit"))
