"""Figure 12: several gatewayds on one shared subscription. Reported; nothing may be lost or answered twice."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.speed.rig import Feed, broker, gateway, metric, series_route
from benchmarks.speed.rows import Row, rounds
from tests.sim.gateway import wait_until

_N_MESSAGES = 40_000
_PATIENCE_S = 120.0
# Sessions end with their connection: a broker goes on giving a member that is away its share, and rounds differ.
_GROUP = 'share_group = "bench"\nsession_expiry_s = 0\n'


def shared(folder: Path) -> Iterator[Row]:
    """12: one, two and four."""
    with broker(folder / "broker") as one:
        counts = (1, 2, 4)
        taken = rounds([lambda n=n: _rate(folder / str(n), one.port, n) for n in counts], 3)
    alone = taken[0]
    for n, its in zip(counts, taken, strict=True):
        yield Row(
            id="12",
            what=f"{n} gatewayd on one shared subscription, QoS 1 to commit; each message handled once",
            value=its.median,
            unit="msg/s",
            baseline="" if n == 1 else "one gatewayd",
            ratio=None if n == 1 else its.over(alone),
            ok=True,
            spread=its.spread,
        )


def _rate(folder: Path, port: int, n_gateways: int) -> float:
    """Messages a second; raises AssertionError when one is lost or handled twice."""
    text = series_route(folder, qos=1, live=False, stored=True)
    with ExitStack() as stack:
        group = [
            stack.enter_context(
                gateway(folder / f"{time.time_ns()}", port, text, name=f"bench-{number}", source=_GROUP)
            )
            for number in range(n_gateways)
        ]
        feed = Feed(folder, port, qos=1, n_messages=_N_MESSAGES)
        began_s = time.perf_counter()
        feed.send()

        def handled() -> float:
            return sum(metric(one, "gatewayd_messages_handled_total") for one in group)

        wait_until(lambda: handled() >= feed.n_messages, _PATIENCE_S, group[0].describe)
        rate = feed.n_messages / (time.perf_counter() - began_s)
        time.sleep(0.5)
        assert handled() == feed.n_messages, f"{handled()} handled of {feed.n_messages}"
    return rate
