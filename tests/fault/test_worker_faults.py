"""A worker that dies, hangs, or never gets ready takes nothing with it: real processes, a real model, real signals."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewayd.config import schema
from gatewayd.errors import ModelError, TransientError, WorkerCrashed
from gatewayd.models.store import ModelStore
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import Load
from gatewayd.runtimes.worker import WorkerTextSession
from tests.sim.models import demo_models, gguf_bundle

pytestmark = [pytest.mark.model, pytest.mark.timeout(120)]

pytest.importorskip("xllamacpp", reason="the runtime xllamacpp is not installed")

Start = Callable[..., WorkerTextSession]


@pytest.fixture(scope="module")
def model_path() -> Path:
    return demo_models("gemma3-270m") / "gemma3-270m" / "model.gguf"


@pytest.fixture
def start(model_path: Path) -> Iterator[Start]:
    """Starts a session whose worker is restarted at once; keyword arguments are those of schema.Models."""
    sessions: list[WorkerTextSession] = []

    def make(draw: float = 0.0, max_memory_bytes: int = 0, events: list[str] | None = None, **config: float):
        load = Load(
            runtime="xllamacpp",
            model_path=str(model_path),
            options=TextOptions(context_tokens=256, parallel=2),
            threads=1,
            max_memory_bytes=max_memory_bytes,
            scratch_dir="",
        )
        heard = [] if events is None else events
        sessions.append(WorkerTextSession("llm", lambda: load, schema.Models(**config), heard.append, lambda: draw))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def call_in_thread(session: WorkerTextSession, **options: float) -> tuple[threading.Thread, list[object]]:
    """A call that takes seconds, begun; and where its outcome will be."""
    outcome: list[object] = []

    def call() -> None:
        try:
            outcome.append(session.complete("One, two, three,", max_tokens=240, grammar='root ::= "a"+', **options))
        except TransientError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, outcome


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about within two minutes"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_busy(pid: int) -> Callable[[], bool]:
    """Whether the worker has used processor time since this was called."""

    def ticks() -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])

    before = ticks()
    return lambda: ticks() > before + 5


def test_a_worker_killed_in_the_middle_of_a_call_fails_it_and_the_next_call_works(start: Start) -> None:
    events: list[str] = []
    session = start(events=events)
    first_pid = session.pid
    busy = is_busy(first_pid)
    thread, outcome = call_in_thread(session)
    wait_until(busy)

    os.kill(first_pid, signal.SIGKILL)
    thread.join(30)

    assert isinstance(outcome[0], WorkerCrashed)
    assert "SIGKILL" in str(outcome[0])
    assert session.complete("One, two,", max_tokens=2).tokens_out == 2
    assert session.pid != first_pid
    assert events == ["worker_started", "worker_crashed", "worker_started"]


def test_calls_under_way_are_told_when_the_worker_dies_and_those_that_wait_get_the_next_one(start: Start) -> None:
    session = start()
    busy = is_busy(session.pid)
    calls = [call_in_thread(session) for _ in range(3)]  # two run, one waits for a slot
    wait_until(busy)

    os.kill(session.pid, signal.SIGKILL)
    for thread, _ in calls:
        thread.join(60)

    crashed = [isinstance(outcome[0], WorkerCrashed) for _, outcome in calls]
    assert sorted(crashed) == [False, True, True]
    assert session.stats()["starts"] == 2


def test_a_worker_that_hangs_is_killed_and_the_next_call_works(start: Start) -> None:
    events: list[str] = []
    session = start(events=events, worker_grace_s=0.2)
    hung_pid = session.pid
    os.kill(hung_pid, signal.SIGSTOP)

    with pytest.raises(WorkerCrashed, match="hung"):
        session.complete("One, two,", max_tokens=2, timeout_s=0.2)

    wait_until(lambda: not is_running(hung_pid))
    assert session.complete("One, two,", max_tokens=2).tokens_out == 2
    assert events == ["worker_started", "worker_timed_out", "worker_crashed", "worker_started"]
    assert session.stats()["timeouts"] == 1


def test_a_call_that_finds_no_free_slot_in_time_is_late_and_the_worker_is_not_hung(start: Start) -> None:
    session = start(worker_grace_s=0.05)
    pid = session.pid
    busy = is_busy(pid)
    calls = [call_in_thread(session) for _ in range(2)]
    wait_until(busy)

    with pytest.raises(TransientError, match="no slot was free"):
        session.complete("One, two,", max_tokens=2, timeout_s=0.2)

    for thread, outcome in calls:
        thread.join(60)
        assert not isinstance(outcome[0], TransientError)
    assert session.pid == pid


def test_a_worker_that_keeps_dying_is_started_after_growing_pauses(start: Start) -> None:
    session = start(draw=0.999, worker_restart_max_s=3600)
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: session.pid is None)

    with pytest.raises(TransientError, match="next start in") as caught:
        session.complete("One, two,", max_tokens=2, timeout_s=0.05)

    assert not isinstance(caught.value, WorkerCrashed)
    assert session.stats()["starts"] == 1


def test_a_call_waits_for_the_pause_when_its_time_allows(start: Start) -> None:
    session = start(draw=0.5)
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: session.pid is None)

    assert session.complete("One, two,", max_tokens=2, timeout_s=60).tokens_out == 2


def children() -> set[int]:
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for one in lists for pid in one.read_text().split()}


def test_a_model_that_was_exchanged_between_its_check_and_its_loading_is_not_used(model_path: Path) -> None:
    load = Load(
        runtime="xllamacpp",
        model_path=str(model_path),
        options=TextOptions(context_tokens=256),
        threads=1,
        max_memory_bytes=0,
        scratch_dir="",
    )
    before = children()  # a broker that other tests share is one, too
    pids: list[int] = []

    def checked() -> Load:
        pids.extend(children() - before)
        if pids:
            raise ModelError("was exchanged")
        return load

    with pytest.raises(ModelError, match="exchanged"):
        WorkerTextSession("llm", checked, schema.Models())

    assert len(pids) == 1
    wait_until(lambda: not is_running(pids[0]))


def test_a_memory_limit_that_is_too_small_is_a_model_error_with_a_reason(start: Start) -> None:
    with pytest.raises(ModelError) as caught:
        start(max_memory_bytes=400 << 20)

    assert "its worker" in str(caught.value)


def test_a_memory_limit_that_suffices_holds_in_the_worker(start: Start) -> None:
    session = start(max_memory_bytes=3 << 30)

    limits = Path(f"/proc/{session.pid}/limits").read_text()

    assert next(line for line in limits.splitlines() if line.startswith("Max address space")).split()[3] == str(3 << 30)
    assert session.complete("One, two,", max_tokens=2).tokens_out == 2


def test_the_kernel_takes_the_worker_before_the_daemon(start: Start) -> None:
    session = start()

    assert Path(f"/proc/{session.pid}/oom_score_adj").read_text().strip() == "800"


def test_signals_meant_for_the_daemon_do_not_end_the_worker(start: Start) -> None:
    session = start()
    pid = session.pid

    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)

    assert session.complete("One, two,", max_tokens=2).tokens_out == 2
    assert session.pid == pid


def test_close_ends_the_worker_and_whoever_waits(start: Start) -> None:
    session = start()
    pid = session.pid
    busy = is_busy(pid)
    thread, outcome = call_in_thread(session)
    wait_until(busy)

    session.close()
    thread.join(30)

    assert isinstance(outcome[0], WorkerCrashed)
    wait_until(lambda: not is_running(pid))
    with pytest.raises(WorkerCrashed, match="closed"):
        session.complete("One, two,", max_tokens=2)


def test_a_worker_does_not_end_with_the_thread_that_started_it(start: Start) -> None:
    made: list[WorkerTextSession] = []
    thread = threading.Thread(target=lambda: made.append(start()))
    thread.start()
    thread.join(60)

    assert made[0].complete("One, two,", max_tokens=2).tokens_out == 2


DAEMON = """
import sys, time
from gatewayd.config import schema
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import Load
from gatewayd.runtimes.worker import WorkerTextSession
load = Load(runtime="xllamacpp", model_path=sys.argv[1], options=TextOptions(context_tokens=256), threads=1,
            max_memory_bytes=0, scratch_dir="")
session = WorkerTextSession("llm", lambda: load, schema.Models())
print("worker", session.pid, flush=True)
session.complete("One, two, three,", max_tokens=240, grammar='root ::= "a"+')
time.sleep(60)
"""


def test_a_worker_dies_with_its_daemon_even_in_the_middle_of_a_call(model_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DAEMON, str(model_path)], stdout=subprocess.PIPE, text=True) as daemon:
        pid = next(int(line.split()[1]) for line in daemon.stdout if line.startswith("worker "))
        wait_until(is_busy(pid))

        daemon.kill()

    wait_until(lambda: not is_running(pid))


@pytest.mark.parametrize("content", [b"GGUF and 33 bytes that are no model", b"x" * 37, b""])
def test_a_file_that_is_no_gguf_is_a_model_error_and_this_process_lives(tmp_path: Path, content: bytes) -> None:
    gguf_bundle(tmp_path, content)
    events: list[tuple[str, str]] = []
    store = ModelStore(tmp_path, schema.Models(), lambda *event: events.append(event))

    with pytest.raises(ModelError, match=r"tiny-llm.*worker ended with status 1"):
        store.get("tiny-llm").text()

    assert events == [("tiny-llm", "load_failed")]


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_gguf_cut_short_is_a_model_error_that_quotes_the_library(
    tmp_path: Path, model_path: Path, kept: float
) -> None:
    whole = model_path.read_bytes()
    gguf_bundle(tmp_path, whole[: int(len(whole) * kept)])

    with pytest.raises(ModelError, match="failed to load model"):
        ModelStore(tmp_path, schema.Models()).get("tiny-llm").text()


def test_a_worker_that_is_not_ready_in_time_is_ended(tmp_path: Path, model_path: Path) -> None:
    gguf_bundle(tmp_path, model_path)

    with pytest.raises(ModelError, match=r"not loaded within 0\.01 s; raise models\.worker_start_s"):
        ModelStore(tmp_path, schema.Models(worker_start_s=0.01)).get("tiny-llm").text()


def test_a_model_exchanged_while_the_worker_was_down_is_not_loaded(tmp_path: Path, model_path: Path) -> None:
    folder = gguf_bundle(tmp_path, model_path, session={"context_tokens": 256})
    store = ModelStore(tmp_path, schema.Models(worker_restart_max_s=0.01))
    session = store.get("tiny-llm").text()
    with (folder / "model.gguf").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: session.pid is None)

    with pytest.raises(ModelError, match="sha256"):
        session.complete("One, two,", max_tokens=2)

    store.close()


def test_a_runtime_that_is_not_installed_is_a_model_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is not None:
        pytest.skip("llama_cpp is installed here")
    gguf_bundle(tmp_path, b"GGUF", runtime="llama_cpp")

    with pytest.raises(ModelError, match=r'pip install "gatewayd\[llm-compile\]"'):
        ModelStore(tmp_path, schema.Models()).get("tiny-llm").text()
