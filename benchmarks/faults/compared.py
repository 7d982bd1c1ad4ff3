"""Cases 1 and 8 again, for what a user would otherwise have: one line each, beside ours. Their losses fail nothing.

The load is the same; the quick form has fewer kills and messages, for a script with a commit a message takes long.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.faults import kills, offline
from benchmarks.faults.alternatives.bridge import BridgedEdge, CloudBroker, EdgeSubject
from benchmarks.faults.bench import Part, Run, say
from tests.sim.oracle import Ledger, Line
from tests.sim.rig import Bench, ScriptSubject, Subject, bench

_FOLDER = Path(__file__).parent / "alternatives"
_SCRIPTS = {  # subject: script, library it cannot do without
    "aiomqtt + SQLite script": ("plain_script.py", "aiomqtt"),
    "persist-queue + paho": ("persist_queue_script.py", "persistqueue"),
}

BRIDGES: dict[str, tuple[str, ...]] = {  # subject: what is set beyond `persistence true`
    "Mosquitto bridge, defaults": (),
    "Mosquitto bridge, saved at each change": ("autosave_on_changes true", "autosave_interval 1"),
}


_SAVES_ALL = {"Mosquitto bridge, saved at each change"}  # 400 kB a message, and growing with what waits


def kill_parts(run: Run) -> list[Part]:
    """Case 1: kills at random moments."""
    n_kills, n_ours = run.size(30, 1000), run.size(200, 2000)
    return [
        Part(
            kills.TEST,
            name,
            partial(_kill, seed=run.seed, name=name, n_kills=n_kills, n_ours=n_ours),
            seconds=n_kills * 1.0,
            is_compared=True,
        )
        for name in installed()
    ]


def offline_parts(run: Run) -> list[Part]:
    """Case 8: a great many messages while the cloud is away. Who writes everything with each change gets fewer."""
    n_ours = run.size(100_000, 1_000_000)
    sizes = dict.fromkeys(installed(), n_ours // 10) | dict.fromkeys(_SAVES_ALL & set(installed()), n_ours // 50)
    return [
        Part(
            offline.TEST,
            name,
            partial(_fill_and_drain, seed=run.seed, name=name, n_messages=n_messages, n_ours=n_ours),
            seconds=n_messages / (50 if name in _SAVES_ALL else 400),
            is_compared=True,
        )
        for name, n_messages in sizes.items()
    ]


def _kill(folder: Path, seed: int, name: str, n_kills: int, n_ours: int) -> Line:
    line = Line(test=kills.TEST, subject=name, seed=seed, is_compared=True)
    line.more["faults_of_ours"] = n_ours
    with alternative(folder, seed, name) as (the, subject):
        kills.kill_at_random(the, subject, line, n_kills=n_kills)
        close(the, line)
    return line


def _fill_and_drain(folder: Path, seed: int, name: str, n_messages: int, n_ours: int) -> Line:
    line = Line(test=offline.TEST, subject=name, seed=seed, is_compared=True)
    line.more["sent_of_ours"] = n_ours
    with alternative(folder, seed, name) as (the, subject):
        offline.fill_and_drain(the, subject, line, n_messages)
        close(the, line)
    return line


@contextmanager
def alternative(folder: Path, seed: int, name: str) -> Iterator[tuple[Bench, Subject]]:
    """The bench with an alternative in the place of gatewayd."""
    if name not in BRIDGES:
        with bench(folder, seed) as the:
            yield the, _subject(the, name)
        return
    made = Bench(folder, seed)
    cloud = CloudBroker(folder)
    edge = BridgedEdge(folder / "edge", cloud.port, BRIDGES[name])
    made.broker, made.cloud = edge, cloud  # type: ignore[assignment]
    made.ledger = Ledger(cloud.file, seed)
    with made as the:
        the.put(EdgeSubject(edge))  # type: ignore[arg-type]
        assert the.subject is not None
        yield the, the.subject


def installed() -> list[str]:
    """The alternatives that can be measured here."""
    missing = {name: library for name, (_, library) in _SCRIPTS.items() if importlib.util.find_spec(library) is None}
    for name, library in missing.items():
        say(f"{name}: left out, {library} is not installed")
    return [name for name in (*_SCRIPTS, *BRIDGES) if name not in missing]


def _subject(the: Bench, name: str) -> ScriptSubject:
    script = _FOLDER / _SCRIPTS[name][0]
    subject = ScriptSubject(the.folder / "script", script, str(the.broker.port), the.cloud.url)
    the.put(subject)
    return subject


def close(the: Bench, line: Line) -> None:
    """The end of an alternative's line."""
    assert the.device is not None
    line.more["republished_by_the_device"] = the.device.n_republished
    line.fresh_event_ok = the.is_fresh_through()
    the.close_books(line)
