"""The default Source: MQTTium. A QoS 1 message gets its PUBACK when its receipt comes back, in order of arrival.

Every connection has a client of its own, so nothing of an old connection can answer for a new one: what the broker
delivers again is compared by content as well as by packet identifier, even when the broker came back with an older
state of itself. What our hands still hold is not handed out a second time (see receipts.py).

Most messages take the short way in (shortcut.py); the others come through the client's iterator. There is one place
where both end, `_take`, and while anything is on the long way nothing takes the short one: order is kept.

The client's own queue is short and counts messages; the bound in bytes is ours (waiting.py), because MQTTium answers a
message larger than its byte bound by ending the connection, for ever again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog
from mqttium import ConnectRefusedError, MQTTError, MQTTProtocolVersion
from mqttium.api import PublishMessage
from mqttium.packets import ConnAckPacket
from mqttium.types import Properties

from gatewayd.config import schema
from gatewayd.errors import ConfigError
from gatewayd.keys import KeyMaker, identity, publisher_key
from gatewayd.mqtt import connect
from gatewayd.mqtt.mqttium_publishing import Publishing
from gatewayd.mqtt.mqttium_subscribing import Subscribing
from gatewayd.mqtt.receipts import Receipt, Receipts
from gatewayd.mqtt.remembered import Remembered
from gatewayd.mqtt.shortcut import Arrived, Handle, ShortcutClient
from gatewayd.mqtt.subscriptions import Subscriptions
from gatewayd.mqtt.waiting import Waiting
from gatewayd.ports import Clock, Draw, Outgoing, RawMessage
from gatewayd.retry import Backoff

log = structlog.get_logger(__name__)

_MAX_CLIENT_QUEUE = 64  # messages between the client's reader and our pump; they wait beside `max_waiting_messages`
_MAX_INFLIGHT = 65_535  # all packet identifiers: a broker that overruns a smaller Receive Maximum must not be punished
_FAREWELL_S = 1.0  # how long a clean stop waits for the broker to take "offline"; after that the Last Will says it


class MqttiumSource:
    """Implements ports.Source.

    Args:
        config: the `[source]` table.
        gateway: the gateway's id, for the client id and the status topic.
        filters: topic filters to subscribe to, each with its QoS (0 or 1).
        password: the resolved password, or None.
        keys: makes keys for messages whose publisher gave them none.
        clock: time of arrival, age of a connection, the pause before the next attempt.
        draw: chance for that pause.
        birth: makes the retained status that says we are online.
        on_event: told of "connected", "lost" (cause), "retry" (delay_s), "duplicate", "copy" and "dropped" (reason).
        remembered: what earlier runs subscribed to; None: each run starts without.
    """

    acks_after_commit = True

    def __init__(
        self,
        config: schema.Source,
        *,
        gateway: str,
        filters: Sequence[tuple[str, int]],
        password: str | None,
        keys: KeyMaker,
        clock: Clock,
        draw: Draw,
        birth: Callable[[], bytes] = connect.plain_birth,
        on_event: connect.OnEvent = connect.ignore_event,
        remembered: Remembered | None = None,
    ) -> None:
        self._config = config
        self._gateway = gateway
        self._password = password
        self._keys = keys
        self._clock = clock
        self._draw = draw
        self._status = connect.status(config, gateway, birth)
        self._on_event = on_event
        self._is_v5 = config.protocol == "5"
        self._waiting = Waiting(config.max_waiting_messages, config.max_waiting_bytes)
        self._receipts: Receipts[Handle] = Receipts()
        self._acking = asyncio.Lock()  # PUBACKs leave in order, also while one waits for room
        self._acks_due = asyncio.Event()  # a message came again that has passed its durable point
        self._client: ShortcutClient | None = None
        wanted = [(connect.shared_filter(config, name), qos) for name, qos in filters]
        self._subscriptions = Subscriptions(wanted, remembered or Remembered(), is_v5=self._is_v5, draw=draw)
        self._subscribing = Subscribing(self._subscriptions, self._waiting, config.connect_timeout_s, self._is_v5)
        self._publishing = Publishing(config.publish_wait_ms / 1000, is_v5=self._is_v5)
        self._is_subscribed = False
        self.duplicates = 0  # redeliveries of messages that were still in our hands

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached now."""
        return self._client is not None and self._client.is_connected

    @property
    def is_subscribed(self) -> bool:
        """Whether the broker has taken all of our subscriptions."""
        return self.is_connected and self._is_subscribed

    @property
    def protocol(self) -> int:
        """5 or 4 (3.1.1)."""
        return 5 if self._is_v5 else 4

    async def run(self) -> None:
        """Keep the connection until cancelled. Raises ConfigError on what no retry mends."""
        tls = connect.tls_context(self._config.tls, "source.tls")
        wish = self._config.reconnect
        backoff = Backoff(wish.initial_s, wish.max_s, wish.stable_s)
        while True:
            client = self._new_client()
            lost = asyncio.Event()
            client.on_disconnect = lambda _cause, lost=lost: lost.set()
            connack = await self._open(client, tls)
            if connack is not None:
                backoff.connected(self._clock.monotonic())
                await self._serve(client, connack, lost)
                backoff.lost(self._clock.monotonic())
            connect.stop_if_cancelled()
            delay_s = backoff.next_delay_s(self._draw())
            self._on_event("retry", {"delay_s": delay_s})
            await self._clock.sleep(delay_s)

    def messages(self) -> AsyncIterator[RawMessage]:
        """Messages in order of arrival, over reconnects; for one reader."""
        return self._waiting.take()

    async def ack(self, receipts: Sequence[Any]) -> None:
        """These messages have passed their durable point; None among them is passed over."""
        self._receipts.ack(receipt for receipt in receipts if receipt is not None)
        await self._send_acks()

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        content_type: str = "",
        properties: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Hand a message to the connection. False when it takes none now, or not this one (too large, bad topic)."""
        client = self._client
        if client is None or not client.is_connected:
            return False
        message = PublishMessage(topic, payload, qos, retain, self._publishing.properties(content_type, properties))
        return await self._publishing.publish(client, message)

    async def publish_all(
        self, topic: str, messages: Sequence[Outgoing], *, qos: int = 0, content_type: str = ""
    ) -> int:
        """Hand several messages to the connection, in order. How many it took."""
        client = self._client
        if client is None or not client.is_connected:
            return 0
        return await self._publishing.publish_all(client, topic, messages, qos, content_type)

    async def pause(self) -> None:
        """Give out no message any more; acknowledging goes on."""
        self._waiting.pause()

    # --- one connection

    def _new_client(self) -> ShortcutClient:
        config, will = self._config, self._status
        lasting = Properties({"session_expiry_interval": config.session_expiry_s}) if self._is_v5 else None
        return ShortcutClient(
            connect.client_id(config, self._gateway),
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_v5 else MQTTProtocolVersion.MQTTv311,
            clean_start=False,
            keepalive=config.keepalive_s,
            ping_timeout=config.keepalive_s / 2,
            username=config.username,
            password=self._password,
            connect_properties=lasting,
            will=PublishMessage(will.topic, will.offline, qos=1, retain=True) if will else None,
            maximum_packet_size=connect.MAX_PACKET_BYTES,
            max_inbound_inflight=_MAX_INFLIGHT,
            manual_ack=True,
            max_iterator_messages=min(_MAX_CLIENT_QUEUE, config.max_waiting_messages),
            max_iterator_bytes=None,
        )

    async def _open(self, client: ShortcutClient, tls: Any) -> ConnAckPacket | None:
        """The broker's answer, or None when there is no connection."""
        config = self._config
        try:
            if config.unix_socket:
                return await client.connect_unix(config.unix_socket, timeout=config.connect_timeout_s)
            return await client.connect(config.host, config.port, ssl=tls, timeout=config.connect_timeout_s)
        except UnicodeError as exc:  # a host name that no resolver takes
            raise ConfigError("source.host", f"{config.host!r} is no host name: {exc}") from exc
        except (MQTTError, OSError) as exc:
            self._report_failure(exc)
            return None

    def _report_failure(self, exc: Exception) -> None:
        self._on_event("lost", {"cause": type(exc).__name__})
        reason_code = exc.reason_code if isinstance(exc, ConnectRefusedError) else None
        hint = connect.hint(self._config.protocol, reason_code)
        if hint:
            log.error("the broker refused the connection", cause=str(exc), hint=hint)
        else:
            log.warning("the broker cannot be reached", broker=self._broker, cause=str(exc) or type(exc).__name__)

    async def _serve(self, client: ShortcutClient, connack: ConnAckPacket, lost: asyncio.Event) -> None:
        """Stay with a connection until it is lost. Cancelled: say that we are offline, and leave."""
        self._receipts.connected(session_present=connack.session_present)
        self._is_subscribed = self._is_subscribed and connack.session_present
        self._client = client
        self._on_event("connected", {"session_present": connack.session_present})
        log.info("connected to the broker", broker=self._broker, session_present=connack.session_present)
        client.open(self._take)
        try:
            connect.stop_if_cancelled()
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._pump(client), name="source-pump"),
                    tasks.create_task(self._send_due_acks(), name="source-acks"),
                    tasks.create_task(self._greet(client, connack, lost), name="source-greet"),
                    tasks.create_task(self._stay_alive(client), name="source-stay-alive"),
                ]
                await lost.wait()
                for task in running:
                    task.cancel()
        except asyncio.CancelledError:
            await self._leave(client)
            raise
        await self._lose(client)

    async def _pump(self, client: ShortcutClient) -> None:
        """Take messages from the client; when too many wait, the client stops reading its socket."""
        async for message in client.messages():
            if not self._take(client.arrived(message)):
                client.close()  # while anything waits here nothing may overtake it
                await self._waiting.room()
                client.open(self._take)

    async def _send_due_acks(self) -> None:
        while True:
            await self._acks_due.wait()
            await self._send_acks()

    async def _greet(self, client: ShortcutClient, connack: ConnAckPacket, lost: asyncio.Event) -> None:
        try:
            if not self._is_subscribed:
                self._is_subscribed = await self._subscribing.subscribe(client, connack)
            await self._announce(client)
        except (MQTTError, OSError) as exc:  # the link broke meanwhile, or the broker does not answer: start anew
            log.warning("subscribing failed", broker=self._broker, cause=str(exc) or type(exc).__name__)
            await client.disconnect()
            lost.set()

    async def _announce(self, client: ShortcutClient) -> None:
        if self._status is not None:
            await client.publish(self._status.topic, self._status.birth(), qos=1, retain=True)

    async def _stay_alive(self, client: ShortcutClient) -> None:
        """Be heard by the broker while intake holds us back.

        An unread socket hides the answer to a ping, MQTTium sends no second one before it, and the broker would hang up
        after one and a half times `keepalive_s`. Any packet of ours tells it that we are there.
        """
        while True:
            await asyncio.sleep(self._config.keepalive_s / 2)
            if self._waiting.is_full:
                await self._speak(client)

    async def _speak(self, client: ShortcutClient) -> None:
        topic = self._status.topic if self._status else f"gatewayd/{self._gateway}/status"
        payload = self._status.birth() if self._status else b""
        try:
            client.publish_nowait(topic, payload, qos=0, retain=self._status is not None)
        except MQTTError as exc:
            log.debug("no sign of life sent", cause=str(exc))

    async def _lose(self, client: ShortcutClient) -> None:
        self._client = None
        client.close()
        stats = client.stats()
        cause = stats.last_disconnect_error or "connection closed"
        hint = connect.hint(self._config.protocol, stats.last_disconnect_reason_code)
        self._on_event("lost", {"cause": cause.partition(":")[0]})
        (log.error if hint else log.warning)("lost the broker", broker=self._broker, cause=cause, hint=hint or None)
        await client.disconnect()
        async for message in client.messages():  # what was read before: the iterator ends with the last of it
            if not self._waiting.is_full:
                self._take(client.arrived(message))
            elif message.mid is None:  # QoS 0; a QoS 1 message comes again
                self._on_event("dropped", {"reason": "connection_lost"})

    async def _leave(self, client: ShortcutClient) -> None:
        self._client = None
        client.close()
        try:
            async with asyncio.timeout(_FAREWELL_S):
                if self._status is not None and client.is_connected:
                    receipt = await client.publish(self._status.topic, self._status.offline, qos=1, retain=True)
                    await receipt.wait()
        except (MQTTError, OSError, TimeoutError) as exc:
            log.warning("could not say goodbye to the broker", cause=str(exc) or type(exc).__name__)
        await client.disconnect()

    # --- one message

    def _take(self, arrived: Arrived) -> bool:
        """Put a message with those that wait; whether there is room for another."""
        topic, payload, mid, retain, dup, found, handle = arrived
        receipt = None
        same = b""
        if mid is not None:
            same = identity(mid, topic, payload)
            if dup and self._is_in_our_hands(mid, same, handle):
                return not self._waiting.is_full
            receipt = self._receipts.add(mid, same, handle)
        content_type, key = "", ""
        properties: tuple[tuple[str, str], ...] = ()
        if found:
            if self._subscriptions.can_tell_copies and self._is_copy(topic, found, receipt):
                return not self._waiting.is_full
            content_type, properties, key = _read_properties(topic, found)
        return self._waiting.put(
            RawMessage(
                topic=topic,
                payload=payload,
                time=self._clock.now(),
                key=key or self._keys.next(),
                qos=0 if mid is None else 1,
                retain=retain,
                dup=dup,
                content_type=content_type,
                properties=properties,
                identity=same,
                receipt=receipt,
            )
        )

    def _is_in_our_hands(self, mid: int, same: bytes, handle: Handle) -> bool:
        receipt = self._receipts.rebind(mid, same, handle)
        if receipt is None:
            return False
        self.duplicates += 1
        self._on_event("duplicate", {})
        if receipt.is_acked:
            self._acks_due.set()
        return True

    def _is_copy(self, topic: str, found: Properties, receipt: Receipt[Handle] | None) -> bool:
        """Another copy of a message taken through another subscription: acknowledged, and nobody hears of it."""
        if not self._subscriptions.is_copy(topic, found.get("subscription_identifier", ())):
            return False
        self._on_event("copy", {})
        if receipt is not None:
            receipt.is_acked = True
            self._acks_due.set()
        return True

    async def _send_acks(self) -> None:
        self._acks_due.clear()
        client = self._client
        if client is None:
            return
        async with self._acking:  # one after the other: PUBACKs leave in order also while one waits for room
            ready = list(self._receipts.ready())
            if not ready:
                return
            try:
                await client.acknowledge([handle for _, handle in ready])
            except MQTTError:
                for receipt, _ in ready:
                    self._receipts.keep(receipt)

    @property
    def _broker(self) -> str:
        return self._config.unix_socket or f"{self._config.host}:{self._config.port}"


def _read_properties(topic: str, found: Properties) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """Content type, user properties, and the key when the publisher named the message (CloudEvents binary mode)."""
    content_type = found.get("content_type", "")
    properties: tuple[tuple[str, str], ...] = found.get("user_property", ())
    if not properties:
        return content_type, (), ""
    attributes = dict(properties)
    id_, source = attributes.get("id"), attributes.get("source")
    return content_type, properties, publisher_key(topic, source, id_) if id_ and source else ""
