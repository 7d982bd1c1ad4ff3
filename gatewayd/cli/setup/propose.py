"""From what was seen to routes: a handler that fits, its options, and the words that say why. Pure but for models.

A proposal is tried before it is shown: the samples go through the real decoder with the payload settings proposed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gatewayd.cli.setup.shape import Field
from gatewayd.cli.setup.streams import Stream
from gatewayd.config.schema import Payload
from gatewayd.errors import RejectedError
from gatewayd.payloads import Decoder
from gatewayd.payloads.times import time_of
from gatewayd.ports import RawMessage

_MAX_RULES = 4
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")
_NO_MEASURE = re.compile(r"(?i)(^|[._-])(id|seq|sequence|counter|count|uptime|lat|lon|latitude|longitude|index|version"
                         r"|v|ver|ts|time|timestamp|date|port|ch|channel|msgid|mid)$")  # fmt: skip
_BATTERY = re.compile(r"(?i)(battery|soc)(_?(level|pct|percent))?$")
_DEVICE = re.compile(
    r"(?i)(^|\.)(device|device_?id|dev|dev_?eui|sensor|sensor_?id|node|node_?id|machine|serial|id|name)$"
)
_TIME = re.compile(r"(?i)(^|[._])(ts|time|timestamp|date|datetime|at)$")
_TEXT = re.compile(r"(?i)(^|\.)(message|msg|text|log|line|note|notes|event|description|comment|body)$")
_TROUBLE = re.compile(
    r"(?i)^(error|fault|alarm|fail|failed|failure|offline|open|leak|wet|unknown|critical|disconnected|lost)$"
)


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle in the models folder, as far as a proposal needs it."""

    name: str
    task: str
    fields: tuple[str, ...] = ()  # of a model for series


@dataclass(slots=True)
class Proposal:
    """A route."""

    name: str
    stream: Stream
    handler: str
    options: dict[str, Any] = field(default_factory=dict)
    payload: dict[str, Any] = field(default_factory=dict)
    window: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    later: list[str] = field(default_factory=list)  # lines of TOML that are commented out, with their reason


def propose(streams: Sequence[Stream], models: Sequence[KnownModel], handler: str = "") -> list[Proposal]:
    """A route for each stream that a handler fits, with names of their own. `handler`: this one for all."""
    made: list[Proposal] = []
    for stream in streams:
        proposal = _for_stream(stream, models, handler)
        if proposal is not None:
            proposal.name = _free_name(stream.name, {one.name for one in made})
            made.append(proposal)
    return made


def _free_name(name: str, taken: set[str]) -> str:
    numbered = (f"{name}_{n}" if n > 1 else name for n in range(1, len(taken) + 2))
    return next(one for one in numbered if one not in taken)


def _for_stream(stream: Stream, models: Sequence[KnownModel], handler: str) -> Proposal | None:
    if stream.form in ("bytes", "empty"):
        return None
    if not stream.n:
        return _unseen(stream)
    makers = {
        "classify_series": _series,
        "threshold": _threshold,
        "summarize_text": _summary,
        "classify_text": _labels,
    }
    wanted = [handler] if handler in makers else ["classify_series", "threshold", "summarize_text"]
    if not handler and _reads_as_text(stream):
        wanted = ["summarize_text"]
    for name in wanted:
        made = makers[name](stream, models)
        if made is not None:
            return _with_payload(made)
    return None


def _unseen(stream: Stream) -> Proposal:
    """For topics that somebody named and nobody published on."""
    options = {"missing": "ignore", "rules": [{"label": "too_high", "above": 80.0}]}
    return Proposal("", stream, "threshold", options, {"format": "auto"}, why="nothing was seen: set field and limits")


def _reads_as_text(stream: Stream) -> bool:
    """Sentences, not states: a text payload, or a text field named so, whose texts are long or many."""
    texts = _text_fields(stream)
    return bool(texts) and (stream.form == "text" or bool(_TEXT.search(texts[0].name)))


def _text_fields(stream: Stream) -> list[Field]:
    """Fields that hold sentences, the most likely first."""
    some = [one for one in stream.fields.values() if one.kind == "text" and _is_usable(one.name)]
    some = [one for one in some if one.longest > 12 and any(" " in text for text in one.texts)]
    return sorted(some, key=lambda one: (not _TEXT.search(one.name), -one.longest))


def _is_usable(name: str) -> bool:
    return name == "" or _FIELD.fullmatch(name) is not None


# --- one maker a handler; None: it does not fit


def _series(stream: Stream, models: Sequence[KnownModel]) -> Proposal | None:
    numeric = {one.name.rpartition(".")[2]: one.name for one in stream.fields.values() if one.kind == "number"}
    for model in models:
        if model.task.startswith("series-") and model.fields and set(model.fields) <= set(numeric):
            options: dict[str, Any] = {"model": model.name, **_device(stream)}
            paths = [numeric[name] for name in model.fields]
            why = f"the model {model.name} wants {', '.join(model.fields)}"
            return _mapped(Proposal("", stream, "classify_series", options, why=why), paths)
    return None


def _threshold(stream: Stream, _models: Sequence[KnownModel]) -> Proposal | None:
    rules: list[dict[str, Any]] = []
    paths: list[str] = []
    for one in stream.fields.values():
        taken = {rule.get("field") for rule in rules}
        rule = _rule(one, stream) if _is_usable(one.name) and len(rules) < _MAX_RULES else None
        if rule is not None and rule.get("field") not in taken:
            rules.append(rule)
            paths.append(one.name)
    if not rules:
        return None
    total = max(one.n for one in stream.fields.values())
    options: dict[str, Any] = {"rules": rules, **_device(stream)}
    if any(stream.fields[path].n < total for path in paths):
        options["missing"] = "ignore"
    why = "numbers: an alert when one leaves the range seen by as much again; set the limits you know"
    if not any("outside" in rule or "below" in rule for rule in rules):
        why = "states: an alert when one of these is seen"
    return _mapped(Proposal("", stream, "threshold", options, why=why), paths)


def _rule(one: Field, stream: Stream) -> dict[str, Any] | None:
    """A limit for one field; None where none makes sense."""
    short = one.name.rpartition(".")[2]
    label = re.sub(r"[^A-Za-z0-9_]+", "_", short or stream.filters[0].rpartition("/")[2]).strip("_") or "value"
    rule: dict[str, Any] = {"label": f"{label}_unusual"}
    if short:
        rule["field"] = short
    if one.kind == "number" and not _NO_MEASURE.search(one.name) and not _is_time(one):
        if _BATTERY.search(one.name) and min(one.numbers) >= 0 and max(one.numbers) <= 100:
            return {**rule, "label": f"{label}_low", "below": 20.0, "clear_margin": 2.0}
        return {**rule, "outside": _limits(one.numbers)}
    if one.kind == "bool" and _TROUBLE.search(short):
        return {**rule, "label": label, "equals": True}
    if one.kind == "text" and one.n_texts > 1 and len(one.texts) < 8:
        trouble = next((text for text in one.texts if _TROUBLE.match(text)), None)
        if trouble is not None:
            return {**rule, "label": f"{label}_{trouble.lower()}", "equals": trouble}
    return None


def _limits(numbers: Sequence[float]) -> list[float]:
    """The range seen, and as much again on both sides; three digits are enough."""
    low, high = min(numbers), max(numbers)
    room = max(high - low, 0.1 * max(abs(low), abs(high)), 1e-6)
    wide = [low - room, high + room]
    if low > 0:
        wide[0] = max(0.0, wide[0])
    return [float(f"{wide[0]:.3g}"), float(f"{wide[1]:.3g}")]


def _summary(stream: Stream, models: Sequence[KnownModel]) -> Proposal | None:
    found = _text_field(stream)
    if found is None:
        return None
    options: dict[str, Any] = {"field": found} if found else {}
    options |= _device(stream) if _device(stream).get("device") != "topic" else {}
    later: list[str] = []
    writer = next((one for one in models if one.task == "text-generation"), None)
    if writer is not None:
        options["model"] = writer.name
        why = f"texts: an hourly summary, written by {writer.name}"
    else:
        why = "texts: an hourly summary, which quotes what was said (no language model is here)"
        later.append('model = "gemma3-270m"  # after `gatewayd models fetch gemma3-270m`: a language model writes it')
    window = {"every_s": 3600.0, "max_messages": 1000}
    return Proposal("", stream, "summarize_text", options, window=window, why=why, later=later)


def _labels(stream: Stream, _models: Sequence[KnownModel]) -> Proposal | None:
    found = _text_field(stream)
    if found is None:
        return None
    labels = {
        "trouble": {"description": "a fault, alarm, failure, timeout or safety stop of a machine"},
        "routine": {"description": "a machine reports normal operation"},
    }
    options: dict[str, Any] = {"model": "minilm-int8", "labels": labels} | ({"field": found} if found else {})
    why = "texts: a label for each; describe your own labels (the model: `gatewayd models fetch minilm-int8`)"
    return Proposal("", stream, "classify_text", options, why=why)


def _text_field(stream: Stream) -> str | None:
    """The path of the text; "" for a payload that is one."""
    sentences = _text_fields(stream)
    if sentences:
        return sentences[0].name
    texts = [one for one in stream.fields.values() if one.n_texts and _is_usable(one.name)]
    return texts[0].name if texts else None


def _device(stream: Stream) -> dict[str, Any]:
    """The field that names a device, where one topic carries several; else the topic is the device."""
    if len(stream.topics) > 1:
        return {"device": "topic"}
    for one in stream.fields.values():
        if one.kind == "text" and _DEVICE.search(one.name) and _is_usable(one.name) and "." not in one.name:
            return {"device": one.name}
    return {"device": "topic"}


def _is_time(one: Field) -> bool:
    return bool(one.numbers) and (bool(_TIME.search(one.name)) or min(one.numbers) > 1e9)


def _mapped(made: Proposal, paths: Sequence[str]) -> Proposal:
    """With `payload.fields` where a value lies deeper than the handler looks."""
    nested = [path for path in paths if "." in path]
    if nested:
        device = made.options.get("device", "topic")
        wanted = [*paths, *([device] if device != "topic" else [])]
        made.payload["fields"] = {path.rpartition(".")[2]: path for path in wanted}
        if made.options.get("missing") == "ignore":
            made.payload["optional"] = [path.rpartition(".")[2] for path in paths]
    return made


def _with_payload(made: Proposal) -> Proposal:
    stream = made.stream
    made.payload = {"format": "auto" if stream.n_other else stream.form, **made.payload}
    own_time = next((one for one in stream.fields.values() if _is_own_time(one)), None)
    if own_time is not None:
        made.later.append(f'payload.time = "{own_time.name}"  # the message\'s own time, if its clock is right')
    return made


def _is_own_time(one: Field) -> bool:
    if not _TIME.search(one.name) or not _is_usable(one.name) or not one.name:
        return False
    value: Any = one.numbers[0] if one.numbers else next(iter(one.texts), "")
    try:
        return time_of(value) > 1e9
    except RejectedError:
        return False


def undecodable(payload: Mapping[str, Any], messages: Sequence[RawMessage]) -> list[tuple[str, str]]:
    """Those of the messages that these settings do not decode: topic, and why."""
    decoder = Decoder(msgspec.convert(dict(payload), Payload))
    found = []
    for message in messages:
        try:
            decoder.decode(message)
        except RejectedError as error:
            found.append((message.topic, f"{error.reason}: {error}"))
    return found
