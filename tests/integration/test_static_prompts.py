"""A static prompt is computed once: for every slot, over the worker's death, and over the daemon's restart."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewayd.config import schema
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import Load
from gatewayd.runtimes.worker import WorkerTextSession
from tests.sim.models import demo_models

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]

STATIC = "Log lines and their level.\n\n" + "".join(
    f"Line: pump-{number} ran for {number * 7} hours and reports nothing out of the ordinary\nLevel: info\n\n"
    for number in range(1, 13)
)
Open = Callable[..., WorkerTextSession]


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[Open]:
    pytest.importorskip("xllamacpp")
    opened: list[WorkerTextSession] = []
    model = str(demo_models("gemma3-270m") / "gemma3-270m" / "model.gguf")

    def begin(parallel: int = 1, max_bytes: int = 256 << 20) -> WorkerTextSession:
        load = Load(
            runtime="xllamacpp",
            model_path=model,
            options=TextOptions(context_tokens=1024, parallel=parallel),
            threads=1,
            max_memory_bytes=0,
            scratch_dir="",
            identity=f"gemma3-270m {parallel}",
            cache_dir=str(tmp_path / "cache") if max_bytes else "",
            max_cache_bytes=max_bytes,
        )
        opened.append(WorkerTextSession("gemma3-270m", lambda: load, schema.Models()))
        return opened[-1]

    yield begin
    for session in opened:
        session.close()


def cached_share(session: WorkerTextSession, end: str) -> float:
    completion = session.complete(STATIC + end, max_tokens=1)
    return completion.tokens_cached / completion.tokens_in


def states(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.slot"))


def test_the_first_call_finds_it_computed(open_session: Open) -> None:
    session = open_session()

    session.keep_prefix(STATIC)

    assert cached_share(session, "Line: fan-3 is noisy\nLevel:") >= 0.8
    assert session.stats()["prefixes_computed"] == 1


def test_the_first_call_after_the_workers_death_finds_it_computed(open_session: Open) -> None:
    session = open_session()
    session.keep_prefix(STATIC)
    worker = session._supervisor._worker
    assert worker is not None
    worker.kill()

    share = cached_share(session, "Line: fan-3 is noisy\nLevel:")

    assert share >= 0.8
    assert session.stats()["prefixes_restored"] == 1


def test_the_first_call_after_a_restart_of_the_daemon_finds_it_computed(open_session: Open) -> None:
    first = open_session()
    first.keep_prefix(STATIC)
    first.close()
    second = open_session()

    second.keep_prefix(STATIC)

    assert second.stats()["prefixes_restored"] == 1
    assert second.stats().get("prefixes_computed", 0) == 0
    assert cached_share(second, "Line: fan-3 is noisy\nLevel:") >= 0.8


def test_every_slot_finds_it_computed(open_session: Open) -> None:
    session = open_session(parallel=3)
    session.keep_prefix(STATIC)
    shares: list[float] = []
    together = threading.Barrier(3)

    def call(number: int) -> None:
        together.wait()
        shares.append(cached_share(session, f"Line: valve-{number} is open\nLevel:"))

    threads = [threading.Thread(target=call, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert len(shares) == 3
    assert min(shares) >= 0.8


def test_it_is_found_again_after_another_prompt_took_the_slot(open_session: Open) -> None:
    session = open_session()
    session.keep_prefix(STATIC)
    session.complete("Once upon a time there was a gateway", max_tokens=4)

    assert cached_share(session, "Line: fan-3 is noisy\nLevel:") >= 0.8


def test_the_same_answer_comes_from_a_state_that_was_read_and_one_that_was_computed(open_session: Open) -> None:
    end = "Line: pump-4 stopped because its bearing is overheated\nLevel:"
    plain = open_session(max_bytes=0).complete(STATIC + end, max_tokens=8).text
    first = open_session()
    first.keep_prefix(STATIC)
    first.close()
    second = open_session()
    second.keep_prefix(STATIC)

    assert second.complete(STATIC + end, max_tokens=8).text == plain


def test_a_damaged_file_is_removed_and_computed_again(open_session: Open, tmp_path: Path) -> None:
    first = open_session()
    first.keep_prefix(STATIC)
    first.close()
    (path,) = states(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    second = open_session()

    second.keep_prefix(STATIC)

    assert second.stats()["prefixes_computed"] == 1
    assert cached_share(second, "Line: fan-3 is noisy\nLevel:") >= 0.8
    assert len(states(tmp_path)) == 1


def test_the_file_of_other_options_is_not_used(open_session: Open, tmp_path: Path) -> None:
    first = open_session(parallel=1)
    first.keep_prefix(STATIC)
    first.close()
    second = open_session(parallel=2)

    second.keep_prefix(STATIC)

    assert second.stats()["prefixes_computed"] == 1
    assert len(states(tmp_path)) == 2


def test_a_prefix_that_no_context_could_hold_disturbs_nothing(open_session: Open) -> None:
    session = open_session()

    session.keep_prefix("word " * 2000)

    assert session.complete("One, two,", max_tokens=2).tokens_out == 2
