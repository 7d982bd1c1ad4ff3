"""Models in memory: within their budget, away when idle, back on demand, and never gone while they are called."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatewayd.config import schema
from gatewayd.errors import ModelError, TransientError
from gatewayd.models.bundle import MANIFEST
from gatewayd.models.store import ModelStore
from tests.sim.models import affine_onnx, gguf_bundle, onnx_bundle

MIB = 1 << 20


class Sized:
    """A session that takes as much as it is told, and counts its calls."""

    inputs = outputs = ("x",)
    context_tokens = 64

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.n_calls = 0
        self.is_closed = False
        self.may_end = threading.Event()
        self.may_end.set()
        self.has_begun = threading.Event()

    def run(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        assert not self.is_closed
        self.n_calls += 1
        self.has_begun.set()
        assert self.may_end.wait(10)
        assert not self.is_closed
        return arrays

    def complete(self, prompt: str, **_: Any) -> str:
        return prompt.upper()

    def count_tokens(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        self.is_closed = True

    def stats(self) -> Mapping[str, float]:
        return {"calls": float(self.n_calls), "resident_bytes": float(self.n_bytes)}


class Box:
    """A store on a clock that stands still, whose sessions are of known sizes."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], **config: Any) -> None:
        self.folder = folder
        self.now_s = 1000.0
        self.sessions: dict[str, list[Sized]] = {name: [] for name in sizes}
        self.events: list[tuple[str, str]] = []
        self.sizes = dict(sizes)
        for name in sizes:
            onnx_bundle(folder, b"weights", name=name)
        factory: Any = self._open
        self.store = ModelStore(
            folder,
            schema.Models(**config),
            lambda model, event: self.events.append((model, event)),
            factories={"onnx": factory, "xllamacpp": factory, "llama_cpp": factory},
            monotonic=lambda: self.now_s,
        )

    def _open(self, bundle: Any, verify: Any, _config: Any, _on_event: Any) -> Sized:
        verify()
        name = bundle.manifest.name
        self.sessions[name].append(Sized(self.sizes[name]))
        return self.sessions[name][-1]

    def call(self, name: str) -> None:
        self.now_s += 1.0
        self.store.get(name).tensors().run({})

    def loaded(self) -> set[str]:
        return {name for name, figures in self.store.stats().items() if figures["loaded"]}


def test_beyond_the_budget_the_least_recently_used_session_goes(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": 40 * MIB, "b": 40 * MIB, "c": 40 * MIB}, max_resident_bytes=100 * MIB)
    box.call("a")
    box.call("b")
    box.call("a")

    box.call("c")

    assert box.loaded() == {"a", "c"}
    assert box.sessions["b"][0].is_closed
    assert ("b", "unloaded_budget") in box.events
    assert box.store.stats()["b"]["unloads_budget"] == 1.0
    assert box.store.residency.memory_bytes() == 80 * MIB


def test_what_a_handler_holds_goes_on_working_after_an_unload(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": 60 * MIB, "b": 60 * MIB}, max_resident_bytes=100 * MIB)
    held = box.store.get("a").tensors()
    held.run({})
    box.call("b")

    assert held.run({"x": 1}) == {"x": 1}

    assert box.loaded() == {"a"}
    assert box.store.get("a").tensors() is held
    figures = box.store.stats()["a"]
    assert (figures["loads"], figures["calls"]) == (2.0, 2.0), "totals go on over loads"


def test_a_session_in_a_call_is_never_unloaded_and_the_budget_is_passed_instead(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": 60 * MIB, "b": 60 * MIB}, max_resident_bytes=100 * MIB)
    held = box.store.get("a").tensors()
    session = box.sessions["a"][0]
    session.may_end.clear()
    caller = threading.Thread(target=held.run, args=[{}])
    caller.start()
    assert session.has_begun.wait(10)

    box.call("b")

    assert box.loaded() == {"a", "b"}
    session.may_end.set()
    caller.join(10)
    box.store.residency.sweep()
    assert box.loaded() == {"b"}, "the older one goes as soon as its call is over"


def test_a_session_that_grew_makes_others_go_at_the_next_sweep(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": 40 * MIB, "b": 40 * MIB}, max_resident_bytes=100 * MIB)
    box.call("a")
    box.call("b")
    box.sessions["b"][0].n_bytes = 90 * MIB

    box.store.residency.sweep()

    assert box.loaded() == {"b"}


def test_what_is_idle_for_long_is_unloaded_and_what_was_called_is_not(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB, "b": MIB}, idle_unload_s=60.0)
    box.call("a")
    box.call("b")
    box.now_s += 58.5
    box.call("b")

    box.store.residency.sweep()

    assert box.loaded() == {"b"}
    assert box.events[-1] == ("a", "unloaded_idle")


def test_nothing_is_unloaded_without_a_budget_or_a_time(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": 1 << 40, "b": 1 << 40})
    box.call("a")
    box.call("b")
    box.now_s += 1e9

    box.store.residency.sweep()

    assert box.loaded() == {"a", "b"}


def test_a_damaged_file_is_found_when_the_model_is_loaded_again(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB}, idle_unload_s=1.0)
    held = box.store.get("a").tensors()
    box.now_s += 2
    box.store.residency.sweep()
    (tmp_path / "a" / "model.onnx").write_bytes(b"weighty")

    with pytest.raises(ModelError, match="sha256"):
        held.run({})


def test_a_file_exchanged_between_its_check_and_its_loading_is_not_used(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB})
    open_session = box._open

    def exchange(bundle: Any, verify: Any, *rest: Any) -> Sized:
        session = open_session(bundle, verify, *rest)
        (tmp_path / "a" / "model.onnx").write_bytes(b"weighty")
        return session

    box.store._shop.factories["onnx"] = exchange  # type: ignore[index]

    with pytest.raises(ModelError, match="sha256"):
        box.store.get("a").tensors()

    assert box.sessions["a"][0].is_closed
    assert box.events == [("a", "load_failed")]


def test_a_model_whose_folder_was_replaced_stays_loaded_for_it_could_not_come_back(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB}, idle_unload_s=1.0)
    box.call("a")
    onnx_bundle(tmp_path, b"weights of 2", name="a", version="2")
    box.now_s += 2

    box.store.residency.sweep()

    assert box.loaded() == {"a"}
    assert box.store.replaced() == ["a"]


def test_the_same_bundle_written_again_is_no_new_version(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB})
    box.call("a")
    onnx_bundle(tmp_path, b"weights", name="a", calibration={})

    assert box.store.replaced() == []


def test_a_call_that_finds_its_unloaded_model_replaced_asks_for_the_new_one(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB}, idle_unload_s=1.0)
    asked: list[str] = []
    box.store.on_replaced = asked.append
    held = box.store.get("a").tensors()
    box.now_s += 2
    box.store.residency.sweep()
    onnx_bundle(tmp_path, b"weights of 2", name="a", version="2")

    with pytest.raises(TransientError, match="newer version"):
        held.run({})

    assert asked == ["a"]


def test_a_new_version_is_loaded_beside_the_old_one_and_get_gives_it_when_promoted(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB})
    box.call("a")
    onnx_bundle(tmp_path, b"weights of 2", name="a", version="2")

    fresh = box.store.prepare("a")
    before = box.store.get("a").version
    old = box.store.promote(fresh)
    box.store.retire(old)

    assert (before, box.store.get("a").version) == ("1", "2")
    assert [session.is_closed for session in box.sessions["a"]] == [True, False]
    assert box.store.replaced() == []
    assert box.store.stats()["a"]["calls"] == 1.0, "totals go on over versions"
    assert box.events[-1] == ("a", "swapped")


def test_a_new_version_that_does_not_load_is_not_tried_again_until_it_is_asked_for(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB})
    box.call("a")
    folder = onnx_bundle(tmp_path, b"weights of 2", name="a", version="2")
    (folder / "model.onnx").write_bytes(b"weights of Z")

    with pytest.raises(ModelError, match="sha256"):
        box.store.prepare("a")

    assert box.store.replaced() == []
    assert box.store.replaced(again=True) == ["a"]
    assert box.events[-1] == ("a", "swap_failed")
    assert box.store.get("a").version == "1"
    (folder / MANIFEST).unlink()
    assert box.store.replaced(again=True) == [], "half a bundle is no version"


def test_one_that_never_loaded_is_read_again_when_its_folder_changed(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"no model at all", name="a")
    store = ModelStore(tmp_path, schema.Models())
    with pytest.raises(ModelError):
        store.get("a").tensors()
    onnx_bundle(tmp_path, affine_onnx([[1]], [0]), name="a", version="2")

    session = store.get("a").tensors()

    assert store.get("a").version == "2"
    assert session.run({"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[1.0]]
    assert folder.exists()


def test_a_real_model_is_measured_unloaded_and_loaded_again(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(1024, 2048)).astype(np.float32)
    onnx_bundle(tmp_path, affine_onnx(weights.tolist(), [0.0] * 2048))
    store = ModelStore(tmp_path, schema.Models())
    session = store.get("tiny").tensors()
    row = {"x": np.ones((1, 1024), np.float32)}
    first = session.run(row)["y"]

    assert store.get("tiny").resident.unload("budget")
    assert store.residency.memory_bytes() == 0
    second = session.run(row)["y"]

    assert np.array_equal(first, second)
    assert store.stats()["tiny"]["memory_bytes"] >= weights.nbytes
    assert (store.stats()["tiny"]["loads"], store.stats()["tiny"]["calls"]) == (2.0, 2.0)


def test_many_threads_with_room_for_one_model_all_get_their_answers(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": 60 * MIB, "b": 60 * MIB}, max_resident_bytes=100 * MIB)
    held = [box.store.get(name).tensors() for name in ("a", "b")]
    wrong: list[BaseException] = []

    def call(which: int) -> None:
        try:
            for _ in range(200):
                held[which].run({})
        except BaseException as error:  # whatever it is, the test must see it
            wrong.append(error)

    threads = [threading.Thread(target=call, args=[index % 2]) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert wrong == []
    stats = box.store.stats()
    assert stats["a"]["calls"] == stats["b"]["calls"] == 400.0


def test_after_close_a_call_is_refused_and_not_loaded_again(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB})
    held = box.store.get("a").tensors()

    box.store.close()

    with pytest.raises(TransientError, match="closed"):
        held.run({})
    assert len(box.sessions["a"]) == 1


def test_a_language_model_has_a_stable_session_too(tmp_path: Path) -> None:
    box = Box(tmp_path, {"a": MIB}, idle_unload_s=1.0)
    gguf_bundle(tmp_path, b"weights", name="llm")
    box.sizes["llm"] = MIB
    box.sessions["llm"] = []
    held = box.store.get("llm").text()
    box.now_s += 2
    box.store.residency.sweep()

    assert held.count_tokens("four") == 4
    assert held.complete("ab", max_tokens=1) == "AB"
    assert held.n_bytes == MIB, "what is beyond the protocol is passed on"  # type: ignore[attr-defined]
    assert len(box.sessions["llm"]) == 2
