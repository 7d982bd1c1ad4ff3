"""Case 12: everything at once. A direct and a journaled route, a device for each, and one random fault after the other.

The daemon is killed, stopped and restarted, the broker stands still and restarts, links break, lose data and slow down,
the cloud refuses, hangs and loses its answers, the clock jumps. In the end every acknowledged message is at the cloud,
and the books balance, as `gatewayd spool audit` says.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.faults.bench import Part, Run, say
from benchmarks.faults.clocks import environment, find_faketime
from benchmarks.faults.links import WAYS
from benchmarks.faults.storm import StormyCloud
from tests.sim.cloud import Scripted
from tests.sim.gateway import Gateway
from tests.sim.mosquitto import Mosquitto
from tests.sim.oracle import Device, Ledger, Line, count, judge
from tests.sim.proxy import Proxy, Toxic
from tests.sim.rig import Bench

_PER_S = 100
_SAY_EVERY_S = 30.0
_SETTLE_S = 300.0
_JOURNALED_FROM = 10**9  # numbers of the second device's messages
_SUMMED = (
    "sent",
    "acked",
    "delivered_unique",
    "lost",
    "phantom",
    "corrupt",
    "duplicates",
    "resent",
    "out_of_order",
)
_JUMPS = ("+0", "+400d", "-1d", "+10y", "-400d")

_CONFIG = """
[source]
port = {port}
client_id = "bench"
keepalive_s = 2
connect_timeout_s = 3
[source.reconnect]
initial_s = 0.05
max_s = 0.3
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
timeout_s = 2
[routes.direct]
topics = ["plant/line", "plant/direct"]
handler = "threshold"
sinks = ["cloud"]
include_input = true
mode = "direct"
[routes.direct.options]
on = "every"
rules = [{{ field = "value", above = -1.0, label = "seen" }}]
[routes.journaled]
topics = ["plant/journaled"]
handler = "threshold"
sinks = ["cloud"]
include_input = true
mode = "journaled"
[routes.journaled.options]
on = "every"
rules = [{{ field = "value", above = -1.0, label = "seen" }}]
"""


def parts(run: Run) -> list[Part]:
    """One soak."""
    seconds = run.size(60, 1500)
    return [Part("12 mixed soak", "gatewayd", partial(soak, seed=run.seed, seconds=seconds), seconds=seconds + 20)]


class Soak:
    """The bench, and what may happen to it."""

    def __init__(self, the: Bench, cloud: StormyCloud) -> None:
        self.the = the
        self.cloud = cloud
        self.chance = random.Random(the.seed)
        self.to_broker, self.to_cloud = (
            Proxy(port, the.seed) for port in (the.broker.port, urlsplit(cloud.url).port or 0)
        )
        self.library = find_faketime()
        self.offset = the.folder / "offset"
        self.offset.write_text("+0")
        self.to_broker.start()
        self.to_cloud.start()
        url = f"http://127.0.0.1:{self.to_cloud.port}{urlsplit(cloud.url).path}"
        text = _CONFIG.format(port=self.to_broker.port, url=url)
        self.gateway = Gateway(the.folder / "gateway", text, name="bench")
        the.put(self.gateway)
        self.done: Counter[str] = Counter()

    def start(self, *, ready: bool = True) -> None:
        """The daemon, with the right time."""
        self.gateway.start(ready=ready)

    def kill(self) -> None:
        """`kill -9`, and a start at once."""
        assert self.the.watch is not None
        self.the.watch.look()
        self.gateway.kill()
        self.start(ready=False)

    def restart(self) -> None:
        """A clean stop, wherever it is in its start."""
        self.gateway.stop()
        self.start(ready=False)

    def stand_still(self) -> None:
        """SIGSTOP of the daemon."""
        assert self.gateway.process is not None
        self.gateway.process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.2, 4.0))
        self.gateway.process.send_signal(signal.SIGCONT)

    def broker_stands_still(self) -> None:
        """SIGSTOP of the broker."""
        self.the.broker.pause()
        time.sleep(self.chance.uniform(0.2, 4.0))
        self.the.broker.resume()

    def broker_restarts(self) -> None:
        """Cleanly: a broker that is killed loses what it acknowledged, whatever stands behind it."""
        self.the.broker.restart()

    def partition(self) -> None:
        """One link or both."""
        cut = self.chance.choice([[self.to_broker], [self.to_cloud], [self.to_broker, self.to_cloud]])
        for proxy in cut:
            proxy.down()
        time.sleep(self.chance.uniform(0.05, 2.0))
        for proxy in cut:
            proxy.up()

    def bad_link(self) -> None:
        """Slow, half open, cut off in the middle."""
        proxy = self.chance.choice([self.to_broker, self.to_cloud])
        way = self.chance.choice(WAYS)
        kinds = [
            Toxic(kind="latency", direction=way, latency_ms=150, jitter_ms=100),
            Toxic(kind="timeout", direction=way),
            Toxic(kind="limit_data", direction=way, max_bytes=self.chance.randint(50, 20_000)),
            Toxic(kind="bandwidth", direction=way, rate_bytes_per_s=50_000),
        ]
        proxy.put([self.chance.choice(kinds)])
        time.sleep(self.chance.uniform(0.3, 2.0))
        proxy.put()

    def bad_cloud(self) -> None:
        """Refuses for now, hangs, loses its answer, breaks off within it."""
        kind = self.chance.randrange(4)
        if kind == 0:
            self.cloud.script.extend(Scripted(self.chance.choice([401, 429, 500, 503])) for _ in range(4))
        elif kind == 1:
            self.cloud.hangs = True
            time.sleep(self.chance.uniform(0.2, 3.0))
            self.cloud.hangs = False
        elif kind == 2:
            self.cloud.loses_answers = 2
        else:
            self.cloud.resets_bodies = 2

    def clock_jumps(self) -> None:
        """A life under a clock that is wrong and jumps in the middle of it; the next one has the right time again."""
        assert self.library is not None
        self.offset.write_text(self.chance.choice(_JUMPS))
        self.gateway.kill()
        self.gateway.start(environment=environment(self.library, self.offset), ready=False)
        time.sleep(2.0)
        self.offset.write_text(self.chance.choice(_JUMPS))  # read again every second
        time.sleep(self.chance.uniform(1.0, 3.0))
        self.kill()

    def calm(self) -> None:
        """All is well again."""
        self.cloud.script.clear()
        self.cloud.hangs = False
        for proxy in (self.to_broker, self.to_cloud):
            proxy.put()

    def kinds(self) -> list[Callable[[], None]]:
        """Every fault there is here."""
        made = [
            self.kill,
            self.restart,
            self.stand_still,
            self.broker_stands_still,
            self.broker_restarts,
            self.partition,
            self.bad_link,
            self.bad_cloud,
        ]
        return [*made, self.clock_jumps] if self.library else made

    def rage(self, seconds: float) -> None:
        """One fault after the other; each kind comes up once before any comes twice."""
        began_s = said_s = time.monotonic()
        due: list[Callable[[], None]] = []
        while time.monotonic() - began_s < seconds:
            if not due:
                due = self.kinds()
                self.chance.shuffle(due)
            fault = due.pop()
            fault()
            self.done[fault.__name__] += 1
            if self.gateway.process is not None and self.gateway.process.poll() is not None:
                self.done["ended by itself"] += 1  # as systemd would
                self.start(ready=False)
            if time.monotonic() - said_s > _SAY_EVERY_S:
                said_s = time.monotonic()
                say(f"soak: {self.done.total()} faults in {said_s - began_s:.0f} s")
            time.sleep(self.chance.uniform(0.2, 1.0))


def soak(folder: Path, seed: int, *, seconds: float) -> Line:
    """So many seconds of it, and then the reckoning."""
    line = Line(test="12 mixed soak", subject="gatewayd", seed=seed)
    folder.mkdir(parents=True)
    made = Bench(folder, seed)
    made.broker = Mosquitto(folder / "broker", persistence=True)
    cloud = StormyCloud(made.cloud.file)
    cloud.begin()
    with made as the:
        soaking = Soak(the, cloud)
        try:
            _soak(the, soaking, line, seconds)
        finally:
            soaking.to_broker.stop()
            soaking.to_cloud.stop()
            cloud.end()
    kinds = len(soaking.kinds())
    judge(line, min_acked=int(seconds * 20), min_faults=max(kinds, int(seconds / 5)), min_resent=1)
    _judge(line, soaking, kinds)
    return line


def _soak(the: Bench, soaking: Soak, line: Line, seconds: float) -> None:
    soaking.start()
    the.await_birth()
    devices = [
        Device(the.broker.port, the.seed, per_s=_PER_S, topic="plant/direct"),
        Device(the.broker.port, the.seed, per_s=_PER_S, topic="plant/journaled", first=_JOURNALED_FROM),
    ]
    ledgers = [Ledger(the.cloud.file, the.seed, route=route) for route in ("direct", "journaled")]
    the.device, the.ledger = devices[0], ledgers[0]
    for device in devices:
        device.start()
    soaking.rage(seconds)
    soaking.calm()
    for device in devices:
        device.halt()
    for device in devices:
        device.finish()
    began_s = time.monotonic()
    _settle(devices, ledgers, soaking)
    line.recovery_s = round(time.monotonic() - began_s, 2)
    line.fresh_event_ok = the.is_fresh_through()
    the.close_books(line)
    _count_all(line, devices, ledgers)
    line.faults = soaking.done.total()
    line.more["faults_by_kind"] = dict(soaking.done)
    line.more["seconds_of_faults"] = round(seconds)
    line.more["republished_by_the_devices"] = sum(device.n_republished for device in devices)
    line.more["audit"] = _audit(soaking.gateway)


def _settle(devices: list[Device], ledgers: list[Ledger], soaking: Soak) -> None:
    deadline_s = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline_s:
        for ledger in ledgers:
            ledger.read()
        if all(device.acked <= ledger.by_number.keys() for device, ledger in zip(devices, ledgers, strict=True)):
            return
        process = soaking.gateway.process
        if process is not None and process.poll() is not None:
            soaking.start(ready=False)
        time.sleep(0.1)


def _count_all(line: Line, devices: list[Device], ledgers: list[Ledger]) -> None:
    each = [Line(test="", subject="", seed=line.seed) for _ in devices]
    for part, device, ledger in zip(each, devices, ledgers, strict=True):
        count(part, device, ledger)
    for name in _SUMMED:
        setattr(line, name, sum(getattr(part, name) for part in each))


def _audit(gateway: Gateway) -> str:
    """What the command says of the books, after the daemon has ended."""
    command = [sys.executable, "-m", "gatewayd", "spool", "audit", "--config", str(gateway.config)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=dict(os.environ))
    if done.returncode == 0:
        return "balanced"
    return f"exit status {done.returncode}: {done.stdout[-300:]!r} {done.stderr[-300:]!r}"


def _judge(line: Line, soaking: Soak, n_kinds: int) -> None:
    # What a device sends again because the broker went away before it acknowledged is on the bus twice.
    n_twice = line.more["republished_by_the_devices"]
    line.problems = [problem for problem in line.problems if not problem.startswith("duplicates")]
    if line.duplicates > n_twice:
        line.problems.append(f"duplicates: {line.duplicates}, and {n_twice} were published twice")
    if line.more["audit"] != "balanced":
        line.problems.append(f"gatewayd spool audit: {line.more['audit']}")
    if line.dead_letter or line.evicted or line.expired:
        line.problems.append("nothing was to be buried, evicted or expired")
    if len(set(soaking.done) - {"ended by itself"}) < n_kinds:
        line.problems.append(f"vacuous: of {n_kinds} kinds of faults there were {sorted(soaking.done)}")
