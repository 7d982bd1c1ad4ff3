"""Bundles: what is written can be read, and nothing unverified is handed out."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatewayd.config import schema
from gatewayd.errors import ModelError
from gatewayd.models.bundle import MANIFEST, MAX_MANIFEST_BYTES, Verifier, read_bundle
from gatewayd.models.store import ModelStore
from gatewayd.models.write import aside, write_bundle
from tests.sim.models import affine_onnx, gguf_bundle, onnx_bundle


class RecordingSession:
    """A session that only knows it was made."""

    inputs = outputs = ("x",)
    context_tokens = 64

    def close(self) -> None:
        self.closed = True

    def stats(self) -> Mapping[str, float]:
        return {}


class RecordingFactory:
    """Stands where a parser would: records every bundle it was given."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.sessions: list[RecordingSession] = []

    def __call__(self, bundle: Any, verify: Any, config: Any, on_event: Any) -> RecordingSession:
        verify()
        self.seen.append(bundle.manifest.name)
        self.sessions.append(RecordingSession())
        return self.sessions[-1]


def store_with(models_dir: Path, factory: Any, events: list[tuple[str, str]] | None = None) -> ModelStore:
    heard = [] if events is None else events
    return ModelStore(
        models_dir,
        schema.Models(),
        lambda model, event: heard.append((model, event)),
        factories={"onnx": factory, "xllamacpp": factory, "llama_cpp": factory},
    )


def replace_in_manifest(folder: Path, old: str, new: str) -> None:
    text = (folder / MANIFEST).read_text()
    assert old in text
    (folder / MANIFEST).write_text(text.replace(old, new))


def test_what_is_written_is_read_back_to_the_last_field(tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "input": {
            "features": ["a b", 'c"\\\n\x7f'],
            "mean": [0.1, -2.5e-30, 1e300],
            "window": {"n": 3, "pad ded": True},
        },
        "calibration": {"temperature": np.float64(1.5), "inf": float("inf"), "empty": []},
        "session": {"threads": 2},
    }

    folder = onnx_bundle(tmp_path, b"weights", labels=["ok", "früh", "—"], description="line\ntwo", **tables)

    manifest = read_bundle(folder, name="tiny").manifest
    assert (manifest.labels, manifest.description) == (["ok", "früh", "—"], "line\ntwo")
    assert (manifest.input, manifest.calibration, manifest.session) == tuple(tables.values())


def test_a_value_toml_cannot_hold_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"calibration\.scale: a float32"):
        onnx_bundle(tmp_path, b"w", calibration={"scale": np.float32(1)})


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        onnx_bundle(tmp_path, b"w", files={"tokenizer": tmp_path / "missing.json"})

    assert list(tmp_path.iterdir()) == []


def test_writing_again_replaces_the_older_version(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, b"one", version="1")

    folder = onnx_bundle(tmp_path, b"two", version="2")

    assert read_bundle(folder, name="tiny").manifest.version == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_a_replacement_cut_by_a_power_failure_still_gives_the_older_version(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"one", version="1")
    folder.rename(aside(folder))

    model = store_with(tmp_path, RecordingFactory()).get("tiny")

    assert model.version == "1"


def test_the_written_file_of_a_role_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"words")

    onnx_bundle(tmp_path / "models", b"w", files={"vocabulary": tmp_path / "vocab.txt", "tokenizer": b"{}"})

    model = store_with(tmp_path / "models", RecordingFactory()).get("tiny")
    assert Path(model.file("vocabulary")).read_bytes() == b"words"
    assert Path(model.file("tokenizer")).name == "tokenizer.json"
    with pytest.raises(ModelError, match='no file with the role "draft"'):
        model.file("draft")


@pytest.mark.parametrize("content", [b"weighty", b"weigh", b"weights and more"])
def test_a_file_that_is_not_what_the_manifest_says_never_reaches_a_parser(tmp_path: Path, content: bytes) -> None:
    folder = onnx_bundle(tmp_path, b"weights")
    (folder / "model.onnx").write_bytes(content)
    factory = RecordingFactory()

    with pytest.raises(ModelError, match=r"model\.onnx"):
        store_with(tmp_path, factory).get("tiny").tensors()

    assert factory.seen == []


def test_a_file_exchanged_between_get_and_load_never_reaches_a_parser(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"weights")
    factory = RecordingFactory()
    events: list[tuple[str, str]] = []
    model = store_with(tmp_path, factory, events).get("tiny")
    (folder / "other").write_bytes(b"weighty")
    (folder / "other").rename(folder / "model.onnx")

    with pytest.raises(ModelError, match="sha256"):
        model.tensors()

    assert (factory.seen, events) == ([], [("tiny", "load_failed")])


def test_a_digest_is_computed_once_while_the_file_stays_the_same(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"weights")
    bundle = read_bundle(folder, name="tiny")
    verifier = Verifier()
    first = verifier.verify(bundle)
    model_file = folder / "model.onnx"
    before = model_file.stat()
    # Same size, same inode, same time: what only reading could tell apart.
    model_file.write_bytes(b"WEIGHTS")
    os.utime(model_file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert verifier.verify(bundle) == first
    with pytest.raises(ModelError, match="sha256"):
        Verifier().verify(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "..\\\\secret"])
def test_a_path_that_leaves_the_bundle_is_refused(tmp_path: Path, path: str) -> None:
    folder = onnx_bundle(tmp_path, b"weights")
    replace_in_manifest(folder, '"model.onnx"', f'"{path}"')

    with pytest.raises(ModelError, match="inside the bundle"):
        read_bundle(folder, name="tiny")


def test_a_link_that_leaves_the_bundle_is_refused(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path / "models", b"weights")
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")

    with pytest.raises(ModelError, match="leads out of the bundle"):
        Verifier().verify(read_bundle(folder, name="tiny"))


def test_a_link_within_the_bundle_is_followed(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"weights")
    (folder / "model.onnx").rename(folder / "real.onnx")
    (folder / "model.onnx").symlink_to("real.onnx")

    files = Verifier().verify(read_bundle(folder, name="tiny"))

    assert files["model"] == (folder / "real.onnx").resolve()


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "missing"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    folder = onnx_bundle(tmp_path, b"")
    place = folder / "model.onnx"
    place.unlink()
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "loop":
        place.symlink_to("model.onnx")

    with pytest.raises(ModelError, match=r"model\.onnx"):
        Verifier().verify(read_bundle(folder, name="tiny"))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('version = "1"', 'version = "1"\nversoin = "2"', "versoin"),
        ('runtime = "onnx"', 'runtime = "torch"', "torch"),
        ('version = "1"\n', "", "version"),
        ('name = "tiny"', 'name = "other"', "its folder says"),
        ('name = "tiny"', "name = tiny", "line 1"),
        ('role = "model"', 'role = "weights"', 'none has the role "model"'),
        ("threads = 1", "threadz = 1", "session: .*threadz"),
        ("size_bytes = 7", "size_bytes = -7", "size_bytes"),
    ],
)
def test_a_manifest_that_breaks_a_rule_says_where(tmp_path: Path, old: str, new: str, problem: str) -> None:
    folder = onnx_bundle(tmp_path, b"weights", session={"threads": 1})
    replace_in_manifest(folder, old, new)

    with pytest.raises(ModelError, match=problem) as caught:
        read_bundle(folder, name="tiny")

    assert str(folder / MANIFEST) in str(caught.value)


def test_a_role_that_stands_twice_is_refused(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"weights", files={"tokenizer": b"{}"})
    replace_in_manifest(folder, 'role = "tokenizer"', 'role = "model"')

    with pytest.raises(ModelError, match="stands twice"):
        read_bundle(folder, name="tiny")


def test_a_manifest_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"weights")
    (folder / MANIFEST).write_bytes(b"#" * (MAX_MANIFEST_BYTES + 1))

    with pytest.raises(ModelError, match="larger than"):
        read_bundle(folder, name="tiny")


@pytest.mark.parametrize("name", ["", "..", ".tiny", "a/b", "../tiny", "absent"])
def test_a_name_without_a_bundle_is_refused(tmp_path: Path, name: str) -> None:
    onnx_bundle(tmp_path / "models", b"weights")

    with pytest.raises(ModelError):
        store_with(tmp_path / "models", RecordingFactory()).get(name)


def test_the_list_shows_good_and_damaged_bundles(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, b"weights", name="good", version="7")
    (gguf_bundle(tmp_path, b"weights", name="short") / "model.gguf").write_bytes(b"")
    (tmp_path / "bare").mkdir()

    listed = store_with(tmp_path, RecordingFactory()).ls()

    assert [(line.name, line.state) for line in listed] == [("bare", "problem"), ("good", "ok"), ("short", "problem")]
    assert (listed[1].version, listed[1].runtime, listed[1].size_bytes) == ("7", "onnx", 7)
    assert "0 bytes instead of 7" in listed[2].problem


def test_verify_reads_again_what_get_had_checked(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path, b"weights")
    store = store_with(tmp_path, RecordingFactory())
    store.get("tiny")
    (folder / "model.onnx").write_bytes(b"weighty")

    with pytest.raises(ModelError, match="sha256"):
        store.verify("tiny")


def test_all_who_ask_at_once_share_one_session(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, b"weights")
    factory = RecordingFactory()
    store = store_with(tmp_path, factory)
    together = threading.Barrier(8)
    sessions: list[Any] = []

    def ask() -> None:
        together.wait(10)
        sessions.append(store.get("tiny").tensors())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(factory.seen) == 1
    assert len({id(session) for session in sessions}) == 1


def test_close_ends_sessions_and_the_next_get_loads_anew(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, b"weights")
    factory = RecordingFactory()
    store = store_with(tmp_path, factory)
    store.get("tiny").tensors()

    store.close()
    store.get("tiny").tensors()

    assert factory.sessions[0].closed
    assert len(factory.sessions) == 2


def test_the_kind_of_session_must_be_that_of_the_runtime(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, b"weights")
    gguf_bundle(tmp_path, b"weights")
    store = store_with(tmp_path, RecordingFactory())

    with pytest.raises(ModelError, match="not a language model"):
        store.get("tiny").text()
    with pytest.raises(ModelError, match="not a tensor one"):
        store.get("tiny-llm").tensors()


def test_a_graph_of_known_arithmetic_runs_through_the_store(tmp_path: Path) -> None:
    onnx_bundle(tmp_path, affine_onnx([[1, 2], [3, 4]], [10, 20]))
    session = ModelStore(tmp_path, schema.Models()).get("tiny").tensors()

    answers = session.run({"x": np.array([[1, 1], [0, 2]], np.float32)})

    assert (session.inputs, session.outputs) == (("x",), ("y",))
    assert answers["y"].tolist() == [[14, 26], [16, 28]]


def test_a_bundle_without_a_model_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='none has the role "model"'):
        write_bundle(tmp_path, name="x", version="1", runtime="onnx", task="t", files={"tokenizer": b"{}"})

    assert list(tmp_path.iterdir()) == []
