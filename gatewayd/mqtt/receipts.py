"""Receipts of QoS 1 messages: which are in our hands, and which PUBACK may leave next.

PUBACKs leave in order of arrival ([MQTT-4.6.0-2]), however the receipts come back. After a reconnect the broker
delivers again whatever it has no PUBACK for: a message still in our hands is recognised and its receipt moves to the
new delivery, so that it is handed out once. Packet identifiers are 16 bits, so there are at most 65,535 receipts.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

_Handle = TypeVar("_Handle")


class Receipt(Generic[_Handle]):
    """One message in our hands. `handle` is what the client library wants back; None: the broker has forgotten it."""

    __slots__ = ("connection", "handle", "identity", "is_acked", "mid")

    def __init__(self, mid: int, identity: bytes, handle: _Handle, connection: int) -> None:
        self.connection = connection  # the one that delivered it last
        self.mid = mid
        self.identity = identity
        self.handle: _Handle | None = handle
        self.is_acked = False


class Receipts(Generic[_Handle]):
    """The receipts of one mqtt_session, over its connections."""

    def __init__(self) -> None:
        self._by_mid: dict[int, Receipt[_Handle]] = {}
        self._order: deque[Receipt[_Handle]] = deque()  # those delivered on this connection, oldest first
        self._connection = 0

    def __len__(self) -> int:
        return len(self._by_mid)

    def connected(self, *, session_present: bool) -> None:
        """A new connection stands. Without the old mqtt_session the broker will never ask for the old receipts."""
        self._order = deque()
        self._connection += 1
        if not session_present:
            self._by_mid = {}

    def add(self, mid: int, identity: bytes, handle: _Handle) -> Receipt[_Handle]:
        """The receipt of a message not seen before."""
        receipt = Receipt(mid, identity, handle, self._connection)
        self._by_mid[mid] = receipt  # an older one under this identifier is forgotten, as the broker has done
        self._order.append(receipt)
        return receipt

    def rebind(self, mid: int, identity: bytes, handle: _Handle) -> Receipt[_Handle] | None:
        """The receipt of a message still in our hands, which from now on answers this redelivery (DUP) of it.

        None when the message is not in our hands.
        """
        receipt = self._by_mid.get(mid)
        if receipt is None or receipt.identity != identity:
            return None
        receipt.handle = handle
        if receipt.connection != self._connection:  # an old broker may deliver again without a reconnect
            receipt.connection = self._connection
            self._order.append(receipt)
        return receipt

    def ack(self, receipts: Iterable[Receipt[_Handle]]) -> None:
        """These messages have passed their durable point."""
        for receipt in receipts:
            receipt.is_acked = True

    def ready(self) -> Iterator[tuple[Receipt[_Handle], _Handle]]:
        """Take out, oldest first, what may be acknowledged on this connection now."""
        order = self._order
        while order and order[0].is_acked:
            receipt = order.popleft()
            if self._by_mid.get(receipt.mid) is receipt:
                del self._by_mid[receipt.mid]
            if receipt.handle is not None:
                yield receipt, receipt.handle

    def keep(self, receipt: Receipt[_Handle]) -> None:
        """The PUBACK did not get out: its message will come again, and is then acknowledged at once."""
        self._by_mid.setdefault(receipt.mid, receipt)
