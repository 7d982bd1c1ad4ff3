"""Subscribing and unsubscribing with MQTTium: one packet after the other, each answered before the next.

While intake holds us back the answer waits unread behind messages: then we ask again, for as long as it takes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import structlog
from mqttium import MQTTTimeoutError, QoS, SubscribeError
from mqttium.api import AsyncClient
from mqttium.packets import ConnAckPacket, SubscribeOptions
from mqttium.types import Properties

from gatewayd.mqtt.remembered import Subscription
from gatewayd.mqtt.subscriptions import Subscriptions
from gatewayd.mqtt.waiting import Waiting

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Subscribing:
    """Brings a broker's view of our subscriptions in line with ours."""

    def __init__(self, subscriptions: Subscriptions, waiting: Waiting, timeout_s: float, is_v5: bool) -> None:
        self._subscriptions = subscriptions
        self._waiting = waiting
        self._timeout_s = timeout_s
        self._is_v5 = is_v5

    async def subscribe(self, client: AsyncClient, connack: ConnAckPacket) -> bool:
        """Subscribe, then take back what is stale. True: nothing was refused. Raises MQTTError when the link breaks."""
        has_identifiers = bool((connack.properties or Properties()).get("subscription_identifier_available", 1))
        packets = await asyncio.to_thread(self._subscriptions.begin, has_identifiers=has_identifiers)
        is_granted = True
        for packet in packets:
            codes = await self._ask(client, packet)
            self._subscriptions.answered(packet, codes)
            is_granted = is_granted and all(code < 0x80 for code in codes)
        await self._take_back(client, list(self._subscriptions.stale))
        return is_granted

    async def _ask(self, client: AsyncClient, packet: Sequence[Subscription]) -> Sequence[int]:
        # MQTT 5: retained messages come with a new subscription only, not with each connection.
        wishes: list[Any] = [
            (one.filter, SubscribeOptions(qos=QoS(one.qos), retain_handling=1) if self._is_v5 else one.qos)
            for one in packet
        ]
        identifier = packet[0].identifier
        properties = Properties({"subscription_identifier": identifier}) if identifier else None
        try:
            result = await self._patiently(
                lambda: client.subscribe(wishes, properties=properties, timeout=self._timeout_s)
            )
        except SubscribeError as exc:
            result = exc.result
        return [int(code) for code in result.reason_codes]

    async def _take_back(self, client: AsyncClient, stale: Sequence[str]) -> None:
        if stale:
            result = await self._patiently(lambda: client.unsubscribe(stale, timeout=self._timeout_s))
            codes = result.reason_codes or [0] * len(stale)  # 3.1.1 has none
            gone = [name for name, code in zip(stale, codes, strict=True) if code < 0x80]
            log.info("unsubscribed from what the config no longer names", filters=gone)
        else:
            gone = []
        await asyncio.to_thread(self._subscriptions.unsubscribed, gone)

    async def _patiently(self, request: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await request()
            except MQTTTimeoutError:
                if not self._waiting.is_full:
                    raise
