"""Figures 3 and 4: publish -> live result, at rest and under half of what the gateway can take."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.speed.report import draw
from benchmarks.speed.rig import Feed, broker, gateway, series_route
from benchmarks.speed.rows import REPEATS, Row, Taken

_N_PROBES = 500
_PER_S = 100.0
_WINDOW_FULL = 200

PROBED = """
[routes.probe]
topics = ["probe/#"]
handler = "classify_series"
qos = 0
include_input = true
[routes.probe.options]
model = "pumps"
device = "topic"
max_gap_s = 0.0
"""


def at_rest(folder: Path) -> Iterator[Row]:
    """3: 100 messages a second and nothing else."""
    with _rig(folder) as port:
        taken = [_probe(port) for _ in range(REPEATS)]
    _draw(folder, "latency", "Publish to live result, 100 messages a second", taken)
    yield from _rows("3", "publish -> live result, 100 msg/s", taken, p50_ms=2.0, p99_ms=10.0)


def under_load(folder: Path, per_s: float) -> Iterator[Row]:
    """4: the same beside `per_s` messages a second on another route."""
    with _rig(folder) as port:
        taken = []
        for _ in range(REPEATS):
            seconds = _N_PROBES / _PER_S + 4
            command = [sys.executable, "-m", "benchmarks.speed.feeder", "--port", str(port), "--per-s", str(per_s)]
            feeder = subprocess.Popen([*command, "--seconds", str(seconds)], stdout=subprocess.DEVNULL)
            taken.append(_probe(port))
            feeder.wait(60)
    _draw(folder, "latency-load", f"The same beside {per_s:,.0f} messages a second", taken)
    load = f"on another route, {per_s:,.0f} msg/s"
    yield from _rows("4", "the same beside half of figure 1's rate", taken, p50_ms=None, p99_ms=25.0, load=load)


@contextmanager
def _rig(folder: Path) -> Iterator[int]:
    """Broker and gateway with the route that is probed and the one that is loaded; the broker's port."""
    # Without it the broker holds small packets to who measures back until the next one goes out: 10 ms, now and then.
    with broker(folder / "broker", settings=["set_tcp_nodelay true"]) as one:
        text = series_route(folder, qos=0, live=True, stored=False) + PROBED
        with gateway(folder / "gateway", one.port, text):
            Feed(folder, one.port, qos=0, n_messages=_WINDOW_FULL).send()
            _warm(one.port)
            yield one.port


def _warm(port: int) -> None:
    """The probed device's window is full after this."""
    for _ in range(20):
        message = '{"vibration":2.0,"current":7.5,"pressure":4.2}'
        subprocess.run(["mosquitto_pub", "-p", str(port), "-t", "probe/1", "-m", message], check=True)


def _probe(port: int) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.speed.prober", "--port", str(port), "--per-s", str(_PER_S)]
    done = subprocess.run([*command, "--count", str(_N_PROBES)], capture_output=True, check=True, timeout=120)
    return [float(value) for value in json.loads(done.stdout)]


def _draw(folder: Path, name: str, title: str, taken: list[list[float]]) -> None:
    """Each round's percentiles, 1 to 99."""
    lines = {
        f"round {number}": list(enumerate(statistics.quantiles(times, n=100), 1))
        for number, times in enumerate(taken, 1)
    }
    draw(folder, name, title, "percentile", "ms", lines)


def _rows(
    number: str, what: str, taken: list[list[float]], *, p50_ms: float | None, p99_ms: float, load: str = ""
) -> Iterator[Row]:
    for letter, percent, most_ms in (("", 50, p50_ms), ("a", 99, p99_ms)):
        its = Taken(tuple(statistics.quantiles(times, n=100)[percent - 1] for times in taken))
        yield Row(
            id=f"{number}{letter}",
            what=f"{what}, p{percent}",
            value=its.median,
            unit="ms",
            baseline=load,
            reach=f"<= {most_ms:g} ms" if most_ms else "",
            ok=its.median <= most_ms if most_ms else None,
            spread=its.spread,
        )
