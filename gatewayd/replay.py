"""A source that reads a recorded file instead of a bus: the same parts, the same way, no broker.

A recording is NDJSON, one message a line: `{"topic": …, "payload": …}` with, where wanted, `time` (seconds since the
epoch), `qos`, `retain`, `content_type`, `properties`. A payload that is a string is sent as it is, any other JSON as
JSON; `payload_base64` is for bytes. Other fields are ignored, so that a recorder may note what it likes.

A line may as well be a CloudEvent, as `gatewayd spool export` writes them: a raw message keeps its key, so that its
results have the ids they would have had; a result is replayed where it carries the message as `input`, and else left
out. A message that stood on several routes is in an export several times, and is replayed once.

A line that cannot be read ends the recording there: what stood before it is answered, and then the error is told.
"""

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from gatewayd.clock import SystemClock
from gatewayd.errors import GatewaydError
from gatewayd.export import MESSAGE_TYPE, is_result, parse_head, read_input, read_message
from gatewayd.keys import KeyMaker, identity
from gatewayd.ports import Outgoing, RawMessage


class RecordingError(GatewaydError):
    """The recording cannot be read: the message names the file and the line."""


_MAX_REMEMBERED = 65536  # keys of messages that stand in an export more than once
_EXAMPLE = '{"topic": "plant/pump-1", "payload": {"vibration": 2.1}}'


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a recording."""

    topic: str
    payload: msgspec.Raw = msgspec.Raw(b"")  # as JSON
    payload_base64: str | None = None
    time: float | None = None
    qos: Annotated[int, msgspec.Meta(ge=0, le=2)] = 1
    retain: bool = False
    content_type: str = ""
    properties: tuple[tuple[str, str], ...] = ()

    def payload_bytes(self) -> bytes:
        """The payload as it was on the wire. Raises ValueError on bad base64."""
        if self.payload_base64 is not None:
            return base64.b64decode(self.payload_base64, validate=True)
        text = bytes(self.payload)
        return msgspec.json.decode(text, type=str).encode() if text.startswith(b'"') else text


def read_recording(
    path: Path, progress: Callable[[int], None] = lambda _: None, left_out: Callable[[str], None] = lambda _: None
) -> Iterator[Recorded | RawMessage]:
    """The messages of a recording, one at a time; `progress` is told how many bytes have been read, `left_out` why a
    line of an export is not replayed.

    Raises RecordingError naming file and line.
    """
    n_read_bytes = 0
    known: OrderedDict[tuple[str, str], None] = OrderedDict()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            n_read_bytes += len(line)
            progress(n_read_bytes)
            if not line.strip():
                continue
            try:
                message = _read_event(line, left_out) if b'"specversion"' in line else _read_recorded(line)
            except (msgspec.DecodeError, binascii.Error, ValueError) as error:
                raise RecordingError(f"{path}:{number}: {error}; a line looks like {_EXAMPLE}") from error
            if isinstance(message, RawMessage) and _is_known(known, message):
                left_out("a message that was there before")
            elif message is not None:
                yield message


def _read_recorded(line: bytes) -> Recorded:
    recorded = msgspec.json.decode(line, type=Recorded)
    recorded.payload_bytes()
    return recorded


def _read_event(line: bytes, left_out: Callable[[str], None]) -> Recorded | RawMessage | None:
    head = parse_head(line)
    if head.type == MESSAGE_TYPE:
        return read_message(line)
    if not is_result(head):
        return _read_recorded(line)  # a recording may have any field
    message = read_input(line)
    if message is None:
        left_out("a result without its input")
    return message


def _is_known(known: OrderedDict[tuple[str, str], None], message: RawMessage) -> bool:
    key = message.topic, message.key
    is_known = key in known
    known[key] = None
    if len(known) > _MAX_REMEMBERED:
        known.popitem(last=False)
    return is_known


class RecordedClock(SystemClock):
    """The wall clock of a recording: the time of its last message, so that windows close as they did then."""

    def __init__(self) -> None:
        super().__init__()
        self._reached: float | None = None

    def is_synced(self) -> bool | None:
        """What a recording says of the time is not doubted."""
        return True

    def reach(self, time: float) -> None:
        """The recording has come to `time`. Never goes back."""
        self._reached = time if self._reached is None else max(self._reached, time)

    def now(self) -> float:
        """The recording's time; the machine's as long as the recording has none."""
        return super().now() if self._reached is None else self._reached


class RecordedSource:
    """The seam Source over a recording.

    `finished` is set when the last message was taken in, or a line could not be read: `failure` then says why.
    """

    acks_after_commit = True
    protocol = 5
    is_connected = True
    is_subscribed = True

    def __init__(self, recording: Iterable[Recorded | RawMessage], keys: KeyMaker, clock: RecordedClock) -> None:
        self._recording = recording
        self._keys = keys
        self._clock = clock
        self.finished = asyncio.Event()
        self.failure: RecordingError | None = None
        self.n_messages = 0

    async def run(self) -> None:
        """There is nothing to connect to."""
        await asyncio.Event().wait()

    async def messages(self) -> AsyncIterator[RawMessage]:
        """The recording, in order; then silence, as on a bus."""
        recording = iter(self._recording)
        while (recorded := self._next(recording)) is not None:
            self.n_messages += 1
            yield self._raw(recorded)
            if self.n_messages % 256 == 0:
                await asyncio.sleep(0)  # the other stages are on the same loop
        self.finished.set()
        await asyncio.Event().wait()

    def _next(self, recording: Iterator[Recorded | RawMessage]) -> Recorded | RawMessage | None:
        try:
            return next(recording, None)
        except RecordingError as failure:
            self.failure = failure
            return None

    def _raw(self, recorded: Recorded | RawMessage) -> RawMessage:
        number = self.n_messages
        raw = recorded if isinstance(recorded, RawMessage) else self._new(recorded)
        time = recorded.time if recorded.time or isinstance(recorded, Recorded) else None
        if time is not None:
            self._clock.reach(time)
        return msgspec.structs.replace(
            raw,
            time=self._clock.now() if time is None else time,
            identity=identity(number % 65536, raw.topic, raw.payload) if raw.qos else b"",
            receipt=number if raw.qos else None,
        )

    def _new(self, recorded: Recorded) -> RawMessage:
        return RawMessage(
            topic=recorded.topic,
            payload=recorded.payload_bytes(),
            time=recorded.time or 0.0,
            key=self._keys.next(),
            qos=recorded.qos,
            retain=recorded.retain,
            content_type=recorded.content_type,
            properties=recorded.properties,
        )

    async def ack(self, receipts: Sequence[Any]) -> None:
        """A file wants nothing back."""

    async def publish_all(self, topic: str, messages: Sequence[Outgoing], **_: Any) -> int:  # noqa: ARG002
        """There is no bus: live results go nowhere."""
        return len(messages)

    async def publish(self, *_: Any, **__: Any) -> bool:
        """As above."""
        return True

    async def pause(self) -> None:
        """Nothing more comes after the end of the file."""
