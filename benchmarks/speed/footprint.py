"""Figures 9 and 10: memory, and how soon after its start a gateway answers."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed.rig import Feed, Listener, broker, gateway, pss_mb, series_route
from benchmarks.speed.rows import Row, Taken, rounds
from tests.sim.gateway import Gateway

CORE = """
[routes.r]
topics = ["bench/#"]
handler = "threshold"
qos = {qos}
[[routes.r.options.rules]]
field = "vibration"
above = 3.0
label = "high"
"""
_SETTLED_S = 3.0


def footprint(folder: Path) -> Iterator[Row]:
    """9: memory. 10: from the start to the first result."""
    with broker(folder / "broker") as one:
        series = series_route(folder, qos=0, live=True, stored=False)

        def memory(name: str, text: str) -> float:
            with gateway(folder / name, one.port, text) as subject:
                Feed(folder, one.port, qos=0, n_messages=2000).send()
                time.sleep(_SETTLED_S)
                assert subject.process is not None
                return pss_mb(subject.process.pid)

        core, with_model, subscribed, first = rounds(
            [
                lambda: memory("core", CORE.format(qos=1)),
                lambda: memory("series", series),
                lambda: _subscribed_s(folder / "core", one.port, CORE.format(qos=1)),
                lambda: _first_s(folder / "series", one.port, series),
            ]
        )
    yield _row("9", "memory (PSS): core", "MB", core, 60)
    yield _row("9a", "memory (PSS): with a series model", "MB", with_model, 120)
    yield _row("10", "process start -> subscribed", "s", subscribed, 1.0)
    yield _row("10a", "process start -> first result of the series model", "s", first, 1.5)


def _row(number: str, what: str, unit: str, taken: Taken, most: float) -> Row:
    ok = taken.median <= most
    return Row(id=number, what=what, value=taken.median, unit=unit, reach=f"<= {most:g}", ok=ok, spread=taken.spread)


def _subscribed_s(folder: Path, port: int, text: str) -> float:
    """Until its retained `online` is on the bus; it is published once the broker has confirmed the subscriptions."""
    forget = ["mosquitto_pub", "-p", str(port), "-t", "gatewayd/bench/status", "-r", "-n"]
    subprocess.run(forget, check=True)
    listener = Listener(port, "gatewayd/bench/status", 1)
    return _until(listener, folder, port, text)


def _first_s(folder: Path, port: int, text: str) -> float:
    """Until the first live result, with devices that publish all the time."""
    listener = Listener(port, "gatewayd/bench/results/r", 1)
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.feeder",
        "--port",
        str(port),
        "--per-s",
        "2000",
        "--seconds",
        "20",
    ]
    feeder = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(1.0)
    try:
        return _until(listener, folder, port, text)
    finally:
        feeder.kill()
        feeder.wait()


def _until(listener: Listener, folder: Path, port: int, text: str) -> float:
    one = Gateway(folder, f"[source]\nport = {port}\n{text}", name="bench")
    began_s = time.perf_counter()
    one.start(ready=False)
    try:
        listener.wait()
        return time.perf_counter() - began_s
    finally:
        one.stop()
        one.end()
