"""distill: the next student learns from lessons, is judged beside the present one, and takes its place when told to."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gatewayd.cascade.lesson_files import Lesson, Segments
from gatewayd.cascade.verdict import Verdict
from gatewayd.cli.app import app
from gatewayd.models.bundle import read_bundle
from gatewayd.models.distill import next_version
from gatewayd.models.distill_data import MIN_LESSONS, split
from gatewayd.models.fit_series import fit_series
from gatewayd.models.offers import list_offers
from tests.sim.models import demo_models

pytestmark = pytest.mark.timeout(180)  # it fits, calibrates and judges for real

WINDOW = 12
CONFIG = """
[gateway]
state_dir = "state"
[tiers.student]
type = "handler"
handler = "classify_series"
options = { model = "wear", device = "pump" }
accept = 0.8
[tiers.cloud]
type = "http"
url = "http://127.0.0.1:1/"
[routes.pumps]
topics = ["pumps/#"]
tiers = ["student", "cloud"]
[routes.pumps.escalation]
privacy = "cloud"
lessons = true
"""


def window(draw: np.random.Generator, level: float) -> list[list[float]]:
    return [[float(level + 0.15 * draw.normal())] for _ in range(WINDOW)]


def said(label: str, confidence: float, tier: str) -> Verdict:
    return Verdict(tier=tier, label=label, scores={label: confidence}, confidence=confidence, model="wear")


def lesson(number: int, value: Any, label: str, *, tier: str = "cloud", **more: Any) -> Lesson:
    student = said("normal", 0.6 if tier == "cloud" else 0.97, "student")
    fields = {"key": f"k{number}", "topic": "pumps/1", "time": 1000.0 + number, "value": value, "student": student}
    return Lesson(**{**fields, "label": label, "tier": tier, "confidence": 0.99, **more})


def write_lessons(box: Path, route: str, lessons: Sequence[Lesson]) -> None:
    files = Segments(box / "state/lessons" / route, 1 << 26)
    files.append(b"".join(msgspec.json.encode(each) + b"\n" for each in lessons))
    files.close()


def pump_lessons(n: int) -> list[Lesson]:
    """A newer kind of pump: what vibrates at 1.6 is normal now, worn ones at 2.2. Of older ones the student is sure."""
    draw = np.random.default_rng(7)
    found = []
    for number in range(n):
        is_worn = draw.random() < 0.4
        value = {"fields": ["vibration"], "window": window(draw, 2.2 if is_worn else 1.6)}
        found.append(lesson(number, value, "worn" if is_worn else "normal", is_evidence=True))
        if number % 2:
            value = {"fields": ["vibration"], "window": window(draw, 1.0)}
            found.append(lesson(n + number, value, "normal", tier="student", is_evidence=True, time=1000.0 + number))
    return found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student for the older kind of pump, fitted on a recording."""
    folder = tmp_path_factory.mktemp("fitted")
    draw = np.random.default_rng(1)
    files = []
    for number in range(3):
        files.append(folder / f"{number}.csv")
        with files[-1].open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["vibration", "state"])
            for row in range(150):
                worn = row >= 90
                rows.writerow([1.0 + 0.15 * draw.normal() + 0.6 * worn, "worn" if worn else "normal"])
    fit_series(files, folder / "models", name="wear", label_column="state", window=WINDOW)
    return folder / "models"


@pytest.fixture
def box(tmp_path: Path, fitted: Path) -> Path:
    return _box(tmp_path, fitted)


def _box(folder: Path, fitted: Path) -> Path:
    shutil.copytree(fitted / "wear", folder / "models/wear")
    (folder / "config.toml").write_text(CONFIG)
    return folder


def run(box: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments, "--config", str(box / "config.toml")])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory, fitted: Path) -> tuple[Path, dict[str, Any]]:
    """A box with an offer, made once, and what was told of it."""
    box = _box(tmp_path_factory.mktemp("distilled"), fitted)
    write_lessons(box, "pumps", pump_lessons(220))
    done = run(box, "distill", "pumps", "--json")
    assert done.exit_code == 0, done.output
    return box, json.loads(done.stdout)


@pytest.fixture
def offering(tmp_path: Path, distilled: tuple[Path, dict[str, Any]]) -> Path:
    """A copy of it."""
    shutil.copytree(distilled[0], tmp_path / "box")
    return tmp_path / "box"


def test_the_next_student_knows_what_it_was_taught_and_is_only_offered(
    distilled: tuple[Path, dict[str, Any]], fitted: Path
) -> None:
    box, report = distilled

    old, new = report["present"], report["offered"]
    assert old["n"] == new["n"] == 44
    assert old["accuracy"] < 0.6
    assert new["accuracy"] > 0.9
    assert new["f1"]["worn"] > 0.9 > old["f1"]["worn"]
    assert new["escalation_rate"] <= 0.5
    assert (old["version"], new["version"]) == ("1", "2+cal1")
    assert report["labels"]["normal"] + report["labels"]["worn"] == 220
    assert content(box / "models/wear") == content(fitted / "wear")


def test_what_the_present_student_was_sure_of_is_not_forgotten(distilled: tuple[Path, dict[str, Any]]) -> None:
    _, report = distilled

    assert report["n_rehearsals_fitted"] == 66
    assert report["offered"]["n_rehearsals"] == 44
    assert report["offered"]["still_sure"] > 0.9


def test_an_offer_is_told_beside_the_bundles_and_is_none_of_them(offering: Path) -> None:
    told = run(offering, "ls").output

    assert "offered: wear; `gatewayd models adopt wear` takes it" in told
    assert len(json.loads(run(offering, "ls", "--json").stdout)) == 1


def test_an_offer_is_taken_in_one_exchange(offering: Path) -> None:
    done = run(offering, "adopt", "pumps")

    assert done.exit_code == 0, done.output
    assert "is now version 2+cal1" in done.output
    manifest = read_bundle(offering / "models/wear", name="wear").manifest
    assert (manifest.version, manifest.input["fields"], manifest.input["window"]) == ("2+cal1", ["vibration"], WINDOW)
    assert list_offers(offering / "models") == []
    assert run(offering, "verify", "wear").exit_code == 0


def test_an_offer_that_is_not_wanted_is_removed_and_nothing_else(offering: Path) -> None:
    before = content(offering / "models/wear")

    done = run(offering, "adopt", "wear", "--discard")

    assert done.exit_code == 0
    assert content(offering / "models/wear") == before
    assert list_offers(offering / "models") == []
    assert run(offering, "adopt", "wear").exit_code != 0


def test_an_offer_that_was_changed_is_not_taken(offering: Path) -> None:
    model = offering / "models/.offers/wear/model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")

    assert run(offering, "adopt", "wear").exit_code != 0
    assert read_bundle(offering / "models/wear", name="wear").manifest.version == "1"


def test_too_few_lessons_say_how_many_are_needed(box: Path) -> None:
    write_lessons(box, "pumps", pump_lessons(MIN_LESSONS - 1))

    done = run(box, "distill", "pumps")

    assert done.exit_code != 0
    assert f"has {MIN_LESSONS - 1} lessons: {MIN_LESSONS} are needed" in str(done.exception)
    assert list_offers(box / "models") == []


def test_what_judges_is_later_than_all_that_was_fitted_on() -> None:
    lessons = pump_lessons(200)
    parts = split("pumps", [*reversed(lessons), *lessons])  # kept twice: counted once

    latest = max(each.time for each in (*parts.fit, *parts.rehearse))
    assert latest < min(each.time for each in (*parts.calibrate, *parts.judge, *parts.kept_back))
    assert [len(part) for part in (parts.fit, parts.calibrate, parts.judge)] == [120, 40, 40]


VERSIONS = [("1", "2"), ("1+cal3", "2"), ("2025-a", "2026"), ("beta+cal1", "beta.next")]


@pytest.mark.parametrize(("version", "after"), VERSIONS)
def test_the_next_version_follows_from_the_present_one(version: str, after: str) -> None:
    assert next_version(version) == after


def test_lessons_are_listed_and_purged(box: Path) -> None:
    write_lessons(box, "pumps", pump_lessons(10))

    listed = json.loads(run(box, "lessons", "--json").stdout)
    purged = run(box, "lessons", "--purge", "pumps", "--yes")

    assert [(each["route"], each["n_taught"], each["n_rehearsals"]) for each in listed] == [("pumps", 10, 5)]
    assert sum(listed[0]["labels"].values()) == 10
    assert "removed" in purged.output
    assert json.loads(run(box, "lessons", "--json").stdout) == []


def test_a_route_without_tiers_has_nobody_to_learn_from(box: Path) -> None:
    options = 'options = { rules = [{ above = 1.0, label = "x" }] }'
    (box / "config.toml").write_text(f'[routes.a]\ntopics = ["a"]\nhandler = "threshold"\n{options}\n')

    done = run(box, "distill", "a")

    assert "nobody to learn from" in str(done.exception)


TEXTS = """
[gateway]
state_dir = "state"
[tiers.student]
type = "handler"
handler = "classify_text"
accept = 0.8
[tiers.student.options]
model = "minilm-int8"
field = "text"
labels = { leak = { description = "water" }, fine = { description = "all is well" } }
[tiers.cloud]
type = "http"
url = "http://127.0.0.1:1/"
[routes.logs]
topics = ["logs/#"]
tiers = ["student", "cloud"]
[routes.logs.escalation]
privacy = "cloud"
lessons = true
"""

PLACES = ["cellar", "roof", "hall", "stairs", "boiler", "pump", "tank", "valve", "pipe", "gate"]
THINGS = {
    "leak": ["water stands under the {}", "the {} drips", "moisture sensor of the {} is wet", "{} is flooded"],
    "fine": ["the {} was painted", "visitor at the {}", "light of the {} switched off", "{} inspected, no remarks"],
}


@pytest.mark.model
def test_a_route_without_a_head_gets_its_first_one_from_its_lessons(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/minilm-int8").symlink_to(demo_models("minilm-int8") / "minilm-int8")
    (tmp_path / "config.toml").write_text(TEXTS)
    draw = np.random.default_rng(3)
    lessons = []
    for number in range(200):
        label = "leak" if draw.random() < 0.5 else "fine"
        text = str(draw.choice(THINGS[label])).format(draw.choice(PLACES)) + f", shift {number}"
        lessons.append(lesson(number, {"text": text}, label))
    write_lessons(tmp_path, "logs", lessons)

    done = run(tmp_path, "distill", "logs", "--json")
    told = run(tmp_path, "adopt", "logs")

    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["name"] == "logs-student"
    assert report["offered"]["accuracy"] >= max(report["present"]["accuracy"], 0.9)
    assert told.exit_code == 0, told.output
    manifest = read_bundle(tmp_path / "models/logs-student", name="logs-student").manifest
    assert (manifest.task, manifest.version) == ("text-classification-head", "1+cal1")
    assert manifest.input["encoder"] == "minilm-int8"
