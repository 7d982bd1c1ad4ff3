"""threshold: alerts by rules on the fields of a message, no model needed.

A rule is raised after `hold` samples in a row that break it, and cleared by the first sample that is back inside by at
least `clear_margin`. State is kept per device, for the `max_devices` seen last. Every message of a batch is checked
before any state changes, so calling again with the same batch after an error never counts a sample twice.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from gatewayd.api import Batch, Message, Models, Rejection, Result
from gatewayd_handlers.devices import Recent, UnusableError, device_of, finite

Reading = float | str | bool | None  # None: the field is absent and the rule does not look at this message


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One limit on one field: exactly one of `above`, `below`, `outside`, `equals`."""

    label: Annotated[str, Meta(min_length=1, max_length=200, description="Name of the alert, e.g. `overheated`.")]
    field: Annotated[
        str, Meta(description='Field to look at. A payload that is a bare number has the one field "value".')
    ] = "value"
    above: Annotated[float | None, Meta(description="Broken when the value is larger.")] = None
    below: Annotated[float | None, Meta(description="Broken when the value is smaller.")] = None
    outside: Annotated[
        tuple[float, float] | None, Meta(description="Broken when the value is not within [low, high].")
    ] = None
    equals: Annotated[
        bool | float | str | None, Meta(description="Broken when the value is this number, text or boolean.")
    ] = None
    severity: Annotated[Literal["info", "warning", "critical"], Meta(description="Handed on in the result.")] = (
        "warning"
    )
    hold: Annotated[
        int, Meta(ge=1, le=1000000, description="Samples in a row that must break the rule before it is raised.")
    ] = 1
    clear_margin: Annotated[
        float, Meta(ge=0, description="How far inside the limit a value must be to clear the alert (hysteresis).")
    ] = 0.0

    def __post_init__(self) -> None:
        given = [name for name in ("above", "below", "outside", "equals") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"rule {self.label!r}: give exactly one of above, below, outside, equals; got {given}")
        if self.equals is not None and self.clear_margin:
            raise ValueError(f"rule {self.label!r}: clear_margin has no meaning with equals")
        low, high = self.bounds()
        if low + self.clear_margin > high - self.clear_margin:
            raise ValueError(f"rule {self.label!r}: nothing lies inside the limits by clear_margin")

    def bounds(self) -> tuple[float, float]:
        """The range in which a value is fine, both ends included. Of no meaning for `equals`."""
        if self.outside is not None:
            return self.outside
        return (
            -float("inf") if self.below is None else self.below,
            float("inf") if self.above is None else self.above,
        )


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of `threshold`."""

    rules: Annotated[list[Rule], Meta(min_length=1, max_length=1000, description="The limits; each is kept by itself.")]
    device: Annotated[str, Meta(min_length=1, description='What a device is: "topic", or the field that names it.')] = (
        "topic"
    )
    on: Annotated[
        Literal["changes", "every"],
        Meta(description="`changes`: a result when an alert is raised or cleared. `every`: for each message and rule."),
    ] = "changes"
    missing: Annotated[
        Literal["reject", "ignore"],
        Meta(description="A message without a rule's field is a dead letter, or that rule does not look at it."),
    ] = "reject"
    max_devices: Annotated[
        int, Meta(ge=1, le=10000000, description="Devices remembered; the one unseen for the longest is evicted.")
    ] = 10000


class _Check:
    """What a rule remembers of one device."""

    __slots__ = ("n_broken", "raised")

    def __init__(self) -> None:
        self.n_broken = 0
        self.raised = False

    def step(self, rule: Rule, value: float | str | bool) -> str:
        """Take one sample: "raised", "cleared", "active" (raised before) or "normal"."""
        broken, inside = _judge(rule, value)
        if self.raised:
            if not inside:
                return "active"
            self.raised, self.n_broken = False, 0
            return "cleared"
        self.n_broken = self.n_broken + 1 if broken else 0
        if self.n_broken < rule.hold:
            return "normal"
        self.raised = True
        return "raised"


class Threshold:
    """The handler. `devices.n_evicted` counts devices forgotten because of `max_devices`."""

    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = False
    inline: ClassVar[bool] = True  # a few microseconds a message, and it never blocks

    def __init__(self, config: Options) -> None:
        self._config = config
        self._changes_only = config.on == "changes"
        self.devices: Recent[list[_Check]] = Recent(config.max_devices, lambda: [_Check() for _ in config.rules])

    def start(self, models: Models) -> None:
        """Nothing to load."""

    def stop(self) -> None:
        """Forget all devices."""
        self.devices.clear()

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """Results of kind "alert", in order of the messages.

        Data: `state`, `label`, `severity`, `field`, `value`, `limit`, `device`.
        """
        answers: list[Result | Rejection] = []
        for message, device, readings in [self._read(message) for message in batch.messages]:
            if isinstance(readings, UnusableError):
                answers.append(Rejection(message=message, reason=readings.reason, detail=str(readings)))
                continue
            checks = self.devices.get(device)
            for rule, check, value in zip(self._config.rules, checks, readings, strict=True):
                if value is None:
                    continue
                state = check.step(rule, value)
                if not self._changes_only or state in {"raised", "cleared"}:
                    answers.append(_result(message, device, rule, value, state))
        return answers

    def _read(self, message: Message) -> tuple[Message, str, list[Reading] | UnusableError]:
        try:
            device = device_of(message, self._config.device)
            return message, device, [self._reading(message.value, rule) for rule in self._config.rules]
        except UnusableError as refused:
            return message, "", refused

    def _reading(self, payload: Any, rule: Rule) -> Reading:
        if isinstance(payload, Mapping):
            value = payload.get(rule.field)
        else:
            value = payload if rule.field in {"", "value"} else None
        if value is None:
            if self._config.missing == "ignore":
                return None
            raise UnusableError("missing_field", f"no field {rule.field!r}")
        if rule.equals is not None and isinstance(value, str | bool):
            return value
        number = finite(value)
        if number is None:
            raise UnusableError("not_a_number", f"field {rule.field!r} is no finite number")
        return number


def _judge(rule: Rule, value: float | str | bool) -> tuple[bool, bool]:
    """(the rule is broken, the value is inside by the margin)."""
    if rule.equals is not None:
        # 1 and True are equal in Python and different things in a payload.
        same = value == rule.equals and isinstance(value, bool) == isinstance(rule.equals, bool)
        return same, not same
    low, high = rule.bounds()
    assert not isinstance(value, str)  # _reading lets text through for `equals` alone
    return not low <= value <= high, low + rule.clear_margin <= value <= high - rule.clear_margin


def _result(message: Message, device: str, rule: Rule, value: float | str | bool, state: str) -> Result:
    name = next(name for name in ("above", "below", "outside", "equals") if getattr(rule, name) is not None)
    data = {
        "label": rule.label,
        "severity": rule.severity,
        "state": state,
        "device": device,
        "field": rule.field,
        "value": value,
        "limit": {name: getattr(rule, name)},
    }
    return Result(kind="alert", data=data, message=message)
