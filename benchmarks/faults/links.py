"""Case 6: processes that stand still, links that break, are slow, lose data or stay half open, on both sides.

Every fault goes through a proxy between gateway and broker and another between gateway and cloud, while a device
publishes; then all is well again, and everything that was acknowledged must arrive.
"""

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Part, Run
from tests.sim.oracle import Line, judge
from tests.sim.proxy import Direction, Proxy, Toxic
from tests.sim.rig import Bench, bench

_PER_S = 300
WAYS: tuple[Direction, ...] = ("upstream", "downstream")
Play = Callable[["Links", int], int]  # the links and how much of it; how many faults there were

_SLOW = [Toxic(kind="latency", direction=way, latency_ms=150, jitter_ms=100) for way in WAYS]
_NARROW = [
    Toxic(kind="bandwidth", direction="upstream", rate_bytes_per_s=200_000),
    Toxic(kind="slicer", direction="downstream", average_bytes=40, variation_bytes=30, delay_ms=0.5),
    Toxic(kind="slow_close", direction="downstream", delay_ms=500),
]


class Links:
    """The bench with its two links."""

    def __init__(self, the: Bench, line: Line, to_broker: Proxy, to_cloud: Proxy) -> None:
        self.the = the
        self.line = line
        self.to_broker = to_broker
        self.to_cloud = to_cloud
        self.both = (to_broker, to_cloud)
        self.chance = random.Random(the.seed)

    def put(self, toxics: list[Toxic], for_s: float) -> None:
        """Spoil both links for so long."""
        for proxy in self.both:
            proxy.put(toxics)
        time.sleep(for_s)
        for proxy in self.both:
            proxy.put()

    def recover(self) -> float:
        """Seconds until another message has arrived."""
        began_s = time.monotonic()
        n_before = self.the.ledger.read()
        while self.the.ledger.read() == n_before and time.monotonic() - began_s < 60:
            time.sleep(0.02)
        return time.monotonic() - began_s


def _partitions(links: Links, n: int) -> int:
    """Cut one link or both, for a moment or for longer."""
    for _ in range(n):
        cut = links.chance.choice([links.both, links.both[:1], links.both[1:]])
        for proxy in cut:
            proxy.down()
        time.sleep(links.chance.uniform(0.02, 0.5))
        for proxy in cut:
            proxy.up()
        time.sleep(links.chance.uniform(0.05, 0.6))
    return n


def _slow(links: Links, n: int) -> int:
    for toxics in [_SLOW, _NARROW] * n:
        links.put(toxics, 4.0)
    return 2 * n


def _lossy(links: Links, n: int) -> int:
    """Connections that end in the middle of a packet or a request, or after the answer was sent and before it came."""
    before = sum(proxy.n_connections for proxy in links.both)
    for _ in range(n):
        way = links.chance.choice(WAYS)
        limit = Toxic(kind="limit_data", direction=way, max_bytes=links.chance.randint(50, 20_000))
        reset = Toxic(kind="reset_peer", direction="downstream", timeout_ms=links.chance.randint(0, 200), toxicity=0.5)
        links.put([limit, reset], 1.0)
    return sum(proxy.n_connections for proxy in links.both) - before


def _half_open(links: Links, n: int) -> int:
    """Nothing passes and nobody is told: found out by the keepalive and the request's time limit."""
    for _ in range(n):
        links.put([Toxic(kind="timeout", direction=way) for way in WAYS], 6.0)
        time.sleep(1.0)
    return n


def _stop_gateway(links: Links, n: int) -> int:
    assert links.the.subject is not None
    process = links.the.subject.process
    assert process is not None
    for _ in range(n):
        process.send_signal(signal.SIGSTOP)
        time.sleep(links.chance.uniform(0.5, 5.0))  # the broker gives a client up after 1.5 keepalives, 3 s
        process.send_signal(signal.SIGCONT)
        time.sleep(1.0)
    return n


def _stop_broker(links: Links, n: int) -> int:
    for _ in range(n):
        links.the.broker.pause()
        time.sleep(links.chance.uniform(0.5, 5.0))
        links.the.broker.resume()
        time.sleep(1.0)
    return n


CASES: dict[str, tuple[Play, int, int]] = {  # name: play, quick, long
    "partitions": (_partitions, 50, 1000),
    "slow links": (_slow, 2, 50),
    "lossy links": (_lossy, 12, 500),
    "half-open links": (_half_open, 3, 50),
    "SIGSTOP of gatewayd": (_stop_gateway, 4, 100),
    "SIGSTOP of the broker": (_stop_broker, 4, 100),
}


def parts(run: Run) -> list[Part]:
    """Each kind of fault on a bench of its own."""
    return [
        Part(
            f"6 {name}",
            "gatewayd",
            partial(spoil, seed=run.seed, name=name, n=run.size(quick, long)),
            seconds=20 * run.size(quick, long) / quick,
        )
        for name, (_, quick, long) in CASES.items()
    ]


def spoil(folder: Path, seed: int, name: str, n: int) -> Line:
    """One kind of fault, `n` times."""
    line = Line(test=f"6 {name}", subject="gatewayd", seed=seed)
    with bench(folder, seed) as the:
        the.cloud.start()
        to_broker, to_cloud = Proxy(the.broker.port, seed), Proxy(the.cloud.port, seed)
        to_broker.start()
        to_cloud.start()
        try:
            _spoil(the, line, Links(the, line, to_broker, to_cloud), name, n)
        finally:
            to_broker.stop()
            to_cloud.stop()
    judge(line, min_acked=500, min_faults=n)
    return line


def _spoil(the: Bench, line: Line, links: Links, name: str, n: int) -> None:
    url = f"http://127.0.0.1:{links.to_cloud.port}/events"
    gateway = the.gateway(port=links.to_broker.port, url=url, keepalive_s=2, timeout_s=2)
    gateway.start()
    device = the.send(per_s=_PER_S)
    time.sleep(0.5)
    line.faults = CASES[name][0](links, n)
    line.recovery_s = round(links.recover(), 2)
    device.halt()
    device.finish()
    the.settle()
    line.more["connections"] = {"broker": links.to_broker.n_connections, "cloud": links.to_cloud.n_connections}
    line.fresh_event_ok = the.is_fresh_through()
    the.close_books(line)
