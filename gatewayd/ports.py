"""The seams: what the stages need of the world, with the contract each adapter must keep.

Stages import this file and never an adapter. `tests/contract` runs one suite against every implementation.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from gatewayd.cascade.verdict import Decision, Place, Question, Refusal, Verdict


class RawMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message as it came from the source, before any route looked at it. Also what the journal keeps."""

    topic: str
    payload: bytes
    time: float  # arrival, seconds since the epoch
    key: str  # the message's idempotency key: see gatewayd.keys
    qos: int = 0
    retain: bool = False
    dup: bool = False  # the source says it may have delivered this before
    content_type: str = ""
    properties: tuple[tuple[str, str], ...] = ()  # MQTT 5 user properties, in order
    identity: bytes = b""  # the same bytes when the same message is redelivered; empty when that never happens
    receipt: Any = None  # opaque; hand it back to Source.ack. None: nothing to acknowledge

    @property
    def traceparent(self) -> str:
        """The W3C trace context the publisher sent, or ""."""
        return next((value for name, value in self.properties if name == "traceparent"), "")


class NewResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A result on its way into the spool."""

    key: str  # CloudEvents id: unique within the route, stable over crashes
    kind: str
    subject: str  # the message's topic, or the window's key
    time: float  # seconds since the epoch
    data: bytes  # JSON
    traceparent: str = ""


class StoredResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A result as the spool gives it out."""

    row: int  # position in the spool: larger is later
    route: str
    key: str
    kind: str
    subject: str
    time: float
    data: bytes
    traceparent: str = ""
    clock: str = ""  # of `time`; "unsynced": of a clock that was not synchronized; "corrected": it was, afterwards


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message or result put aside for a person."""

    route: str
    reason: str  # short and stable, for counters: "decode", "handler_error", "refused", "attempts"
    detail: str  # for the person who reads it
    topic: str
    payload: bytes
    time: float
    key: str
    content_type: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    sink: str = ""  # set when a sink refused a result; then `payload` is the result as a CloudEvent (JSON)


@dataclass(slots=True, kw_only=True)
class Work:
    """One atomic change of the spool for one route: all of it is on disk when `Spool.commit` returns, or none.

    The books balance by construction, and the spool refuses work that would unbalance them:
    received == handled + len(journal) - len(done) + len(dead) + sum(dropped).
    """

    route: str
    received: int = 0  # messages that reach their first durable point with this work
    handled: int = 0  # messages answered with this work (with or without a result)
    results: Sequence[NewResult] = ()
    journal: Sequence[RawMessage] = ()
    done: Sequence[int] = ()  # journal ids that leave the journal with this work
    dead: Sequence[DeadLetter] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> messages lost on purpose
    seen: Sequence[bytes] = ()  # identities of the messages received: a later redelivery is recognised by them


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """A raw message in the journal."""

    id: int  # ascending in order of arrival within a route
    message: RawMessage  # without receipt
    attempts: int  # how often handling was begun, counted before each attempt, over crashes too


# Of what a sink waits for of a route: all of it, or, where the route drains `live_first`, its older or its live share.
Share = Literal["all", "older", "live"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A claim of one sink on the oldest undelivered results of a share of a route. It lapses by itself."""

    id: int
    sink: str
    route: str
    results: tuple[StoredResult, ...]
    attempt: int  # 1 when first offered, one more after each nack and each lapse, 1 again after an ack
    share: Share = "all"


class Spool(Protocol):
    """The durable store: journal, results not yet in the cloud, dead letters, the two books."""

    async def commit(self, work: Work) -> Sequence[int]:
        """Return when `work` is durable; give back the journal ids of `work.journal`, in order.

        Raises SpoolFull when the cap is reached and the route's `when_full` is "block": the caller holds the messages
        and tries again. A result whose key is already stored for the route is not stored twice.
        """

    async def journal(self, route: str, *, after: int, limit: int) -> Sequence[JournalEntry]:
        """The route's journal entries with id > `after`, oldest first; empty when there is none."""

    async def journal_get(self, route: str, ids: Sequence[int]) -> Sequence[JournalEntry]:
        """The entries with these ids, in the order asked for; those that are gone are left out."""

    async def begin(self, route: str, ids: Sequence[int]) -> None:
        """Count an attempt for these journal entries, durably, before it is made."""

    async def first_attempts(self, identities: Sequence[bytes]) -> Sequence[bool]:
        """Count an attempt for each of these messages that has none yet, in one commit; which of them had none."""

    async def attempt(self, identity: bytes) -> int:
        """Count an attempt for a redelivered message of a direct route; the count so far, this one included."""

    async def lease(self, sink: str, route: str, *, limit: int, max_bytes: int, share: Share = "all") -> Lease:
        """Wait until that share of the route has results that are due for this sink, and claim the oldest."""

    async def try_lease(
        self, sink: str, route: str, *, limit: int, max_bytes: int, share: Share = "all"
    ) -> Lease | None:
        """As `lease`, but None when nothing is due now."""

    def divide(self, sink: str, route: str) -> None:
        """What the sink waits for of the route now is the older share, what is stored from now on the live one.

        Results that are leased in the live share stay in it until their lease ends. Nothing but the order of sending
        depends on it; it is forgotten at a restart, when all that is there becomes the older share.
        """

    async def ack(self, lease: Lease, *, refused: Mapping[str, str]) -> None:
        """The far side stored the lease's results, but for those in `refused` (key -> why), which are buried."""

    async def nack(self, lease: Lease, *, delay_s: float) -> None:
        """Not stored: the results are due again after `delay_s`, in the same order."""

    def hold(self, sink: str, delay_s: float) -> None:
        """The far side asked for this pause: to be kept over a restart."""

    def held_s(self, sink: str) -> float:
        """How much is left of the last pause that was kept; 0 when it is over."""

    def was_seen(self, identity: bytes) -> bool:
        """Whether a message with this identity passed its durable point before (bounded memory, survives a restart)."""


class Outgoing(NamedTuple):
    """A message to publish."""

    payload: bytes
    own: Sequence[tuple[str, str]] = ()  # MQTT 5 user properties
    shared: Sequence[tuple[str, str]] = ()  # before them: one object for all the messages that have the same


class Source(Protocol):
    """Where messages come from.

    `run` keeps the connection (and reconnects) until cancelled; `messages` never ends before that. Not reading
    `messages` holds the source back: nothing is dropped and memory stays bounded.
    """

    acks_after_commit: bool  # False: the source acknowledges before our code runs; a crash may lose what was in flight

    async def run(self) -> None:
        """Connect, subscribe, stay connected; reconnect with full jitter. Raises ConfigError on what no retry mends."""

    def messages(self) -> AsyncIterator[RawMessage]:
        """Messages in order of arrival, over reconnects."""

    async def ack(self, receipts: Sequence[Any]) -> None:
        """These messages have passed their durable point. Order does not matter, nor does a lost connection:
        a receipt the source no longer knows is ignored, for the message will come again."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        content_type: str = "",
        properties: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Publish on the local bus. False when it could not be handed over now (not connected, no room): never waits
        for a connection."""

    async def publish_all(
        self, topic: str, messages: Sequence[Outgoing], *, qos: int = 0, content_type: str = ""
    ) -> int:
        """Publish several messages, in order, as `publish` does. How many were handed over."""

    async def pause(self) -> None:
        """Stop delivering (drain): unsubscribe from nothing, acknowledge nothing more than what is acked."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def is_subscribed(self) -> bool:
        """Whether the broker sends what the config asks for: connected, and no filter was refused."""

    @property
    def protocol(self) -> int:
        """5 or 4 (3.1.1)."""


class Sink(Protocol):
    """Where results go."""

    @property
    def sent_bytes(self) -> int:
        """On the wire so far, both ways, failed attempts too; never falls. See gatewayd.sinks.wire."""

    async def send(self, results: Sequence[StoredResult]) -> Mapping[str, str]:
        """Return once the far side stored them; map each key it refused for good to why.

        Raises SinkUnavailable (retry), BatchTooLarge (split), BatchRefused (bisect).
        """

    async def close(self) -> None:
        """Let go of connections."""


class TierClient(Protocol):
    """A tier outside of this box: who is asked when the local answer is not sure enough.

    It never sees a raw payload: what it is given is redacted already, see gatewayd.cascade.redact.
    """

    @property
    def name(self) -> str:
        """The tier's name in the config."""

    @property
    def place(self) -> Place:
        """Where it computes."""

    @property
    def usual_latency_ms(self) -> float | None:
        """How long a request took of late, in the middle; None: nothing was asked yet."""

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        """An answer for each question, in the same order. More than fit into one request become several.

        Answers that came before a failure are remembered: asking again does not pay for them twice. Raises
        TierUnavailable (TierMisconfigured, TierSpent) when some have no answer yet: ask again, not before its
        `retry_after_s` is over. Sets its own time limits.
        """

    async def close(self) -> None:
        """Let go of connections."""


class DecisionLog(Protocol):
    """Where every decision of a cascade is kept: the audit trail."""

    def record(self, decision: Decision, *, corrects: str = "") -> None:
        """Keep it. Called on the event loop: must not block, nor raise. `corrects`: the key of the provisional answer
        that was open before."""


class LessonLog(Protocol):
    """Where what higher tiers answered is kept to learn from."""

    def wants(self, route: str, decision: Decision) -> bool:
        """Whether there is something to learn from it. From any thread."""

    def keep(
        self, route: str, decision: Decision, *, topic: str, time: float, value: Any, is_evidence: bool = False
    ) -> None:
        """Keep it, if it is wanted. Called on the event loop: must not block, nor raise."""


class Clock(Protocol):
    """Time, so that tests have their own."""

    def now(self) -> float:
        """Wall clock, seconds since the epoch: goes into data, never into decisions. Not below the floor, unless a
        synchronized clock is."""

    def monotonic(self) -> float:
        """Seconds that never go back: deadlines and ages."""

    async def sleep(self, seconds: float) -> None: ...

    def is_synced(self) -> bool | None:
        """Whether the wall clock is synchronized. None: nobody can say, and nothing speaks against it."""

    @property
    def boot_id(self) -> str:
        """Another one after each boot; "" where that cannot be found out."""

    def boottime(self) -> float:
        """Seconds since boot, time in suspend included. Comparable within one boot, over restarts too."""

    def floor(self) -> float:
        """A time that has come for certain, seconds since the epoch: to be kept over restarts."""

    def keep_above(self, floor: float) -> None:
        """The floor that was kept."""


Draw = Callable[[], float]  # a random number in [0, 1): chance comes in as an argument
