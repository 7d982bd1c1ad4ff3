"""The built-in handlers answer their samples, as `gatewayd replay` runs them; and an update keeps the file readable."""

import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd.cli.models import cache_dir
from gatewayd.cli.samples import run_samples_file
from gatewayd.errors import GatewaydError

SAMPLES = Path(__file__).parents[2] / "handlers" / "samples"
NO_CONFIG = Path("no-config.toml")


def copy(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_text((SAMPLES / name).read_text())
    return path


def test_threshold_answers_its_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_samples_file(SAMPLES / "threshold.samples.toml", NO_CONFIG, update=False)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * 8
    assert lines[-1].endswith("8 of 8 samples ok")


def test_summarize_text_answers_its_samples_without_a_model() -> None:
    assert run_samples_file(SAMPLES / "summarize_text.samples.toml", NO_CONFIG, update=False)


@pytest.mark.model
def test_classify_text_answers_its_samples() -> None:
    if not (cache_dir() / "demo-models" / "minilm-int8" / "model.toml").exists():
        pytest.skip("the encoder is not in the demo's cache: run `make demo` once")

    assert run_samples_file(SAMPLES / "classify_text.samples.toml", NO_CONFIG, update=False)


@pytest.mark.model
@pytest.mark.timeout(180)
def test_classify_llm_answers_its_samples() -> None:
    if not (cache_dir() / "demo-models" / "gemma3-270m" / "model.toml").exists():
        pytest.skip("the language model is not in the demo's cache: run `make demo` once")

    assert run_samples_file(SAMPLES / "classify_llm.samples.toml", NO_CONFIG, update=False)


def test_what_differs_is_shown_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy("threshold.samples.toml", tmp_path)
    path.write_text(path.read_text().replace("value = 85.5", "value = 99.5"))

    assert not run_samples_file(path, NO_CONFIG, update=False)

    out = capsys.readouterr().out
    assert out.count("WRONG") == 1
    assert "'value': 99.5" in out
    assert "'value': 85.5" in out
    assert "7 of 8 samples ok" in out


def test_an_update_writes_what_came_out_and_keeps_the_rest(tmp_path: Path) -> None:
    path = copy("threshold.samples.toml", tmp_path)
    written = path.read_text()
    path.write_text(
        written.replace("value = 85.5", "value = 99.5")
        .replace('expect = [{ rejected = "not_a_number" }]', "expect = []")
        .replace('"closed"}\'\nexpect = []\n\n[[sample]] # one hot', '"closed"}\'\n\n[[sample]] # one hot')
    )
    assert path.read_text() != written

    assert run_samples_file(path, NO_CONFIG, update=True)

    assert run_samples_file(path, NO_CONFIG, update=False)
    comments = [line.partition("#")[2] for line in written.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in path.read_text().splitlines() if "#" in line] == comments


def test_an_update_of_samples_that_hold_changes_no_byte(tmp_path: Path) -> None:
    path = copy("threshold.samples.toml", tmp_path)

    run_samples_file(path, NO_CONFIG, update=True)

    assert path.read_text() == (SAMPLES / "threshold.samples.toml").read_text()


def test_an_update_that_cannot_be_made_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "inline.samples.toml"
    path.write_text(
        'handler = "threshold"\nsample = [{ topic = "a", payload = "x" }]\n[[options.rules]]\nabove = 1.0\n'
    )
    before = path.read_text() + 'label = "hot"\n'
    path.write_text(before)

    with pytest.raises(GatewaydError, match=r"under a line \[\[sample\]\]"):
        run_samples_file(path, NO_CONFIG, update=True)

    assert path.read_text() == before


def test_a_samples_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.samples.toml"
    path.write_text("handler = 7\n")

    with pytest.raises(GatewaydError, match=r"bad\.samples\.toml: Expected `str`"):
        run_samples_file(path, NO_CONFIG, update=False)


def run_without(packages: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a Python where these packages are not installed."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({packages.split()}))"
    code = f"{blocked}; sys.argv = ['gatewayd', *{list(arguments)}]; from gatewayd.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_threshold_answers_its_samples_with_the_core_alone() -> None:
    heavy = "numpy onnxruntime tokenizers sklearn xllamacpp onnx skl2onnx amqtt aiomqtt"

    done = run_without(heavy, "replay", str(SAMPLES / "threshold.samples.toml"))

    assert done.returncode == 0, done.stderr
    assert "8 of 8 samples ok" in done.stdout


def test_what_needs_an_extra_says_which(tmp_path: Path) -> None:
    recording = tmp_path / "recording.csv"
    recording.write_text("time,a,label\n1,2,x\n")
    config = tmp_path / "config.toml"
    config.write_text('[models]\ndir = "models"\n')

    done = run_without("numpy", "models", "fit", str(recording), "--name", "x", "--config", str(config))

    assert done.returncode == 1
    assert "gatewayd: numpy is not installed\nhint: pip install 'gatewayd[fit]'\n" in done.stderr
