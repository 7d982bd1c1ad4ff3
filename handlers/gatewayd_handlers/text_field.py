"""Where the text of a message is: its value, or a field of its value."""

from collections.abc import Mapping

from gatewayd.api import Message
from gatewayd_handlers.devices import UnusableError


def text_of(message: Message, field: str) -> str:
    """The text of a message: `field` is a path such as "log.message", or "" where the value itself is text.

    Raises UnusableError ("missing_field", "not_text", "empty_text").
    """
    value = message.value
    for name in field.split(".") if field else ():
        if not isinstance(value, Mapping) or name not in value:
            raise UnusableError("missing_field", f"no field {field!r} that holds the text")
        value = value[name]
    if not isinstance(value, str):
        where = f"field {field!r}" if field else "the payload"
        raise UnusableError("not_text", f"{where} is no text; options.field names the one that is")
    if not value.strip():
        raise UnusableError("empty_text", "nothing to read")
    return value
