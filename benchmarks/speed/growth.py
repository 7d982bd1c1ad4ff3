"""Figure 11: what a message costs when there are more routes, more topics and larger payloads. CPU, not time."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed.rig import broker, cpu_s, gateway, metric
from benchmarks.speed.rows import Row, Taken, rounds

_PER_S = 4000
_SECONDS = 4.0
_SETTLED_S = 1.0

ROUTE = """
[routes.r{number}]
topics = ["{topic}"]
handler = "threshold"
qos = 0
[[routes.r{number}.options.rules]]
field = "vibration"
above = 3.0
label = "high"
"""


def growth(folder: Path) -> Iterator[Row]:
    """11: routes, topics, payload bytes."""
    cases = {
        "1 route, 10 topics, 72 bytes": (1, 10, 72),
        "10 routes": (10, 10, 72),
        "100 routes": (100, 10, 72),
        "1,000 topics": (1, 1000, 72),
        "10,000 topics": (1, 10_000, 72),
        "4 KiB": (1, 10, 4096),
        "64 KiB": (1, 10, 65_536),
    }
    with broker(folder / "broker") as one:
        takes = [
            lambda n=number, case=case: _cost_us(folder / str(n), one.port, *case)
            for number, case in enumerate(cases.values())
        ]
        taken = dict(zip(cases, rounds(takes, 3), strict=True))
    base_name, base = next(iter(taken.items()))
    yield Row(id="11", what=f"CPU of a message: {base_name}", value=base.median, unit="µs", spread=base.spread)
    for name, its in list(taken.items())[1:]:
        yield _beside(name, its, base)


def _beside(name: str, its: Taken, base: Taken) -> Row:
    ratio = its.over(base)
    is_bound = not name.endswith("KiB")  # a larger payload has more to decode: reported
    return Row(
        id="11a",
        what=f"CPU of a message: {name}",
        value=its.median,
        unit="µs",
        baseline="the first line of 11",
        ratio=ratio,
        reach="<= 1.3" if is_bound else "",
        ok=ratio <= 1.3 if is_bound else None,
        spread=its.spread,
    )


def _cost_us(folder: Path, port: int, n_routes: int, n_topics: int, n_bytes: int) -> float:
    """One route takes the messages; the others wait for topics of their own."""
    routes = [ROUTE.format(number=0, topic="bench/#")]
    routes += [ROUTE.format(number=number, topic=f"other/{number}/#") for number in range(1, n_routes)]
    with gateway(folder, port, "".join(routes)) as subject:
        before_s, before = cpu_s(subject), metric(subject, "gatewayd_messages_handled_total")
        per_s = min(_PER_S, 200_000_000 // 8 // n_bytes)
        command = [sys.executable, "-m", "benchmarks.speed.feeder", "--port", str(port), "--per-s", str(per_s)]
        command += ["--seconds", str(_SECONDS), "--topics", str(n_topics), "--bytes", str(n_bytes)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
        time.sleep(_SETTLED_S)
        n_handled = metric(subject, "gatewayd_messages_handled_total") - before
        return (cpu_s(subject) - before_s) / n_handled * 1e6
