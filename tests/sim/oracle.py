"""The oracle of the fault tests: it issues the ids, derives each payload from its id, and asks the cloud at the end.

Owed is what the broker acknowledged to the device, message by message; everything else is told apart from it: what was
stored and never sent (phantom), stored and not as it was sent (corrupt), stored under two ids (duplicate), or arrived
under an id that was there already (resent: what an at-least-once link may do, and the cloud's dedup removes).
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from mqttium import MQTTError
from mqttium.api import AsyncClient, PublishReceipt

FRESH = 10**12  # number of the message that shows, at the end, that all still works
_AWAY_S = 0.1
_TICK_S = 0.01
_MAX_OPEN = 2000  # publishes under way

LOSS = "dev.gatewayd.result.loss"  # what the gateway says it lost; counted, and no message of anybody's
AGGREGATE = "dev.gatewayd.result.aggregate"  # stands for the oldest results of a route that thins

_encode = msgspec.json.encode
_decode = msgspec.json.decode


def payload_of(seed: int, number: int, n_pad: int = 0) -> bytes:
    """What the device sends as its `number`-th message: a function of the id, so that the far side can be checked."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest[:4], "big") / 2**32
    return _encode({"value": value, "n": number, "run": seed, "pad": (digest.hex() * (n_pad // 16 + 1))[:n_pad]})


class Device(threading.Thread):
    """Publishes at QoS 1 and keeps, message by message, what the broker acknowledged.

    Args:
        port: of the broker.
        seed: of the run; part of every payload.
        n_messages: how many to send; None: until `halt`.
        per_s: messages a second; None: as fast as the broker takes them.
        first: number of the first message.
        n_pad: bytes of padding in each payload.
    """

    def __init__(
        self,
        port: int,
        seed: int,
        *,
        n_messages: int | None = None,
        per_s: float | None = None,
        first: int = 0,
        n_pad: int = 0,
        topic: str = "plant/line",
    ) -> None:
        super().__init__(name="device", daemon=True)
        self._port = port
        self._seed = seed
        self._n_messages = n_messages
        self._per_s = per_s
        self._first = first
        self._n_pad = n_pad
        self._topic = topic
        self._is_halted = False
        self.n_sent = 0
        self.acked: set[int] = set()
        self.n_republished = 0  # sent again after the device's own connection broke: twice on the bus, not our doing
        self.error: BaseException | None = None

    def numbers(self) -> range:
        """The ids issued so far."""
        return range(self._first, self._first + self.n_sent)

    def halt(self) -> None:
        """Issue no more ids; what was sent is still waited for."""
        self._is_halted = True

    def finish(self, timeout_s: float = 120.0) -> None:
        """Return when every message sent was acknowledged. Raises AssertionError otherwise."""
        self.join(timeout_s)
        assert not self.is_alive(), f"the broker acknowledged {len(self.acked)} of {self.n_sent} within {timeout_s} s"
        assert self.error is None, f"the device failed: {self.error!r}"

    def run(self) -> None:
        """The thread."""
        try:
            asyncio.run(self._live())
        except BaseException as error:  # kept for `finish`, which runs in the test's own thread
            self.error = error

    async def _live(self) -> None:
        while not self._is_done():
            client = AsyncClient(f"device-{self._seed}-{self._first}", keepalive=300)
            try:
                await client.connect("127.0.0.1", self._port)
                await self._publish_over(client)
            except* (MQTTError, OSError):
                await asyncio.sleep(_AWAY_S)  # the broker is away: what was not acknowledged is sent again
            finally:
                await client.disconnect()

    def _is_done(self) -> bool:
        over = self._is_halted or self.n_sent == self._n_messages
        return over and len(self.acked) == self.n_sent

    async def _publish_over(self, client: AsyncClient) -> None:
        waiting: asyncio.Queue[tuple[int, PublishReceipt] | None] = asyncio.Queue(_MAX_OPEN)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._await_receipts(waiting), name="receipts")
            for number in sorted(set(self.numbers()) - self.acked):
                self.n_republished += 1
                await waiting.put((number, await self._publish(client, number)))
            began_s, n_before = time.monotonic(), self.n_sent
            while not (self._is_halted or self.n_sent == self._n_messages):
                if self._per_s and self.n_sent - n_before >= (time.monotonic() - began_s) * self._per_s:
                    await asyncio.sleep(_TICK_S)
                    continue
                number = self._first + self.n_sent
                self.n_sent += 1
                await waiting.put((number, await self._publish(client, number)))
            await waiting.put(None)

    async def _publish(self, client: AsyncClient, number: int) -> PublishReceipt:
        return await client.publish(self._topic, payload_of(self._seed, number, self._n_pad), qos=1)

    async def _await_receipts(self, waiting: "asyncio.Queue[tuple[int, PublishReceipt] | None]") -> None:
        while (entry := await waiting.get()) is not None:
            number, receipt = entry
            await receipt.wait()
            self.acked.add(number)


class Ledger:
    """What the cloud got, read from its file (one CloudEvent a line, duplicates included) as that grows."""

    def __init__(self, file: Path, seed: int, n_pad: int = 0, route: str = "") -> None:
        self._file = file
        self._source_end = f"/{route}" if route else ""  # other routes' events are somebody else's
        self._seed = seed
        self._n_pad = n_pad
        self._offset = 0
        self._newest = -1
        self._ids: set[tuple[str, str]] = set()
        self.by_number: dict[int, int] = {}  # message -> different ids it was stored under
        self.n_arrived = 0
        self.n_resent = 0
        self.n_corrupt = 0
        self.n_out_of_order = 0  # first arrivals that came after a later message
        self.n_loss_reports = 0
        self.n_aggregates = 0
        self.least_latency_ms: float | None = None

    def read(self) -> int:
        """Read on; how many messages are stored."""
        for line in self._new_lines():
            self._take(_decode(line))
        return len(self.by_number)

    def _new_lines(self) -> Iterator[bytes]:
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # being written
                    return
                self._offset += len(line)
                yield line

    def _take(self, event: dict[str, Any]) -> None:
        if not event["source"].endswith(self._source_end):
            return
        self.n_arrived += 1
        id_ = event["source"], event["id"]
        if id_ in self._ids:
            self.n_resent += 1
            return
        self._ids.add(id_)
        if event.get("type") in {LOSS, AGGREGATE}:
            self.n_loss_reports += event.get("type") == LOSS
            self.n_aggregates += event.get("type") == AGGREGATE
            return
        content = event["data"].get("input", event["data"])
        if (latency_ms := event["data"].get("latency_ms")) is not None:
            self.least_latency_ms = min(latency_ms, self.least_latency_ms or latency_ms)
        number = content["n"]
        if _encode(content) != payload_of(self._seed, number, self._n_pad):
            self.n_corrupt += 1
        if number not in self.by_number and number < FRESH:
            self.n_out_of_order += number < self._newest
            self._newest = max(self._newest, number)
        self.by_number[number] = self.by_number.get(number, 0) + 1


@dataclass(kw_only=True)
class Line:
    """One case: the figures of the issue, further ones in `more`, and what does not hold."""

    test: str
    subject: str
    seed: int
    sent: int = 0
    acked: int = 0
    delivered_unique: int = 0
    lost: int = 0
    duplicates: int = 0  # after the cloud's dedup by source and id
    phantom: int = 0
    corrupt: int = 0
    dead_letter: int = 0
    evicted: int = 0
    expired: int = 0
    out_of_order: int = 0
    recovery_s: float | None = None
    peak_rss_mb: float | None = None
    max_wal_mb: float | None = None
    bytes_written_per_msg: float | None = None
    fresh_event_ok: bool | None = None
    resent: int = 0  # arrivals under an id that the cloud had: before its dedup
    faults: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_compared: bool = False  # an alternative measured beside gatewayd: its losses are not ours

    @property
    def holds(self) -> bool:
        """Whether the case shows what it should."""
        return self.is_compared or not self.problems

    def as_json(self) -> str:
        """The line."""
        fields = {name: value for name, value in vars(self).items() if name not in {"more", "is_compared"}}
        return _encode({**fields, **self.more, "holds": self.holds}).decode()


FIELDS = (
    "test",
    "subject",
    "seed",
    "sent",
    "acked",
    "delivered_unique",
    "lost",
    "duplicates",
    "phantom",
    "corrupt",
    "dead_letter",
    "evicted",
    "expired",
    "out_of_order",
    "recovery_s",
    "peak_rss_mb",
    "max_wal_mb",
    "bytes_written_per_msg",
    "fresh_event_ok",
)  # of every line


def count(line: Line, device: Device, ledger: Ledger) -> None:
    """Compare what was sent and acknowledged with what the cloud has. `dead_letter` … of the line are filled before."""
    ledger.read()
    stored = {number: n for number, n in ledger.by_number.items() if number < FRESH}
    declared = line.dead_letter + line.evicted + line.expired
    line.sent, line.acked = device.n_sent, len(device.acked)
    line.delivered_unique = len(stored)
    line.lost = max(0, len(device.acked - stored.keys()) - declared)
    line.phantom = len(stored.keys() - set(device.numbers()))
    line.corrupt = ledger.n_corrupt
    line.duplicates = sum(n - 1 for n in stored.values())
    line.resent = ledger.n_resent
    line.out_of_order = ledger.n_out_of_order


def judge(line: Line, *, min_acked: int, min_faults: int, min_resent: int = 0, max_duplicates: int = 0) -> None:
    """Note what does not hold, and what would make the pass a vacuous one."""
    for name in ("lost", "phantom", "corrupt", "out_of_order"):
        if getattr(line, name):
            line.problems.append(f"{name}: {getattr(line, name)}")
    if line.duplicates > max_duplicates:
        line.problems.append(f"duplicates: {line.duplicates}, not more than {max_duplicates} may be")
    if not line.fresh_event_ok:
        line.problems.append("a fresh message did not get through at the end")
    for name, value, least in (
        ("acked", line.acked, min_acked),
        ("faults", line.faults, min_faults),
        ("resent", line.resent, min_resent),
    ):
        if value < least:
            line.problems.append(f"vacuous: {name} is {value}, at least {least} is needed")
