"""Who may import whom: the contracts in pyproject.toml, and what a bare install can do without."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = (
    "numpy",
    "onnxruntime",
    "tokenizers",
    "sklearn",
    "xllamacpp",
    "llama_cpp",
    "skl2onnx",
    "onnx",
    "aiomqtt",
    "amqtt",
)


def test_the_import_contracts_are_kept() -> None:
    command = shutil.which("lint-imports", path=Path(sys.executable).parent)
    assert command is not None, "lint-imports is part of the dev extra"

    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_daemon_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys, gatewayd.daemon, gatewayd.telemetry, gatewayd.web.server;"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)

    assert done.stdout.strip() == "[]", done.stderr


def test_an_otlp_exporter_is_not_loaded_until_somebody_wants_one() -> None:
    code = (
        "import sys; from gatewayd.telemetry import Telemetry; from gatewayd.config import Config, read_environment;"
        "Telemetry.build(Config().telemetry, read_environment({}), 'g', '0').shutdown();"
        "print([name for name in sys.modules if 'otlp' in name or name == 'requests'])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    assert done.stdout.strip() == "[]"
