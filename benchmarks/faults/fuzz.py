"""Case 9, what nobody would send: Hypothesis and, where it is installed, atheris on payloads, topics and config.

A finding is anything but an answer or one of the declared errors. The inputs are counted as sent, those answered in
good order as acked, those that were taken as delivered, findings as corrupt.
"""

import importlib.util
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from benchmarks.faults.bench import Part, Run, say
from benchmarks.faults.fuzz_targets import SEEDS, TARGETS
from benchmarks.faults.here import figures
from tests.sim.oracle import Line, judge

_EXECUTED = re.compile(rb"Done (\d+) runs|stat::number_of_executed_units: (\d+)")
_COVERED = re.compile(rb"cov: (\d+)")
_WORDS = b'{}[]",:.0123456789eE+-=#$/\\u \n\t\0abtifr'


def parts(run: Run) -> list[Part]:
    """A line for each target."""
    if importlib.util.find_spec("atheris") is None:
        say("case 9: atheris is not installed (pip install atheris): Hypothesis alone")
    seconds = run.size(6, 600)
    return [_part(run.seed, name, seconds) for name in TARGETS]


def _part(seed: int, name: str, seconds: float) -> Part:
    return Part(f"9 fuzz: {name}", "gatewayd", partial(fuzz, seed=seed, name=name, seconds=seconds), seconds * 2)


def fuzz(folder: Path, seed: int, *, name: str, seconds: float) -> Line:
    """Half of the time for each engine."""
    line = Line(test=f"9 fuzz: {name}", subject="gatewayd", seed=seed)
    with figures(folder, line):
        _hypothesis(line, seed, name, seconds)
        line.more["hypothesis_inputs"] = line.sent
        if importlib.util.find_spec("atheris") is not None:
            _atheris(folder, line, seed, name, seconds)
        else:
            line.more["atheris"] = "not installed"
    line.more["findings"] = line.corrupt
    line.faults = line.sent
    line.fresh_event_ok = TARGETS[name](SEEDS[name][0])
    judge(line, min_acked=1000, min_faults=1000)
    if not line.delivered_unique or not line.more["refused_in_words"]:
        line.problems.append("vacuous: no input was taken, or none was refused")
    return line


def _inputs(name: str) -> st.SearchStrategy[bytes]:
    """Noise, words of the formats, and good inputs with a part exchanged."""
    words = st.lists(st.sampled_from([bytes([c]) for c in _WORDS]), max_size=60).map(b"".join)
    good = st.sampled_from(SEEDS[name])
    spoiled = st.tuples(good, st.integers(0, 200), st.integers(0, 8), st.binary(max_size=8) | words).map(
        lambda pick: pick[0][: pick[1]] + pick[3] + pick[0][pick[1] + pick[2] :]
    )
    return st.binary(max_size=300) | words | spoiled | good


def _hypothesis(line: Line, seed: int, name: str, seconds: float) -> None:
    deadline_s = time.monotonic() + seconds
    target = TARGETS[name]
    rounds = 0

    def one(data: bytes) -> None:
        if time.monotonic() > deadline_s:
            return
        line.sent += 1
        try:
            is_taken = target(data)
        except Exception as error:  # what a fuzzer is for
            line.corrupt += 1
            line.problems.append(f"{name}: {data!r}: {error!r}"[:500])
        else:
            line.acked += 1
            line.delivered_unique += is_taken
            line.more["refused_in_words"] = line.more.get("refused_in_words", 0) + (not is_taken)

    while time.monotonic() < deadline_s and line.corrupt < 5:
        rounds += 1
        checks = settings(
            max_examples=200,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seeded(seed * 1000 + rounds)(checks(given(_inputs(name))(one)))()


def _atheris(folder: Path, line: Line, seed: int, name: str, seconds: float) -> None:
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number, data in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(data)
    command = [sys.executable, "-m", "benchmarks.faults.fuzz_atheris", name, str(corpus), f"-seed={seed}"]
    command += [f"-max_total_time={int(seconds)}", "-max_len=2000", "-timeout=10", f"-artifact_prefix={folder}/"]
    command += ["-print_final_stats=1", "-rss_limit_mb=1024"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=seconds * 3 + 120, check=False)
    n = max((int(a or b) for a, b in _EXECUTED.findall(done.stderr)), default=0)
    line.sent += n
    line.acked += n
    line.more["atheris_inputs"] = n
    line.more["atheris_coverage"] = max(map(int, _COVERED.findall(done.stderr)), default=0)
    found = [path.name for path in folder.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))]
    if done.returncode or found or not n:
        line.corrupt += 1
        line.acked -= 1
        inputs = [(folder / one).read_bytes()[:200] for one in found]
        line.problems.append(f"atheris: exit status {done.returncode}, {inputs} {done.stderr[-1500:]!r}")
