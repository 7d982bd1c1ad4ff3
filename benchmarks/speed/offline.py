"""Figure 8: a million messages while the cloud is away. Memory, disk, and what flash pays for a message.

Once and not five times: it is a million messages, and takes a minute or two. Memory is looked at every 50,000 of them,
from the first 50,000 on (by then everything has been used once), and the largest growth counts.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw

from benchmarks.give_back import disk_bytes
from benchmarks.speed.report import draw
from benchmarks.speed.rig import Feed, broker, gateway, metric, rss_mb, wait_for
from benchmarks.speed.rows import Row
from tests.sim.gateway import Gateway
from tests.sim.mosquitto import free_port

_N_MESSAGES = 1_000_000
_PORTION = 50_000  # fewer than Mosquitto 2.0.11 can leave unacknowledged
_WAITING = 10_000  # the next portion is sent when only so many of the last one are left
_MOST_MB, _MOST_DISK = 10.0, 1.5
_HANDLED = "gatewayd_messages_handled_total"

CONFIG = """
[spool]
max_bytes = 4294967296
[sinks.cloud]
type = "http"
url = "http://127.0.0.1:{cloud_port}/events"
[routes.r]
topics = ["bench/#"]
handler = "threshold"
sinks = ["cloud"]
[routes.r.options]
on = "every"
[[routes.r.options.rules]]
field = "vibration"
above = 3.0
label = "high"
"""
# A result as the sink gets it: its data, and what makes an event of them. The time is a number of eight bytes.
_BYTES = """SELECT count(*), sum(octet_length(key) + octet_length(kind) + octet_length(subject) + 8 + octet_length(data)
    + octet_length(traceparent)), sum(octet_length(data)) FROM results"""


def offline(folder: Path) -> Iterator[Row]:
    """8: RSS, disk, bytes written."""
    state = folder / "gateway" / "state"
    with broker(folder / "broker") as one:
        feed = Feed(folder, one.port, qos=1, n_messages=_PORTION)
        with gateway(folder / "gateway", one.port, CONFIG.format(cloud_port=free_port())) as subject:
            _take(subject, feed, 1)
            began_mb, grown_mb = _rss_mb(subject), [0.0]
            for number in range(1, _N_MESSAGES // _PORTION + 1):
                _take(subject, feed, 1 + number)
                grown_mb.append(_rss_mb(subject) - began_mb)
            wait_for(subject, _HANDLED, _N_MESSAGES + _PORTION)
            written = metric(subject, "gatewayd_spool_written_bytes_total")
            grown_mb.append(_rss_mb(subject) - began_mb)
            on_disk = disk_bytes(state)
    seen = [(_PORTION * number / 1e6, grown) for number, grown in enumerate(grown_mb)]
    draw(folder, "offline", "Memory while the cloud is away", "million messages", "MB", {"growth of RSS": seen})
    n_results, n_bytes, n_data = _stored(state / "spool.db")
    assert n_results == _N_MESSAGES + _PORTION, f"{n_results} results of {_N_MESSAGES + _PORTION} messages"
    yield from _rows(max(grown_mb), grown_mb[-1], on_disk / n_results, written / n_results, n_bytes, n_data)


def _rows(
    most_mb: float, last_mb: float, on_disk: float, written: float, n_bytes: float, n_data: float
) -> Iterator[Row]:
    """`on_disk`, `written`, `n_bytes` and `n_data` are of one message."""
    yield Row(
        id="8",
        what=f"{_N_MESSAGES:,} messages while offline: growth of RSS, at most (once)",
        value=most_mb,
        unit="MB",
        reach=f"<= {_MOST_MB:g}",
        ok=most_mb <= _MOST_MB,
        spread=f"{last_mb:.3g} at the end",
    )
    stored = f"the result's bytes, {n_bytes:.0f} ({n_data:.0f} of them data)"
    ratio = on_disk / n_bytes
    yield Row(
        id="8a",
        what="disk of a message while offline",
        value=on_disk,
        unit="bytes/msg",
        baseline=stored,
        ratio=ratio,
        reach=f"<= {_MOST_DISK}",
        ok=ratio <= _MOST_DISK,
    )
    yield Row(
        id="8b",
        what="written to disk for a message while offline, by the spool",
        value=written,
        unit="bytes/msg",
        baseline=stored,
        ratio=written / n_bytes,
    )


def _take(subject: Gateway, feed: Feed, n_portions: int) -> None:
    """Send a portion; return when few are left of all that were sent."""
    feed.send()
    wait_for(subject, _HANDLED, n_portions * _PORTION - _WAITING)


def _rss_mb(subject: Gateway) -> float:
    assert subject.process is not None
    return rss_mb(subject.process.pid)


def _stored(spool: Path) -> tuple[int, float, float]:
    """How many results there are, and the bytes of one, all of it and its data."""
    with closing(apsw.Connection(str(spool), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        n_results, n_bytes, n_data = next(iter(connection.execute(_BYTES)))
    return n_results, n_bytes / n_results, n_data / n_results
