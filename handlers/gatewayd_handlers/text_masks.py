"""What two lines of one log statement have in common: numbers hidden, the time and host in front cut off. Pure."""

import re

# Words of hex digits with at least one digit in them ("0x1f", "deadbeef01"), then every number that is left.
_HEX = re.compile(r"\b(?:0x[0-9a-f]+|(?=[a-f]*\d)[0-9a-f]{6,})\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")

_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\b(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}\b", re.IGNORECASE)
_UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE)
_HARDWARE = re.compile(r"\b(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b", re.IGNORECASE)
# "/home/user7/run.12": a path in which a digit stands; one without names a part of the program and stays.
_PATH = re.compile(r"(?<![\w.])(?=[^\s:,;\"'()\[\]]*\d)/[^\s:,;\"'()\[\]]*")
# "Jun 14 15:16:01 host " (RFC 3164), then "2026-11-21T10:00:00.123Z " (RFC 3339 and its relatives).
_PREFIX = re.compile(
    r"^(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ "
    r"|\d{4}-?\d\d-?\d\d[T :_-]\d\d[:.]\d\d[:.]\d\d(?:[.,:]\d+)?(?:Z|[+-]\d\d:?\d\d)?[ |]+)"
)


def mask_numbers(text: str) -> str:
    """Replace every number by 0."""
    return _NUMBER.sub("0", _HEX.sub("0", text))


def mask_ids(text: str) -> str:
    """Replace every UUID, network and hardware address, path with a digit in it, and number by 0."""
    for pattern in (_UUID, _HARDWARE, _ADDRESS, _PATH):
        text = pattern.sub("0", text)
    return mask_numbers(text)


def without_prefix(text: str) -> str:
    """The text without the time and host that syslog and most loggers put in front."""
    return _PREFIX.sub("", text).strip()


def masked_words(text: str) -> tuple[str, ...]:
    """The words of a text, with every address, hex word and number replaced by `*`."""
    return tuple(_NUMBER.sub("*", _HEX.sub("*", _ADDRESS.sub("*", text))).split())
