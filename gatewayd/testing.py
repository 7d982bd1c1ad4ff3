"""The public kit for handler authors: a contract check, golden samples, a clock and models that need no files.

Nothing here runs in the daemon. `check_handler` is what the built-in handlers are held to, and site handlers should be.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli

from gatewayd.api import Batch, Handler, Message, ModelError, Models, RejectedError, Rejection, Result, TransientError
from gatewayd.config.schema import Payload
from gatewayd.payloads import Decoder
from gatewayd.ports import RawMessage
from gatewayd.registry import find_handlers, load_handler, make_handler

START = 1_763_700_000.0  # the time of the first sample, where samples give none; one second a sample from there

# Decoded values no handler may fall over: whatever the payload format, some device will send it.
HOSTILE: tuple[Any, ...] = (
    None, "", " ", "\x00", "x" * 1_000_000, [], {}, [[]], {"": None}, 0, -1, 10**400, 1e308, -0.0, True,
    float("nan"), float("inf"), "NaN", {"value": {"value": {}}}, [1, "two", None], {"value": 10**400},
)  # fmt: skip


class NoModels:
    """`Models` of a box that has none."""

    def get(self, name: str) -> Any:
        """Raises ModelError."""
        raise ModelError(f"model {name!r}: there are no models here; give check_handler or run_samples `models`")


class FakeClock:
    """`ports.Clock` that moves when somebody sleeps or says so, and never waits."""

    def __init__(self, now: float = START) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Wall clock, seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._now += seconds
        self._monotonic += seconds

    async def sleep(self, seconds: float) -> None:
        """Let time pass and return at once."""
        self.advance(max(0.0, seconds))

    boot_id = "boot"

    def boottime(self) -> float:
        """As `monotonic`."""
        return self._monotonic

    def is_synced(self) -> bool | None:
        """Always."""
        return True

    def floor(self) -> float:
        """As `now`."""
        return self._now

    def keep_above(self, floor: float) -> None:
        """This clock is right."""


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message and the answers it must get: `kind` and data of a result, `rejected` for a rejection's reason."""

    topic: str
    payload: str
    time: float | None = None
    content_type: str = ""
    expect: list[dict[str, Any]] = []


class Samples(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `*.samples.toml`: a handler, its options, and messages in order. Also the handler's documentation."""

    handler: str = ""  # may be left out where a route says it (`gatewayd route test`)
    options: dict[str, Any] = {}
    payload: Payload = Payload()
    samples: list[Sample] = msgspec.field(default_factory=list, name="sample")


def load_samples(path: Path) -> Samples:
    """Read a samples file. Raises ValueError naming the file and what is wrong in it."""
    try:
        return msgspec.convert(tomli.loads(path.read_text(encoding="utf-8")), Samples)
    except (tomli.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as exc:
        raise ValueError(f"{path}: {exc}") from exc


def run_samples(
    samples: Samples, models: Models | None = None, *, handler: type[Handler] | None = None
) -> list[list[dict[str, Any]]]:
    """Send each sample as a batch of its own; the answers to each, in the form of `Sample.expect`.

    Args:
        handler: the class, where it is not installed; else it is found by its name.

    Raises ConfigError or ModelError when the handler cannot be made or started.
    """
    cls = handler or load_handler(samples.handler, find_handlers([]), key="handler")
    decoder = Decoder(samples.payload)
    running = started(cls, samples.options, models)
    answers: list[list[dict[str, Any]]] = []
    try:
        for index, sample in enumerate(samples.samples):
            time = START + index if sample.time is None else sample.time
            answers.append(_answers(running, decoder, sample, time, f"sample-{index}"))
    finally:
        running.stop()
    return answers


def differences(samples: Samples, answers: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """A line for each sample whose answers are not those expected.

    An expected answer names the fields that matter: fields it leaves out may have any value. Numbers may differ by
    1e-4, because the last bits of a model's score depend on the processor.
    """
    lines = []
    for index, (sample, given) in enumerate(zip(samples.samples, answers, strict=True)):
        if len(given) != len(sample.expect) or not all(map(_holds, sample.expect, given)):
            lines.append(
                f"sample {index} ({sample.topic}): expected {sample.expect}, got {[dict(one) for one in given]}"
            )
    return lines


def check_handler(
    cls: type[Handler], options: Mapping[str, Any], samples: Iterable[Message], models: Models | None = None
) -> None:
    """Hold a handler to the contract of `api.Handler`. Raises AssertionError that says which part it breaks.

    Checks: options are typed and refuse unknown keys; no results for no messages; same messages, same answers; answers
    are Result or Rejection about messages of the batch; data is JSON; one message at a time works too; hostile payloads
    raise nothing but RejectedError or TransientError, and leave the handler able to answer.
    """
    messages = list(samples)
    assert messages, "give at least one sample message"
    _check_options(cls, options)
    assert isinstance(cls.journaled, bool), "journaled must be True or False"
    assert isinstance(cls.inline, bool), "inline must be True or False"
    assert not (cls.journaled and cls.inline), "a journaled handler takes long: it must not run inline"
    first, second = started(cls, options, models), started(cls, options, models)
    try:
        assert not list(first.handle(_batch([]))), "an empty batch must give no results"
        answers = _checked(first, messages)
        assert _plain(answers) == _plain(_checked(second, messages)), "the same messages must give the same answers"
        _check_hostile(first, messages[0])
        _checked(first, messages)
    finally:
        first.stop()
        second.stop()
    alone = started(cls, options, models)
    for message in messages:
        _checked(alone, [message])
    alone.stop()


def started(cls: type[Handler], options: Mapping[str, Any], models: Models | None = None) -> Handler:
    """A handler with these options, as the daemon makes one. Raises ConfigError, ModelError."""
    handler = make_handler(cls, options, key="options")
    handler.start(models or NoModels())
    return handler


def _check_options(cls: type[Handler], options: Mapping[str, Any]) -> None:
    assert issubclass(cls.Config, msgspec.Struct), "Config must be a msgspec.Struct"
    try:
        msgspec.convert({**options, "no_such_option": 1}, cls.Config)
    except msgspec.ValidationError:
        return
    raise AssertionError("Config must refuse unknown keys: class Config(msgspec.Struct, forbid_unknown_fields=True)")


def _check_hostile(handler: Handler, example: Message) -> None:
    for value in (*HOSTILE, *_mutilated(example.value)):
        message = msgspec.structs.replace(example, value=value, key="hostile", payload=b"\xff\x00")
        try:
            _checked(handler, [message])
        except (RejectedError, TransientError):
            continue
        except AssertionError:
            raise
        except Exception as exc:  # the very thing this function is there to find
            shown = repr(value)[:80]
            raise AssertionError(f"a payload raised {exc!r}: answer a Rejection instead; payload {shown}") from exc


def _mutilated(value: Any) -> list[Any]:
    """A good value with each of its fields missing, or holding something hostile."""
    if not isinstance(value, Mapping):
        return []
    missing = [{name: kept for name, kept in value.items() if name != gone} for gone in value]
    return missing + [{**value, name: bad} for name in value for bad in HOSTILE]


def _checked(handler: Handler, messages: Sequence[Message]) -> list[Result | Rejection]:
    answers = list(handler.handle(_batch(messages)))
    for answer in answers:
        assert isinstance(answer, Result | Rejection), f"answered {type(answer).__name__}, not Result or Rejection"
        about_batch = any(answer.message is message for message in messages)
        if isinstance(answer, Rejection):
            assert about_batch, "a Rejection must be about a message of the batch"
            assert answer.reason, "a Rejection needs a reason, a short stable word"
            continue
        assert answer.message is None or about_batch, "a Result must be about a message of the batch, or None"
        assert answer.kind, "a Result needs a kind"
        _json(answer)
    return answers


def _json(result: Result) -> str:
    data = msgspec.to_builtins(result.data)
    try:
        msgspec.json.encode(result.data)
        return json.dumps(data, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as exc:
        raise AssertionError(f"data must be encodable as JSON, NaN and infinity are not: {exc}") from exc


def _plain(answers: Sequence[Result | Rejection]) -> list[tuple[str, str, str]]:
    return [
        (answer.kind, _json(answer), answer.message.key if answer.message else "")
        if isinstance(answer, Result)
        else ("rejected", answer.reason, answer.message.key)
        for answer in answers
    ]


def _batch(messages: Sequence[Message]) -> Batch:
    return Batch(route="check", messages=messages, now=messages[-1].time if messages else START)


def _answers(handler: Handler, decoder: Decoder, sample: Sample, time: float, key: str) -> list[dict[str, Any]]:
    raw = RawMessage(
        topic=sample.topic, payload=sample.payload.encode(), time=time, key=key, content_type=sample.content_type
    )
    try:
        message = decoder.decode(raw)
        given = handler.handle(Batch(route="samples", messages=[message], now=message.time))
    except RejectedError as exc:
        return [{"rejected": exc.reason}]
    return [
        {"kind": one.kind, **msgspec.to_builtins(one.data)} if isinstance(one, Result) else {"rejected": one.reason}
        for one in given
    ]


def _holds(expected: Any, given: Any) -> bool:
    if isinstance(expected, Mapping):
        return isinstance(given, Mapping) and all(
            name in given and _holds(value, given[name]) for name, value in expected.items()
        )
    if isinstance(expected, float) and isinstance(given, int | float):
        return abs(expected - given) <= 1e-4
    if isinstance(expected, list) and isinstance(given, list | tuple):
        return len(expected) == len(given) and all(map(_holds, expected, given))
    return bool(expected == given)
