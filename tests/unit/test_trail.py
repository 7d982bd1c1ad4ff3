"""The audit trail on a real disk: what is in it, how it rotates, how it is mended, that it never stops a message."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gatewayd.cascade.chain_files import Finding, examine, trail_files
from gatewayd.cascade.trail import AuditTrail
from gatewayd.clock import SystemClock
from gatewayd.config.environment import Paths
from gatewayd.config.schema import Audit
from gatewayd.models.digest import ManifestDigests
from gatewayd.models.write import write_bundle
from tests.sim.decisions import decision, verdict

PATIENCE_S = 50.0


class Rig:
    """A state folder, and trails that are opened in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "audit"
        self.events: Counter[str] = Counter()
        self.opened: list[AuditTrail] = []
        self.paths = Paths(
            gateway="g", config_dir=root, state_dir=root, spool=root / "spool.db", models=root / "models"
        )

    def trail(self, **config: object) -> AuditTrail:
        settings = msgspec.convert({"flush_s": 0.05, **config}, Audit)
        trail = AuditTrail(self.paths, settings, SystemClock(), self.count)
        trail.start()
        self.opened.append(trail)
        return trail

    def count(self, event: str, n: int) -> None:
        self.events[event] += n

    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for path in trail_files(self.folder) for line in path.read_bytes().splitlines()]

    def decisions(self) -> list[dict[str, object]]:
        return [record for record in self.records() if "event" not in record]

    def told(self) -> list[object]:
        return [record["event"] for record in self.records() if "event" in record]

    def finding(self) -> Finding:
        return examine(self.folder)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    for trail in rig.opened:
        trail.close(PATIENCE_S)


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(4000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to be so")


def write(rig: Rig, numbers: range, **config: object) -> None:
    trail = rig.trail(**config)
    for number in numbers:
        trail.record(decision(number))
    trail.close(PATIENCE_S)


def test_a_decision_is_kept_with_all_that_it_was_taken_on(rig: Rig) -> None:
    write_bundle(rig.paths.models, name="head", version="1", runtime="onnx", task="t", files={"model": b"x"})
    sure = verdict(novelty=0.4)
    trail = rig.trail()

    trail.record(decision(7, said=sure, passed_over={"cloud": "privacy"}), corrects="0f-first")
    trail.close(PATIENCE_S)

    (record,) = rig.decisions()
    assert record["bundle"] == ManifestDigests(rig.paths.models)("head", "1") != ""
    said = {name: record[name] for name in ("tier", "label", "scores", "confidence", "novelty", "model_version")}
    assert said == {
        "tier": "student",
        "label": "normal",
        "scores": {"normal": 0.97, "other": 0.03},
        "confidence": 0.97,
        "novelty": 0.4,
        "model_version": "1",
    }
    assert (record["accept"], record["cause"], record["passed_over"]) == (0.9, "sure", {"cloud": "privacy"})
    assert (record["key"], record["route"], record["corrects"]) == ("0f-0000000007", "logs", "0f-first")
    assert record["clock"] in ("synced", "unsynced", "unknown")


def test_every_tier_that_was_asked_is_in_the_record(rig: Rig) -> None:
    student, cloud = verdict(confidence=0.6), verdict("cloud", "alert", 0.99, model="big", model_version="9")
    trail = rig.trail()

    trail.record(decision(1, said=cloud, asked=(student, cloud), cause="last"))
    trail.close(PATIENCE_S)

    (record,) = rig.decisions()
    asked = record["asked"]
    assert isinstance(asked, list)
    assert [(each["tier"], each["confidence"]) for each in asked] == [("student", 0.6)]
    assert record["bundle"] == ""  # its model is not on this box


def test_of_many_scores_the_highest_are_kept(rig: Rig) -> None:
    said = verdict(scores={f"label-{n}": n / 1000 for n in range(50)})
    trail = rig.trail(max_scores=3)

    trail.record(decision(1, said=said))
    trail.close(PATIENCE_S)

    (record,) = rig.decisions()
    assert record["scores"] == {"label-49": 0.049, "label-48": 0.048, "label-47": 0.047}
    assert record["n_scores_left_out"] == 47


def test_the_chain_goes_on_over_restarts(rig: Rig) -> None:
    write(rig, range(5))
    write(rig, range(5, 9))

    assert [record["key"] for record in rig.decisions()] == [f"0f-{n:010x}" for n in range(9)]
    assert [record["seq"] for record in rig.records()] == list(range(1, len(rig.records()) + 1))
    assert rig.told() == ["started", "stopped", "started", "stopped"]
    assert rig.finding().problem == ""


def test_files_rotate_and_what_is_removed_is_told(rig: Rig) -> None:
    trail = rig.trail(max_file_bytes=16384, max_files=3, max_waiting=100_000)
    for number in range(600):  # all at once: the writer rotates while more comes
        trail.record(decision(number))
    wait_until(lambda: rig.events["written"] == 600)
    trail.close(PATIENCE_S)

    files = trail_files(rig.folder)
    assert len(files) == 3
    assert all(path.stat().st_size <= 16384 for path in files)
    finding = rig.finding()
    assert finding.problem == ""
    assert finding.first is not None
    assert finding.first.seq > 1
    removed = [record for record in rig.records() if record.get("event") == "removed"]
    assert finding.first.seq - 1 in [record["last_seq"] for record in removed]
    assert [record["key"] for record in rig.decisions()][-1] == f"0f-{599:010x}"


def test_a_file_that_is_removed_by_somebody_else_is_missed(rig: Rig) -> None:
    write(rig, range(40), max_file_bytes=4096, max_files=100)
    trail_files(rig.folder)[0].unlink()

    assert "nothing in it says" in rig.finding().problem


def test_a_torn_last_line_is_cut_off_and_told(rig: Rig) -> None:
    write(rig, range(3))
    (path,) = trail_files(rig.folder)
    with path.open("ab") as file:
        file.write(b'{"accept":0.9,"cause":"su')

    write(rig, range(3, 5))

    assert rig.told() == ["started", "stopped", "torn", "started", "stopped"]
    assert len(rig.decisions()) == 5
    assert rig.finding().problem == ""


def test_zeros_that_a_power_cut_left_after_the_last_sync_are_cut_off(rig: Rig) -> None:
    write(rig, range(3))
    (path,) = trail_files(rig.folder)
    with path.open("ab") as file:
        file.write(bytes(3000) + b"\n" + bytes(10))

    write(rig, range(3, 5))

    assert "torn" in rig.told()
    assert len(rig.decisions()) == 5
    assert rig.finding().problem == ""


def test_a_trail_that_was_changed_is_kept_aside_and_a_new_one_says_so(rig: Rig) -> None:
    write(rig, range(3))
    (path,) = trail_files(rig.folder)
    path.write_bytes(path.read_bytes().replace(b'"label":"normal"', b'"label":"alert!"', 1))
    before = path.read_bytes()

    write(rig, range(3, 5))

    kept = list((rig.folder / "aside-1").glob("audit-*.ndjson"))
    assert [file.read_bytes() for file in kept] == [before]
    assert rig.told() == ["aside", "started", "stopped"]
    assert rig.records()[0]["seq"] == 1
    assert "line 2" in str(rig.records()[0]["problem"])
    assert len(rig.decisions()) == 2
    assert rig.finding().problem == ""


def test_lines_that_were_taken_away_at_the_end_are_missed_at_the_start(rig: Rig) -> None:
    write(rig, range(3))
    (path,) = trail_files(rig.folder)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))

    assert "there was a line 5" in rig.finding().problem
    write(rig, range(3, 5))

    assert rig.told() == ["aside", "started", "stopped"]


def test_only_so_many_trails_are_kept_aside(rig: Rig) -> None:
    for n in range(4):
        write(rig, range(n, n + 1), max_aside=2)
        (path,) = trail_files(rig.folder)
        path.write_bytes(path.read_bytes()[1:])

    write(rig, range(9, 10), max_aside=2)

    assert sorted(path.name for path in rig.folder.glob("aside-*")) == ["aside-3", "aside-4"]
    assert "aside_removed" in rig.told()


def test_a_folder_that_cannot_be_written_stops_no_message(rig: Rig) -> None:
    rig.folder.write_text("a file stands where the folder should be")
    trail = rig.trail(max_waiting=5)
    for number in range(8):
        trail.record(decision(number))
    wait_until(lambda: rig.events["failed"] > 0)

    assert rig.events["dropped"] == 3
    rig.folder.unlink()
    wait_until(lambda: rig.events["written"] == 5)
    trail.close(PATIENCE_S)

    assert [record["key"] for record in rig.decisions()] == [f"0f-{n:010x}" for n in range(5)]
    (dropped,) = [record for record in rig.records() if record.get("event") == "dropped"]
    assert dropped["n"] == 3
    assert rig.finding().problem == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_no_message_and_is_got_over(rig: Rig) -> None:
    rig.folder.mkdir()
    place = rig.folder / "audit-00000001.ndjson"
    place.symlink_to("/dev/full")
    trail = rig.trail()
    trail.record(decision(1))
    wait_until(lambda: rig.events["failed"] > 1)

    place.unlink()
    wait_until(lambda: rig.events["written"] == 1)
    trail.close(PATIENCE_S)

    assert len(rig.decisions()) == 1
    assert rig.finding().problem == ""


def test_what_is_decided_reaches_the_kernel_long_before_it_is_synced(rig: Rig) -> None:
    trail = rig.trail(flush_s=3600)
    trail.record(decision(1))

    wait_until(lambda: rig.finding().head is not None)  # of what the trail says when it starts: that is synced

    trail.record(decision(2))

    wait_until(lambda: len(rig.decisions()) == 2)  # what a process that is killed now has left behind
    assert rig.finding().problem == ""


def test_the_head_of_the_trail_can_be_noted_elsewhere(rig: Rig) -> None:
    trail = rig.trail()
    trail.record(decision(1))
    trail.close(PATIENCE_S)

    last = rig.records()[-1]
    assert (trail.head.seq, trail.head.hash) == (last["seq"], last["hash"])
    assert os.stat(rig.folder).st_mode & 0o007 == 0
