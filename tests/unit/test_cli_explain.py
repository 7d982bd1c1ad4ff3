"""`gatewayd route explain`: the same tiers and the same policy as the daemon's, nothing sent, and why in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gatewayd.cascade.budgets import Spending
from gatewayd.cli.app import app
from gatewayd.models.fit_series import fit_series
from gatewayd.quota import day_of
from tests.sim.tiers import CLOUD, OPEN, SITE_HANDLERS, STUDENT, FarTier, cascade

CONFIG = """
[gateway]
state_dir = "state"
[handlers]
paths = ["site.py"]
[tiers.student]
type = "handler"
handler = "student"
accept = 0.9
[tiers.giant]
type = "handler"
handler = "giant"
options = { name = "giant" }
accept = 0.8
[tiers.near]
type = "http"
place = "site"
url = "http://127.0.0.1:1/"
[tiers.cloud]
type = "http"
url = "http://127.0.0.1:1/"
max_calls_per_day = 3
[routes.r]
topics = ["logs/+/out"]
tiers = ["student", "giant", "near", "cloud"]
payload = { format = "json" }
[routes.r.escalation]
privacy = "PRIVACY"
redact = ["ip", "email"]
[routes.plain]
topics = ["ovens/#"]
handler = "threshold"
payload = { format = "number" }
options = { rules = [{ above = 80.0, label = "hot" }] }
"""


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "site.py").write_text(SITE_HANDLERS)
    (tmp_path / "config.toml").write_text(CONFIG.replace("PRIVACY", "cloud"))
    return tmp_path


def run(box: Path, *arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, ["route", "explain", "--config", str(box / "config.toml"), *arguments], input=text)


def told(box: Path, message: Mapping[str, Any], *arguments: str) -> dict[str, Any]:
    done = run(box, "r", json.dumps(message), "--json", *arguments)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.output))


def verdicts(told: Mapping[str, Any]) -> dict[str, str]:
    return {row["tier"]: row["verdict"] for row in told["tiers"]}


def set_privacy(box: Path, privacy: str) -> None:
    (box / "config.toml").write_text(CONFIG.replace("PRIVACY", privacy))


def test_an_answer_that_is_sure_enough_is_taken_and_nothing_leaves(box: Path) -> None:
    found = told(box, {"student": ["a", 0.97]})

    assert verdicts(found) == {"student": "taken", "giant": "not asked", "near": "not asked", "cloud": "not asked"}
    assert (found["answer"], found["is_provisional"], found["leaves"]) == ("a", False, None)
    assert found["tiers"][0]["why"] == "sure enough: 0.97, needed 0.9"


def test_a_slow_tier_on_this_box_answers_for_real(box: Path) -> None:
    found = told(box, {"student": ["a", 0.6], "giant": ["b", 0.95]})

    assert verdicts(found) == {"student": "handed on", "giant": "taken", "near": "not asked", "cloud": "not asked"}
    assert (found["answer"], found["is_provisional"], found["leaves"]) == ("a", True, None)
    assert found["notes"] == ["A correction follows: b, by giant."]


def test_what_would_leave_is_shown_as_it_would_leave(box: Path) -> None:
    message = {"student": ["a", 0.6], "giant": ["b", 0.5], "text": "joe@example.com from 10.1.2.3"}

    found = told(box, message, "--topic", "logs/10.9.8.7/out")

    assert verdicts(found) == {"student": "handed on", "giant": "handed on", "near": "is asked", "cloud": "not asked"}
    assert found["leaves"]["topic"] == "logs/[ip]/out"
    assert found["leaves"]["value"]["text"] == "[email] from [ip]"
    assert "After 24 hours it is settled with the local answer" in found["away"]


def test_privacy_is_obeyed_and_said(box: Path) -> None:
    set_privacy(box, "local")

    found = told(box, {"student": ["a", 0.6], "giant": ["b", 0.5]})

    assert verdicts(found)["near"] == verdicts(found)["cloud"] == "passed over"
    assert 'privacy = "local"' in found["tiers"][3]["why"]
    assert verdicts(found)["giant"] == "taken"
    assert "beyond the route's `privacy`" in found["tiers"][1]["why"]
    assert found["leaves"] is None


def test_a_tier_that_does_not_answer_is_passed_over(box: Path) -> None:
    found = told(box, {"student": ["a", 0.6]})

    assert verdicts(found)["giant"] == "passed over"
    assert verdicts(found)["near"] == "is asked"


async def spend(box: Path, n_calls: int) -> None:
    """A daemon has run here, and asked the cloud today."""
    async with cascade(box, [FarTier()]) as rig:
        day = day_of(rig.clock.now())
        rig.parts.spool.spending.add("cloud", day, Spending(n_calls=n_calls, n_bytes=900))
        await rig.parts.spool.spending.keep()


async def test_a_spent_budget_is_read_from_the_spool(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await spend(box, 3)
    monkeypatch.setattr("gatewayd.cli.explain.SystemClock.now", lambda _: 1_763_724_000.0)

    found = told(box, {"student": ["a", 0.6], "giant": ["b", 0.5], "near": None})
    (near, cloud) = found["budgets"]

    assert (near["tier"], near["is_spent"]) == ("near", False)
    assert (cloud["spent"]["n_calls"], cloud["limits"]["n_calls"], cloud["is_spent"]) == (3, 3, True)
    assert verdicts(found)["cloud"] == "passed over"


def test_a_payload_that_does_not_decode_is_told(box: Path) -> None:
    done = run(box, "r", "{not json")

    assert done.exit_code == 0
    assert "buried as a dead letter, reason decode" in done.output


def test_a_route_without_tiers_answers_alone(box: Path) -> None:
    found = json.loads(run(box, "plain", "91.5", "--json").output)

    assert found["results"][0]["label"] == "hot"
    assert "nobody else is asked, and nothing leaves" in found["notes"][0]


def test_the_message_may_come_from_standard_input_or_a_recording(box: Path) -> None:
    recording = box / "some.ndjson"
    lines = [{"topic": "logs/x/out", "payload": {"student": ["a", score]}} for score in (0.5, 0.99)]
    recording.write_text("\n".join(json.dumps(line) for line in lines))

    from_input = json.loads(run(box, "r", "-", "--json", text='{"student": ["b", 0.95]}').output)
    from_file = json.loads(run(box, "r", "--file", str(recording), "--json").output)

    assert from_input["answer"] == "b"
    assert verdicts(from_file)["student"] == "taken"


def test_a_person_reads_a_table_and_the_reasons(box: Path) -> None:
    done = run(box, "r", '{"student": ["a", 0.6], "giant": ["b", 0.5]}')

    assert "student: handed on: not sure enough: 0.6, needed 0.9" in done.output
    assert "Goes out at once: a (provisional, a correction follows)" in done.output
    assert "cloud today: 0 of 3 calls" in done.output


def test_a_route_that_is_not_there_and_a_message_that_is_not_given(box: Path) -> None:
    assert run(box, "nix", "1").exit_code != 0
    assert run(box, "r").exit_code == 2


@pytest.mark.parametrize("said", [["a", 0.97], ["a", 0.6], ["unknown", 0.99]])
@pytest.mark.parametrize("privacy", ["local", "cloud"])
async def test_the_daemon_decides_what_is_explained(tmp_path: Path, said: list[Any], privacy: str) -> None:
    far = FarTier()
    far.is_away = True
    route = {**OPEN, "escalation": {"privacy": privacy}}
    async with cascade(
        tmp_path, [far] if privacy == "cloud" else [], route=route, tiers={"student": STUDENT, "cloud": CLOUD}
    ) as rig:
        rig.send({"student": said})
        await rig.acked(1)
        (result,) = (await rig.results()).values()
    (tmp_path / "site.py").write_text(SITE_HANDLERS)
    set_privacy(tmp_path, privacy)
    text = (
        (tmp_path / "config.toml").read_text().replace('["student", "giant", "near", "cloud"]', '["student", "cloud"]')
    )
    (tmp_path / "config.toml").write_text(text)

    found = told(tmp_path, {"student": said})

    assert (found["answer"], found["is_provisional"]) == (result["label"], result["provisional"])
    assert found["cause"] == result.get("cause", "sure")


def test_a_series_is_explained_by_the_last_message_of_a_recording(tmp_path: Path) -> None:
    rows = [(1.0 + 0.01 * (n % 7) + 0.6 * (n >= 60), "worn" if n >= 60 else "ok") for n in range(120)]
    write = ["vibration,state", *(f"{level},{state}" for level, state in rows)]
    files = []
    for number in range(2):
        files.append(tmp_path / f"{number}.csv")
        files[-1].write_text("\n".join(write))
    fit_series(files, tmp_path / "models", name="wear", label_column="state", window=12)
    (tmp_path / "config.toml").write_text(
        '[tiers.student]\ntype = "handler"\nhandler = "classify_series"\noptions = { model = "wear" }\n'
        '[routes.r]\ntopics = ["pumps/1"]\ntiers = ["student"]\n[gateway]\nstate_dir = "state"\n'
    )
    recording = tmp_path / "minute.ndjson"
    lines = [json.dumps({"topic": "pumps/1", "payload": {"vibration": 1.62}, "time": float(n)}) for n in range(12)]

    recording.write_text("\n".join(lines[:11]))
    too_short = run(tmp_path, "r", "--file", str(recording))
    recording.write_text("\n".join(lines))
    found = json.loads(run(tmp_path, "r", "--file", str(recording), "--json").output)

    assert "wants a whole window" in too_short.output
    assert (found["answer"], verdicts(found)) == ("worn", {"student": "taken"})
    assert found["tiers"][0]["model"] == "wear 1"
