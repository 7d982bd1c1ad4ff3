"""`gatewayd demo` as a user runs it: a process, its output, its exit status; and what is left of it afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gatewayd.cli.models import cache_dir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

COMMAND = [sys.executable, "-m", "gatewayd", "demo"]


@pytest.fixture
def models() -> Path:
    """The demo's models, from an earlier demo: a test downloads nothing."""
    folder = cache_dir() / "demo-models"
    if any(not (folder / name / "model.toml").exists() for name in ("pumps", "minilm-int8", "gemma3-270m")):
        pytest.skip("the demo's models are not in the cache: run `make demo` once")
    return folder


def start(keep: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--keep", str(keep), *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children_of(process: subprocess.Popen[str], keep: Path) -> list[psutil.Process]:
    """Broker and daemon, once the demo shows something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        if len(children) == 2 and (keep / "state" / "spool.db").exists():
            return children
        time.sleep(0.1)
    raise AssertionError("the demo started no broker and daemon")


@pytest.mark.model
def test_the_demo_ends_with_books_that_balance(models: Path, tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--seconds", "9", "--json"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    books = json.loads(done.stdout)
    assert books["balanced"]
    assert books["messages"]["received"] > 0
    assert books["results"]["produced"] > 0
    assert books["results"]["delivered"] > 0
    assert books["results"]["pending"] == 0


@pytest.mark.model
def test_an_interrupted_demo_opens_its_books(models: Path, tmp_path: Path) -> None:
    demo = start(tmp_path, "--seconds", "600")
    assert demo.stdout is not None
    while "messages in" not in (line := demo.stdout.readline()):
        assert line, "the demo ended before it began"
    time.sleep(2)  # some messages, so that there is something in the books

    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=120)

    assert demo.returncode == 0, err
    assert "Both books balance." in out
    assert "Traceback" not in out + err
    again = subprocess.run([*COMMAND, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "holds the spool of an earlier demo" in again.stderr


@pytest.mark.model
@pytest.mark.parametrize("which", ["broker", "daemon"])
def test_a_child_that_dies_is_named_with_the_end_of_its_log(models: Path, tmp_path: Path, which: str) -> None:
    demo = start(tmp_path, "--seconds", "600")
    assert demo.stdout is not None
    while "messages in" not in (line := demo.stdout.readline()):
        assert line, "the demo ended before it began"
    child = next(one for one in children_of(demo, tmp_path) if f"demo.{which}" in " ".join(one.cmdline()))

    child.kill()
    out, err = demo.communicate(timeout=120)

    assert demo.returncode == 1
    assert f"gatewayd: the {which} ended with status -9" in err
    assert "Traceback" not in out + err


@pytest.mark.model
def test_a_demo_that_is_killed_leaves_no_process_behind(models: Path, tmp_path: Path) -> None:
    demo = start(tmp_path, "--seconds", "600")
    assert demo.stdout is not None
    while "messages in" not in (line := demo.stdout.readline()):
        assert line, "the demo ended before it began"
    children = children_of(demo, tmp_path)

    os.kill(demo.pid, signal.SIGKILL)
    demo.communicate(timeout=120)

    _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []
