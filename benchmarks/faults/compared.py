"""Cases 1 and 8 again, for what a user would otherwise have: one line each, beside ours. Their losses fail nothing.

The load is the same; the quick form has fewer kills and messages, for a script with a commit a message takes long.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.alternatives.bridge import BridgedEdge, CloudBroker, EdgeSubject
from benchmarks.faults.bench import Run
from benchmarks.faults.kills import kill_at_random
from benchmarks.faults.offline import fill_and_drain
from tests.sim.oracle import Ledger, Line
from tests.sim.rig import Bench, ScriptSubject, bench

_FOLDER = Path(__file__).parent / "alternatives"
_SCRIPTS = {  # subject: script, library it cannot do without
    "aiomqtt + SQLite script": ("plain_script.py", "aiomqtt"),
    "persist-queue + paho": ("persist_queue_script.py", "persistqueue"),
}

_BRIDGES: dict[str, tuple[str, ...]] = {  # subject: what is set beyond `persistence true`
    "Mosquitto bridge, defaults": (),
    "Mosquitto bridge, saved at each change": ("autosave_on_changes true", "autosave_interval 1"),
}


def run_kills(run: Run) -> Iterator[Line]:
    """Case 1: kills at random moments."""
    n_kills = run.size(20, 1000)
    for name in _installed(run):
        run.say(f"{n_kills} kills, {name}")
        line = Line(test="1 kill -9 at random", subject=name, seed=run.seed, is_compared=True)
        with bench(run.folder / name, run.seed) as the:
            kill_at_random(the, _subject(the, name), line, n_kills=n_kills)
            _close(the, line)
        yield line

    for name, settings in _BRIDGES.items():
        run.say(f"{n_kills} kills, {name}")
        yield _kill_bridge(run.folder / name, run.seed, name, settings, n_kills)


def _kill_bridge(folder: Path, seed: int, name: str, settings: tuple[str, ...], n_kills: int) -> Line:
    line = Line(test="1 kill -9 at random", subject=name, seed=seed, is_compared=True)
    made = Bench(folder, seed)
    cloud = CloudBroker(folder)
    edge = BridgedEdge(folder / "edge", cloud.port, settings)
    made.broker, made.cloud = edge, cloud  # type: ignore[assignment]
    made.ledger = Ledger(cloud.file, seed)
    with made as the:
        the.put(EdgeSubject(edge))
        assert the.subject is not None
        kill_at_random(the, the.subject, line, n_kills=n_kills)
        assert the.device is not None
        line.more["republished_by_the_device"] = the.device.n_republished
        _close(the, line)
    return line


def run_offline(run: Run) -> Iterator[Line]:
    """Case 8: a backlog."""
    n_messages = run.size(10_000, 1_000_000)
    for name in _installed(run):
        run.say(f"{n_messages} messages while the cloud is away, {name}")
        line = Line(test="8 a long time offline", subject=name, seed=run.seed, is_compared=True)
        with bench(run.folder / name, run.seed) as the:
            fill_and_drain(the, _subject(the, name), line, n_messages)
            _close(the, line)
        yield line


def _installed(run: Run) -> Iterator[str]:
    for name, (_, library) in _SCRIPTS.items():
        if importlib.util.find_spec(library) is None:
            run.say(f"{name}: left out, {library} is not installed")
        else:
            yield name


def _subject(the: Bench, name: str) -> ScriptSubject:
    script = _FOLDER / _SCRIPTS[name][0]
    subject = ScriptSubject(the.folder / "script", script, str(the.broker.port), the.cloud.url)
    the.put(subject)
    return subject


def _close(the: Bench, line: Line) -> None:
    line.fresh_event_ok = the.is_fresh_through()
    the.close_books(line)
