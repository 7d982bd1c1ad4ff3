"""Names of messages and results. Pure: what is random comes in as an argument.

A key is given once and kept: through the journal, over crashes, up to the far side, which remembers it to store a
result once. So a result's key is a function of its message's key, and of nothing else.
"""

from collections.abc import Sequence
from hashlib import blake2b

_KEY_BYTES = 16
_IDENTITY_BYTES = 8
_SEPARATOR = b"\0"  # no topic may hold it: MQTT 5, 1.5.4


class KeyMaker:
    """Keys for messages whose publisher gave them none: `<epoch>-<counter>`, in order of making within an epoch.

    Args:
        epoch: 64 random bits in hexadecimal, new at every start, so that two runs never make the same key.
    """

    def __init__(self, epoch: str) -> None:
        self._prefix = epoch + "-"
        self._made = 0

    def next(self) -> str:
        """A key that was never made before."""
        self._made += 1
        return f"{self._prefix}{self._made:010x}"


def publisher_key(topic: str, source: str, id_: str) -> str:
    """The key of a message whose publisher named it (CloudEvents `source` and `id`): the same for every copy of it.

    The topic is part of it: one event on two topics is two messages.
    """
    return _digest((topic, source, id_))


def identity(mid: int, topic: str, payload: bytes) -> bytes:
    """What a QoS 1 message and its redelivery have in common, in 10 bytes.

    A packet identifier alone is used again as soon as it is free, a content alone is sent by every quiet sensor; both
    together stand for one delivery (MQTT 5, 2.2.1 and 4.4).
    """
    content = b"".join((topic.encode(), _SEPARATOR, payload))
    return mid.to_bytes(2, "big") + blake2b(content, digest_size=_IDENTITY_BYTES).digest()


def result_key(message_key: str, index: int) -> str:
    """The key of the `index`-th result (from 0) that answers a message."""
    return message_key if index == 0 else f"{message_key}.{index}"


def window_key(route: str, window_key: str, message_keys: Sequence[str]) -> str:
    """The key of a result about a whole batch or window: a function of what is in it, in order."""
    return _digest((route, window_key, *message_keys))


def _digest(parts: Sequence[str]) -> str:
    digest = blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(4, "big"))  # its length first: ("ab", "c") is not ("a", "bc")
        digest.update(raw)
    return digest.hexdigest()
