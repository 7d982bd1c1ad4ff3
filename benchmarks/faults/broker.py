"""Case 9, what comes from the broker: messages delivered again and again, more of them than were asked for, poison.

How often a message was delivered again, and how many were unacknowledged at most, is read from the broker's own log.
"""

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.faults import slow
from benchmarks.faults.bench import Part, Run
from tests.sim import poison
from tests.sim.gateway import Gateway
from tests.sim.mosquitto import Mosquitto
from tests.sim.oracle import Line, judge
from tests.sim.proxy import Proxy, Toxic
from tests.sim.rig import Bench

_MAX_INFLIGHT = 100  # asked of the broker
_MAX_WAITING = 64  # taken from the socket and not yet handled
_PATIENCE_S = 60.0
_POISONS = ("exit", "abort", "raise", "leave")

_CONFIG = """
[source]
port = {port}
client_id = "bench"
max_waiting_messages = {max_waiting}
[source.reconnect]
initial_s = 0.05
max_s = 0.2
[handlers]
paths = ["site.py"]
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
[routes.readings]
topics = ["plant/#"]
handler = "{handler}"
sinks = ["cloud"]
include_input = true
live = false
mode = "{mode}"
max_attempts = 3
"""


def parts(run: Run) -> list[Part]:
    """Both modes where the mode matters."""
    n_cuts, n_messages, n_poisons = run.size(15, 300), run.size(5000, 100_000), run.size(1, 20)
    made = []
    for mode in ("direct", "journaled"):
        subject = f"gatewayd, {mode}"
        again = partial(redeliver, seed=run.seed, mode=mode, n_cuts=n_cuts)
        made.append(Part("9 duplicates from the broker", subject, again, seconds=n_cuts * 1.2))
        bad = partial(feed_poison, seed=run.seed, mode=mode, n_rounds=n_poisons)
        made.append(Part("9 poison among good messages", subject, bad, seconds=n_poisons * 12))
    overrun = partial(overwhelm, seed=run.seed, n_messages=n_messages)
    return [*made, Part("9 more than receive_max", "gatewayd, direct", overrun, seconds=n_messages / 250)]


def redeliver(folder: Path, seed: int, *, mode: str, n_cuts: int) -> Line:
    """PUBACKs are swallowed, then the connection breaks: the broker delivers again what was committed long ago."""
    line = Line(test="9 duplicates from the broker", subject=f"gatewayd, {mode}", seed=seed)
    with _bench(folder, seed) as the:
        the.cloud.start()
        proxy = Proxy(the.broker.port, seed)
        proxy.start()
        try:
            gateway = the.gateway(port=proxy.port, mode=mode)
            gateway.start()
            device = the.send(per_s=300)
            for _ in range(n_cuts):
                time.sleep(0.5)
                proxy.put([Toxic(kind="timeout", direction="upstream")])  # no PUBACK gets through
                time.sleep(0.4)
                proxy.down()
                proxy.put()
                proxy.up()
            began_s, n_before = time.monotonic(), the.ledger.read()
            _wait(lambda: the.ledger.read() > n_before)
            line.recovery_s = round(time.monotonic() - began_s, 2)
            device.halt()
            device.finish()
            the.settle()
            line.fresh_event_ok = the.is_fresh_through()
            the.close_books(line)
        finally:
            proxy.stop()
        line.faults = len(_again(the))
    judge(line, min_acked=n_cuts * 100, min_faults=n_cuts * 3)
    line.more["cuts"] = n_cuts
    return line


def overwhelm(folder: Path, seed: int, *, n_messages: int) -> Line:
    """A handler far slower than the device, and a broker that does not keep to how many may be unacknowledged."""
    line = Line(test="9 more than receive_max", subject="gatewayd, direct", seed=seed)
    with _bench(folder, seed, f"max_inflight_messages {_MAX_INFLIGHT}") as the:
        the.cloud.start()
        gateway = _gateway(the, slow.__file__, "slow", "direct", "[routes.readings.options]\npause_ms = 1.0\n")
        gateway.start()
        the.send(n_messages=n_messages).finish()
        began_s = time.monotonic()
        the.settle()
        line.recovery_s = round(time.monotonic() - began_s, 2)
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
        line.more["most_unacknowledged"] = line.faults = _most_unacked(_log(the))
        line.more["asked_for_at_most"] = _MAX_INFLIGHT
        line.more["delivered_again"] = len(_again(the))
    judge(line, min_acked=n_messages, min_faults=_MAX_INFLIGHT)
    return line


def feed_poison(folder: Path, seed: int, *, mode: str, n_rounds: int) -> Line:
    """Messages that end the process or make the handler fail, in the middle of good ones, on the same topic's route."""
    line = Line(test="9 poison among good messages", subject=f"gatewayd, {mode}", seed=seed)
    n_poisons = n_rounds * len(_POISONS)
    with _bench(folder, seed) as the:
        the.cloud.start()
        gateway = _gateway(the, poison.__file__, "poison", mode)
        gateway.start()
        device = the.send(per_s=100)
        for n in range(n_poisons):
            before = device.n_sent
            _keep_running(gateway, line, lambda before=before: device.n_sent > before + 10)  # type: ignore[misc]
            _publish(the.broker, "plant/bad", _POISONS[n % len(_POISONS)])
        began_s = time.monotonic()
        _keep_running(gateway, line, lambda: gateway.books().messages["readings"]["dead"] >= n_poisons)
        line.recovery_s = round(time.monotonic() - began_s, 2)
        device.halt()
        device.finish()
        _keep_running(gateway, line, lambda: the.ledger.read() >= len(device.acked))
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
        line.lost = len(device.acked - the.ledger.by_number.keys())  # none of the good ones may be among the dead
    line.sent, line.acked = line.sent + n_poisons, line.acked + n_poisons
    line.more["starts"] = line.faults
    judge(line, min_acked=n_poisons * 5, min_faults=n_poisons)
    if line.dead_letter != n_poisons:
        line.problems.append(f"dead_letter: {line.dead_letter}, and {n_poisons} were poison")
    return line


@contextmanager
def _bench(folder: Path, seed: int, *settings: str) -> Iterator[Bench]:
    """A bench whose broker tells everything."""
    folder.mkdir(parents=True)
    made = Bench(folder, seed)
    made.broker = Mosquitto(folder / "broker", settings=["log_type all", *settings])
    with made as the:
        yield the


def _gateway(the: Bench, file: str, handler: str, mode: str, rest: str = "") -> Gateway:
    text = _CONFIG.format(port=the.broker.port, url=the.cloud.url, handler=handler, mode=mode, max_waiting=_MAX_WAITING)
    gateway = Gateway(the.folder / "gateway", text + rest, name="bench")
    site = gateway.folder / "site.py"
    shutil.copyfile(file, site)
    site.chmod(0o600)
    gateway.folder.chmod(0o700)
    the.put(gateway)
    return gateway


def _keep_running(gateway: Gateway, line: Line, condition: Callable[[], bool]) -> None:
    """Be systemd until it holds: start again what ended, end what says of itself that it is stuck."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition() and time.monotonic() < deadline_s:
        assert gateway.process is not None
        if _is_stuck(gateway):
            gateway.process.send_signal(signal.SIGABRT)
            gateway.process.wait(timeout=10)
        if gateway.process.poll() is not None:
            line.faults += 1
            gateway.start(ready=False)
        time.sleep(0.05)


def _is_stuck(gateway: Gateway) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.web_port}/healthz", timeout=2):
            return False
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _publish(broker: Mosquitto, topic: str, value: str) -> None:
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", topic, "-q", "1", "-m", json.dumps(value)]
    subprocess.run(command, check=True, timeout=30)


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.02)


_PUBLISH = re.compile(r"Sending PUBLISH to bench\S* \(d([01]), q1, r0, m(\d+),")
_PUBACK = re.compile(r"Received PUBACK from bench\S* \(Mid: (\d+)")


def _log(the: Bench) -> list[str]:
    """The broker's log; it is stopped first, so that nothing of it is still in memory."""
    if the.broker._process is not None:
        the.broker.stop()
    return (the.broker.folder / "mosquitto.log").read_text(errors="replace").splitlines()


def _again(the: Bench) -> list[str]:
    """The messages that were delivered to the gateway once more."""
    found = (_PUBLISH.search(text) for text in _log(the))
    return [match[2] for match in found if match and match[1] == "1"]


def _most_unacked(log: Iterable[str]) -> int:
    """Most messages at one moment that the gateway had been sent and had not acknowledged."""
    open_: set[str] = set()
    most = 0
    for text in log:
        if match := _PUBLISH.search(text):
            open_.add(match[2])
            most = max(most, len(open_))
        elif match := _PUBACK.search(text):
            open_.discard(match[1])
    return most
