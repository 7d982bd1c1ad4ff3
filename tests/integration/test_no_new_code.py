"""The unit says MemoryDenyWriteExecute=yes: models must load and run in a process that may not make code."""

import subprocess
import sys

import pytest

from tests.sim.models import demo_models

pytestmark = [pytest.mark.model, pytest.mark.slow]

# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), Linux 6.3 and later, from linux/prctl.h; inherited by the worker.
SCRIPT = """
import ctypes, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit(77)
from pathlib import Path
import numpy
from gatewayd.config.schema import Models
from gatewayd.models.store import ModelStore
store = ModelStore(Path(sys.argv[1]), Models())
session = store.get("minilm-int8").tensors()
session.run({name: numpy.ones((1, 4), dtype="int64") for name in session.inputs})
assert store.get("gemma3-270m").text().complete("The pump", max_tokens=4).tokens_out == 4
store.close()
"""


def test_models_run_where_no_memory_may_be_made_executable() -> None:
    folder = demo_models("minilm-int8", "gemma3-270m")

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )

    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3 and later have)")
    assert done.returncode == 0, done.stderr
