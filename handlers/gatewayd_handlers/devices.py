"""What a device is, and a bounded memory of the devices seen last: for handlers that keep state per device."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from gatewayd.api import Message

MAX_DEVICE_CHARS = 256  # a name is kept in memory for each device: a payload must not choose how long it is

State = TypeVar("State")


class UnusableError(ValueError):
    """A message cannot be used; `reason` is the short stable word of a Rejection, `str(self)` its detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def device_of(message: Message, field: str) -> str:
    """The device a message came from: its topic ("topic"), or the text or whole number in one of its fields.

    Raises UnusableError ("missing_field", "bad_device").
    """
    if field == "topic":
        return message.topic
    value = message.value
    device = value.get(field) if isinstance(value, Mapping) else None
    if device is None:
        raise UnusableError("missing_field", f"no field {field!r} that names the device")
    if isinstance(device, bool) or not isinstance(device, str | int):
        raise UnusableError("bad_device", f"field {field!r} names the device and must be text or a whole number")
    if isinstance(device, int):
        device = str(device) if -(2**63) <= device < 2**64 else ""
    if not 0 < len(device) <= MAX_DEVICE_CHARS:
        raise UnusableError("bad_device", f"field {field!r} names the device: 1 to {MAX_DEVICE_CHARS} characters")
    return device


def finite(value: object) -> float | None:
    """The value as a finite float; None for anything that is no number (booleans and text are none)."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is not int:
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of a JSON payload may have any number of digits
        return None


class Recent(Generic[State]):
    """State of the `max_devices` devices seen last. The device unseen for the longest is evicted, and counted."""

    def __init__(self, max_devices: int, new: Callable[[], State], evicted: Callable[[State], None] | None = None):
        self.n_evicted = 0
        self._max_devices = max_devices
        self._new = new
        self._evicted = evicted
        self._states: OrderedDict[str, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, device: str) -> State:
        """The device's state, a new one if it is unknown; it is now the device seen last."""
        state = self._states.get(device)
        if state is not None:
            self._states.move_to_end(device)
            return state
        if len(self._states) >= self._max_devices:
            _, old = self._states.popitem(last=False)
            self.n_evicted += 1
            if self._evicted is not None:
                self._evicted(old)
        state = self._states[device] = self._new()
        return state

    def items(self) -> Iterator[tuple[str, State]]:
        """Each device with its state, the one seen last at the end."""
        yield from self._states.items()

    def clear(self) -> None:
        """Forget all devices."""
        self._states.clear()
