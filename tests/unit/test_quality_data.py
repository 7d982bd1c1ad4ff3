"""The quality benchmark on the real recordings, as its command runs: readings alone, for they take seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.broker, pytest.mark.data, pytest.mark.slow]


def test_readings_that_no_model_has_seen_are_told_apart_through_the_whole_gateway(
    mosquitto_binary: str, tmp_path: Path
) -> None:
    data = os.environ.get("GATEWAYD_DATA")
    if not data:
        pytest.skip("needs the recordings: set GATEWAYD_DATA to their folder")
    command = [sys.executable, "-m", "benchmarks.quality", "--only", "series", "--out", str(tmp_path)]
    command += ["--data", str(Path(data).resolve())]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    means = json.loads((tmp_path / "quality-series.json").read_text())["parts"]["series"]["figures"]["means"]
    for kind in ("labeled", "normal"):
        figures = means[kind]["left_out"]
        assert figures["auc"] > 0.8
        assert figures["f1"] > figures["always_f1"] + 0.1
